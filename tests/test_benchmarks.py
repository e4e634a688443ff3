"""The benchmarks start, read their arguments, and fill their page from figures; nothing is timed here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.stem not in ("yardsticks", "run"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of benchmarks/ as the others there do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def module(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        found = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return found

    return module


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_how_it_is_used(script: str):
    command = [sys.executable, str(BENCHMARKS / script), "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--json" in result.stdout


def test_every_script_is_run_and_has_its_place(load):
    run = load("run")
    assert set(SCRIPTS) <= {benchmark.script for benchmark in run.BENCHMARKS.values()}
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in run.BENCHMARKS:
        assert text.count(f"<!-- figures: {name} -->") == 1


def test_the_page_takes_figures_and_keeps_the_rest(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    run, yardsticks = load("run"), load("yardsticks")
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text("# Mine\n\n<!-- figures: start_up -->\nold\n<!-- end -->\n\nby hand\n")
    monkeypatch.setattr(run, "PAGE", page)
    monkeypatch.setattr(run, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    figures = {"import": {"seconds": 3.25, "ratio_to_yardstick": 0.5}, "empty": {"seconds": None}, "load_count": 7}
    yardsticks.write_figures(tmp_path / "results" / "start_up.json", "start-up", figures)
    for _ in range(2):
        run.render()
        text = page.read_text()
        assert "| import | 3.25 s | ratio to yardstick **0.50** |" in text
        assert "| empty | seconds - | - |" in text
        assert "| all | load count 7 | - |" in text
        assert "old" not in text
        assert text.startswith("# Mine")
        assert text.count("by hand") == 1
        assert text.count("Not measured yet.") == len(run.BENCHMARKS) - 1
    written = json.loads((tmp_path / "results" / "start_up.json").read_text())
    assert set(written) == {"name", "machine", "figures"}
    assert written["machine"]["words"] in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("images_per_second", 25_123.4, "images 25,123/s"),
        ("disk_write_bytes_per_second", 9.5e8, "disk write 950 MB/s"),
        ("matrix_rate", 4.6e11, "matrix rate 460 GFLOP/s"),
        ("fraction_of_matrix_rate", 0.644, "fraction of matrix rate **0.64**"),
        ("sqrtm_seconds", 9.66, "sqrtm 9.66 s"),
        ("flops_an_image", 3.64e9, "an image 3.64 GFLOP"),
        ("activation_bytes", 3 * 2**20, "activation 3.0 MiB"),
        ("note", "left out", "note left out"),
    ],
)
def test_a_figure_is_said_with_its_unit(load, key: str, value: float, words: str):
    assert load("run").worded(key, value) == words


def test_yardsticks_are_numbers_of_this_machine(load, tmp_path: Path):
    yardsticks = load("yardsticks")
    assert yardsticks.matrix_rate(size=64, repeats=1) > 0
    assert yardsticks.matrix_rate("bfloat16", size=64, repeats=1) > 0
    assert min(yardsticks.disk_rates(tmp_path, 2**20)) > 0
    assert yardsticks.sqrtm_seconds(8) > 0
    assert not list(tmp_path.iterdir())


def test_photos_are_made_at_the_usual_size(load, tmp_path: Path):
    from PIL import Image

    from zoo.data.crops import CenterCrop

    load("input_pipeline").write_photos(tmp_path, count=2)
    (file,) = (tmp_path / "train").rglob("*.jpg")
    with Image.open(file) as photo:
        assert photo.size == (500, 375)
    assert min(load("yardsticks").pillow_rates([file.read_bytes()], CenterCrop().cut, 256)) > 0


def test_a_name_that_no_script_has_is_refused():
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--only", "everything"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "invalid choice: 'everything'" in result.stderr
