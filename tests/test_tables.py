"""The tables: every published row, measured cells in columns of their own, and pages that are never out of date."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness import published, tables
from zoo import registry
from zoo.console import UserError

ROOT = Path(__file__).parent.parent
RESULT = {
    "metrics": {"fid": 12.345, "is_mean": 7.1, "is_std": 0.2, "precision": 0.61, "cas_top1": 0.2},
    "floor": {"fid": 1.0},
    "protocol": {
        "fid": "FID-2k (shapes classifier)",
        "is_mean": "IS-2k (shapes classifier), 10 splits",
        "precision": "precision-2k (shapes classifier)",
        "cas_top1": "CAS-2k (small CNN), top 1",
    },
    "reference": {"name": "shapes train"},
    "resolution": 32,
    "recipe": "recipes/quickstart.gin",
    "rows": ["cdm/1a:cdm-32"],
}


def write_result(folder: Path, name: str, **changes: object) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(json.dumps(RESULT | changes))


def make(tmp_path: Path, *arguments: str) -> int:
    return tables.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "pages"), *arguments])


def cells(page: str, row: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| `{row}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_of_every_paper_is_on_a_page(tmp_path):
    make(tmp_path)
    count = 0
    for path in sorted((ROOT / "harness" / "papers").glob("*.yaml")):
        page = (tmp_path / "pages" / f"{path.stem}.md").read_text()
        for table in yaml.safe_load(path.read_text())["tables"]:
            section = page.partition(f"## {table['id']}: ")[2].partition("\n## ")[0]
            for row in table["rows"]:
                assert f"| `{row['id']}` |" in section, (table["id"], row["id"])
                count += 1
    assert count == 296


def test_published_cells_are_as_printed(tmp_path):
    make(tmp_path)
    page = (tmp_path / "pages" / "cdm.md").read_text()
    assert cells(page, "cdm-32")[4:7] == ["1.11", "1.99", "26.01 ± 0.59"]
    assert cells(page, "biggan-deep-64")[4:7] == ["4.06", "-", "-"]


def test_measured_cells_have_columns_of_their_own(tmp_path):
    write_result(tmp_path / "results", "quickstart")
    write_result(tmp_path / "results", "other", resolution=64, rows=["cdm/1a:cdm-64", "cdm/1b:cdm-256"])
    make(tmp_path)
    page = (tmp_path / "pages" / "cdm.md").read_text()
    head = next(line for line in page.splitlines() if "measured: FID-2k" in line)
    assert "measured: FID-2k (shapes classifier), shapes train 32x32" in head
    assert "measured: FID-2k (shapes classifier), shapes train 64x64" in head
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    row = dict(zip(titles, cells(page, "cdm-32"), strict=True))
    assert row["measured: FID-2k (shapes classifier), shapes train 32x32"] == "12.35"
    assert row["measured: FID-2k (shapes classifier), shapes train 64x64"] == "-"
    assert row["measured: IS-2k (shapes classifier), 10 splits, shapes train 32x32"] == "7.10 ± 0.20"
    assert row["FID-50k (Inception), train"] == "1.11"
    assert not any("precision" in title for title in titles)  # the table has no such metric
    assert "`results/quickstart/result.json`" in page
    assert "CAS-2k (small CNN), top 1, shapes train 64x64" in page


def test_rows_come_from_the_registry_where_a_result_names_none(tmp_path):
    write_result(tmp_path, "quickstart", rows=None)
    entry = registry.RecipeEntry("q", "recipes/quickstart.gin", "", None, "shapes", rows=("adm/4:x",))
    assert tables.load_results(tmp_path, {"q": entry})[0].rows == ("adm/4:x",)


def test_check_fails_until_the_pages_are_written(tmp_path, capsys):
    assert make(tmp_path, "--check") == 1
    assert make(tmp_path) == 0
    assert make(tmp_path, "--check") == 0
    write_result(tmp_path / "results", "quickstart")
    capsys.readouterr()
    assert make(tmp_path, "--check") == 1
    assert "cdm.md is out of date" in capsys.readouterr().out
    make(tmp_path)
    (tmp_path / "pages" / "old.md").write_text("of a paper that is gone")
    assert make(tmp_path, "--check") == 1
    make(tmp_path)
    assert not (tmp_path / "pages" / "old.md").exists()


def test_what_is_wrong_is_named(tmp_path):
    write_result(tmp_path / "results", "a", rows=["cdm/1a:cdm-33"])
    with pytest.raises(UserError, match=r"results/a/result\.json names the published row 'cdm/1a:cdm-33'"):
        make(tmp_path)
    (tmp_path / "results" / "a" / "result.json").write_text("{")
    with pytest.raises(UserError, match="is not a result"):
        make(tmp_path)
    (tmp_path / "results" / "a" / "result.json").write_text("{}")
    with pytest.raises(UserError, match="lacks metrics, protocol"):
        make(tmp_path)
    with pytest.raises(UserError, match="there is no table 'cdm/9'"):
        tables.main(["cdm/9"])


def test_a_table_is_shown_on_the_screen(tmp_path, capsys):
    assert make(tmp_path, "cdm/2b") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("## cdm/2b: ")
    assert "`s-101`" in shown
    assert "cdm/3a" not in shown
    assert not (tmp_path / "pages").exists()


def test_no_two_columns_of_a_table_have_one_title():
    for paper in published.load_papers():
        for table in paper.tables:
            titles = [column.protocol(table) for column in table.columns]
            assert len(set(titles)) == len(titles), (table.id, titles)


def test_the_command_imports_no_tensorflow():
    code = "import sys; from harness import tables; tables.main(['cdm/2b']); assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
