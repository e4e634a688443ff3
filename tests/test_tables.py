"""The tables: every published row, measured cells in columns of their own, and pages that are never out of date."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness import assets, plots, published, rows, tables
from harness.results import load_results
from harness.row_recipes import RowRecipes
from zoo import recipe, registry
from zoo.console import UserError
from zoo.signatures import Signatures

ROOT = Path(__file__).parent.parent
TINY = "tests/recipes/tiny.gin"
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
    "feature_network": {"identity": "1234567890"},
    "resolution": 32,
    "seed": 0,
    "commit": "abc",
    "scale": "mini",
    "recipe": TINY,
    "rows": ["toy/1:a"],
}
PAPER = f"""
title: Toys
awaited:
  - reason: nobody has built it
    rows:
      toy/1: [later]
tables:
  - id: toy/1
    title: Noise on toys
    dataset: toys
    protocol: {{samples_fid: 50000}}
    columns:
      fid_train: {{metric: fid, split: train, better: lower}}
      is: {{metric: is, split: null, better: higher}}
    rows:
      - {{id: a, label: A, resolution: 16, ours: true, settings: {{s: 50}},
         values: {{fid_train: 1.5, is: {{mean: 5.0, std: 0.1}}}}, recipe: {TINY}, mini: {{recipe: {TINY}, seeds: 2}}}}
      - {{id: b, label: B, resolution: 16, ours: true, settings: {{s: 100}}, values: {{fid_train: 2.5, is: 6.0}},
         recipe: {TINY}, bindings: ["sr/GaussianNoise.s = 100"],
         mini: {{recipe: {TINY}, bindings: ["sr/GaussianNoise.s = 1_00"]}}}}
      - {{id: later, label: Later, resolution: 16, ours: true, values: {{fid_train: null, is: null}}}}
      - {{id: theirs, label: Theirs, resolution: 16, values: {{fid_train: 9.0, is: null}}}}
"""
FIGURES = """figures:
  - {id: toy-s, title: Noise, table: toy/1, panels: [{x: s, y: fid}, {x: is, y: fid}]}
"""
WITH_FIGURES = PAPER.replace("tables:", FIGURES + "tables:", 1)


class Toys:
    """A paper, results and pages in a folder, and the command on them."""

    def __init__(self, folder: Path) -> None:
        self.papers, self.results, self.pages = folder / "papers", folder / "results", folder / "pages"
        self.papers.mkdir()
        self.write(PAPER)

    def write(self, text: str) -> None:
        (self.papers / "toy.yaml").write_text(text)

    def add(self, name: str, **changes: object) -> Path:
        """A result of row a, made by the recipe as it is."""
        identity = RowRecipes().identity(published.Way(TINY))
        path = self.results / name / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(RESULT | {"recipe_identity": identity} | changes))
        return path

    def run(self, *arguments: str) -> int:
        places = ["--papers", str(self.papers), "--results", str(self.results), "--out", str(self.pages)]
        return tables.main([*arguments, *places])

    def page(self) -> str:
        return (self.pages / "toy.md").read_text()

    def row(self, name: str) -> dict[str, str]:
        """Column -> cell of a row of the page."""
        lines = [line for line in self.page().splitlines() if line.startswith("| ")]
        split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        return dict(zip(split[0], next(line for line in split if line[0] == f"`{name}`"), strict=True))


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toys:
    batch = assets.Asset(
        "theirs_toys16", "samples", "https://example.org/theirs.npz", "theirs.npz", rows=("toy/1/theirs",)
    )
    reference = assets.Asset("toys16", "references", "https://example.org/toys.npz", "toys.npz")
    weights = assets.Asset(assets.INCEPTION_WEIGHTS[0], "feature networks", "https://example.org/w.pb", "w.pb")
    known = {each.name: each for each in (batch, reference, weights)}
    known |= {name: replace(weights, name=name) for name in assets.INCEPTION_WEIGHTS}
    monkeypatch.setattr(assets, "catalogue", lambda: known)
    monkeypatch.setenv("ZOO_ASSETS", str(tmp_path / "assets"))
    return Toys(tmp_path)


def test_every_row_of_every_paper_is_on_a_page(tmp_path):
    tables.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "pages")])
    line = next(x for x in (tmp_path / "pages" / "cdm.md").read_text().splitlines() if x.startswith("| `cdm-32` |"))
    assert [cell.strip() for cell in line.strip("|").split("|")][4:7] == ["1.11", "1.99", "26.01 ± 0.59"]
    count = 0
    for path in sorted((ROOT / "harness" / "papers").glob("*.yaml")):
        page = (tmp_path / "pages" / f"{path.stem}.md").read_text()
        for table in yaml.safe_load(path.read_text())["tables"]:
            section = page.partition(f"## {table['id']}: ")[2].partition("\n## ")[0]
            for row in table["rows"]:
                assert f"| `{row['id']}` |" in section, (table["id"], row["id"])
                count += 1
    assert count == 296 + 14 + 10  # the transcribed rows, those of two figures of ADM without values, distillation


# ---- the rows name their recipes


@pytest.fixture(scope="module")
def signatures() -> Signatures:
    return Signatures(registry.load())


def test_the_recipes_of_all_rows_are_right(signatures):
    ways = {way for paper in published.load_papers() for t in paper.tables for r in t.rows for way in r.ways.values()}
    assert ways
    for way in ways:
        mistakes = recipe.load(ROOT / way.recipe, way.bindings, signatures).check_names()
        assert not mistakes, (way, [str(mistake) for mistake in mistakes])


def test_the_awaited_rows_only_get_fewer():
    """A row leaves this list when it gets a recipe. Lower the number with it; it is never raised."""
    assert sum(len(paper.awaited) for paper in published.load_papers()) <= 187


def test_a_run_is_shown_beside_the_rows_that_it_reproduces():
    cdm = ROOT / "recipes" / "cdm_imagenet256.gin"
    assert rows.rows_of(cdm, ["SampleSet.count = 100"])[:2] == ["cdm/1a:cdm-256", "cdm/4b:flip-lr"]
    given = ["Pipeline.stages=[@base32/Stage(),@sr64/Stage()]", "sr64/GaussianNoise.s = 1_001"]
    assert rows.rows_of(cdm, given) == ["cdm/3a:non-truncated-s-1001"]
    assert rows.rows_of(ROOT / "recipes" / "quickstart.gin", []) == ["cdm/1a:cdm-32"]
    assert rows.rows_of(ROOT / TINY, []) == []


def test_a_row_that_names_what_nothing_reads_is_refused(toys):
    toys.write(PAPER.replace("label: Theirs", "lable: Theirs, label: X"))
    with pytest.raises(UserError, match=r"toy/1:theirs has an unknown field 'lable'"):
        toys.run("--check")
    toys.write(PAPER.replace("{recipe: tests/recipes/tiny.gin, seeds: 2}", "{seeds: 2}"))
    with pytest.raises(UserError, match=r"toy/1:a, mini: names no recipe"):
        toys.run("--check")
    with pytest.raises(UserError, match=r"table cdm/2b has no row 's-1'; its rows are no-cascading"):
        rows.select(["cdm/2b:s-1"], published.load_papers())


# ---- what makes two recipes one experiment


def identity(signatures: Signatures, *bindings: str) -> str:
    return recipe.load(ROOT / TINY, bindings, signatures).identity()


def test_comments_knobs_defaults_and_the_seed_change_no_experiment(signatures, tmp_path):
    plain = identity(signatures)
    other = tmp_path / "tiny.gin"
    other.write_text("# a comment\n" + (ROOT / TINY).read_text().replace("# ---- data", "# ---- all the data"))
    assert recipe.load(other, (), signatures).identity() == plain
    for binding in (
        "Pipeline.seed = 3",
        "Monitoring.log_every = 7",
        "SampleSet.batch = 5",
        "sr/GaussianNoise.smallest = 1",
    ):
        assert identity(signatures, binding) == plain, binding
    for binding in (
        "SampleSet.count = 61",
        "sr/GaussianNoise.s = 51",
        "Shapes.train = 401",
        "Evaluation.metrics = [@FID()]",
    ):
        assert identity(signatures, binding) != plain, binding


def test_a_frozen_recipe_is_the_same_experiment(signatures, tmp_path):
    asked = recipe.load(ROOT / TINY, ["sr/GaussianNoise.s = 51"], signatures)
    (tmp_path / "recipe.gin").write_text(asked.text())
    frozen = recipe.load(tmp_path / "recipe.gin", (), signatures)
    assert frozen.identity() == asked.identity()
    assert frozen.overrides() == asked.overrides() == recipe.plain(["sr/GaussianNoise.s=51"])


def test_stages_are_shared_where_their_training_is_the_same(signatures):
    def stages(*bindings: str) -> dict[str, tuple[str, str]]:
        return {x.name: (x.training, x.sampling) for x in recipe.load(ROOT / TINY, bindings, signatures).stages()}

    plain = stages()
    assert [x.steps for x in recipe.load(ROOT / TINY, (), signatures).stages()] == [60, 12]
    sampled = stages("sr/GaussianNoise.s = 51", "DDIMSampler.steps = 3")
    assert [sampled[name][0] for name in sampled] == [plain[name][0] for name in plain]
    assert sampled["sr"][1] != plain["sr"][1]
    trained = stages("sr/GaussianNoise.largest = 200")
    assert trained["base"] == plain["base"]
    assert trained["sr"][0] != plain["sr"][0]
    assert list(stages("Pipeline.stages = [@base/Stage()]").values()) == [plain["base"]]


def test_what_the_catalogue_calls_sampling_or_knobs_is_a_parameter(signatures):
    for name, component in signatures.registry.components.items():
        known = signatures.of(name).parameters
        assert {*component.sampling, *component.knobs} <= set(known), name


# ---- pages


def test_measured_cells_have_columns_of_their_own(toys):
    toys.add("x")
    toys.add("y", resolution=64, rows=["toy/1:b"], scale="full")
    toys.run()
    row = toys.row("a")
    assert row["FID-50k (Inception), train"] == "1.5"
    assert row["measured, mini: FID-2k (shapes classifier), shapes train 32x32"] == "12.35"
    assert row["measured: FID-2k (shapes classifier), shapes train 64x64"] == "-"
    assert row["measured, mini: IS-2k (shapes classifier), 10 splits, shapes train 32x32"] == "7.10 ± 0.20"
    assert not any("precision" in title for title in row)  # the table has no such metric
    assert row["recipe"] == f"`{TINY}`; mini: `{TINY}`"
    assert row["results"] == "[mini seed 0](../../results/x/result.json)"
    assert "`sr/GaussianNoise.s = 100`" in toys.row("b")["recipe"]
    assert toys.row("later")["recipe"] == "no recipe yet"
    assert "no recipe yet for `later`: nobody has built it" in toys.page()
    assert toys.row("theirs")["recipe"] == "published samples: `theirs_toys16`"


def test_a_number_against_another_reference_has_a_column_of_its_own(toys):
    reference = {"name": "shapes train", "others": {"fid_held_out": "shapes test"}}
    metrics, protocol = RESULT["metrics"] | {"fid_held_out": 13.0}, RESULT["protocol"] | {"fid_held_out": "FID-2k (x)"}
    toys.add("x", metrics=metrics, protocol=protocol, reference=reference)
    toys.run()
    row = toys.row("a")
    assert row["measured, mini: FID-2k (shapes classifier), shapes train 32x32"] == "12.35"
    assert row["measured, mini: FID-2k (x), shapes test 32x32"] == "13.00"


def test_several_seeds_are_a_mean_with_their_spread(toys):
    for seed, fid in enumerate((10.0, 11.0, 12.0)):
        toys.add(f"{seed}", seed=seed, metrics=RESULT["metrics"] | {"fid": fid})
    toys.run()
    row = toys.row("a")
    assert row["measured, mini: FID-2k (shapes classifier), shapes train 32x32"] == "11.00 ± 1.00 (3 seeds)"
    assert row["results"].count("](") == 3


def test_numbers_of_two_feature_networks_are_never_in_one_column(toys):
    toys.add("0")
    toys.add("1", seed=1, feature_network={"identity": "abcdef0123"})
    toys.run()
    row = toys.row("a")
    title = "measured, mini: FID-2k (shapes classifier), shapes train 32x32, network "
    assert row[title + "123456"] == row[title + "abcdef"] == "12.35"


def test_budgets_are_compared(toys):
    toys.add("a")
    toys.add("b", rows=["toy/1:b"])
    toys.run()
    assert "mini: training budget of every row: base 480 images, sr 96 images" in toys.page()
    toys.write(PAPER.replace('"sr/GaussianNoise.s = 1_00"', '"base/Training.steps = 70"'))
    toys.run()
    assert (
        "mini: training budgets differ: base 480 images, sr 96 images (a); base 560 images, sr 96 images (b)"
        in toys.page()
    )


def test_a_table_fits_the_screen(toys, capsys):
    toys.add("x")
    assert toys.run("toy/1") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Theirs" in shown
    assert "12.35" in shown
    assert "no recipe yet: later" in shown
    assert not toys.pages.exists()
    assert toys.run("toy/1", "--markdown") == 0
    assert capsys.readouterr().out.startswith("## toy/1: Noise on toys")
    with pytest.raises(UserError, match="there is no table 'toy/9'"):
        toys.run("toy/9")
    for paper in published.load_papers():
        tables.main([table.id for table in paper.tables])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_no_two_columns_of_a_table_have_one_title():
    for paper in published.load_papers():
        for table in paper.tables:
            titles = [column.protocol(table) for column in table.columns]
            assert len(set(titles)) == len(titles), (table.id, titles)


# ---- figures


def test_figures_keep_published_and_measured_points_apart(toys):
    toys.add("0")
    toys.add("1", seed=1, metrics=RESULT["metrics"] | {"fid": 14.345})
    toys.add("b", rows=["toy/1:b"])
    toys.write(WITH_FIGURES)
    figure = tables.load(toys.papers, toys.results).figures["toy-s"]
    over_s, over_is = figure.panels
    assert [axis.measured for axis in over_s] == [False, True]
    assert over_s[0].curves[0].points == ((50.0, 1.5, None), (100.0, 2.5, None))
    (x, y, spread), second = over_s[1].curves[0].points
    assert (x, y, second) == (50.0, pytest.approx(13.345), (100.0, 12.345, None))
    assert spread == pytest.approx(2**0.5)
    assert over_is[0].curves[0].points == ((5.0, 1.5, None), (6.0, 2.5, None))
    assert over_is[1].x == "IS-2k (shapes classifier), 10 splits, shapes train 32x32"
    assert over_s[1].y == "FID-2k (shapes classifier), shapes train 32x32"


def test_a_figure_is_the_same_bytes_each_time_and_knows_its_data(toys, tmp_path):
    toys.write(WITH_FIGURES)
    figure = tables.load(toys.papers, toys.results).figures["toy-s"]
    content = plots.draw(figure)
    assert content == plots.draw(figure)
    assert len(content) < 100_000
    path = tmp_path / "x.svg"
    assert not plots.is_current(path, figure)
    path.write_bytes(content)
    assert plots.is_current(path, figure)
    path.write_bytes(content[:-20])  # cut short
    assert not plots.is_current(path, figure)
    toys.add("0")
    path.write_bytes(content)
    assert not plots.is_current(path, tables.load(toys.papers, toys.results).figures["toy-s"])


# ---- check


def problems(toys: Toys, capsys: pytest.CaptureFixture[str]) -> str:
    """What --check says of pages that were just written."""
    toys.run()
    capsys.readouterr()
    code = toys.run("--check")
    said = capsys.readouterr().out
    assert code == bool(said)
    return said


def test_check_fails_until_the_pages_are_written(toys, capsys):
    toys.write(WITH_FIGURES)
    assert toys.run("--check") == 1
    assert "toy-s.svg is not there" in capsys.readouterr().out
    assert toys.run() == 0
    assert toys.run("--check") == 0
    assert "![Noise](figures/toy-s.svg)" in toys.page()
    toys.add("x")
    capsys.readouterr()
    assert toys.run("--check") == 1
    said = capsys.readouterr().out
    assert "toy.md is out of date" in said
    assert "toy-s.svg is out of date" in said
    toys.run()
    (toys.pages / "old.md").write_text("of a paper that is gone")
    (toys.pages / "figures" / "old.svg").write_text("of a figure that is gone")
    assert toys.run("--check") == 1
    toys.run()
    assert not (toys.pages / "old.md").exists()
    assert not (toys.pages / "figures" / "old.svg").exists()


def test_check_wants_a_recipe_or_a_reason_for_every_row_of_ours(toys, capsys):
    assert problems(toys, capsys) == ""
    toys.write(PAPER.replace("toy/1: [later]", "toy/1: []"))
    assert "toy/1:later is of the paper's own system and has no recipe" in problems(toys, capsys)
    toys.write(PAPER.replace("toy/1: [later]", "toy/1: [later, a]"))
    assert "toy/1:a has a recipe and is awaited all the same" in problems(toys, capsys)
    toys.write(PAPER.replace("toy/1: [later]", "toy/1: [later, theirs]"))
    assert "toy/1:theirs is awaited, but it is not of the paper's own system" in problems(toys, capsys)
    toys.write(PAPER.replace("toy/1: [later]", "toy/1: [later, gone]"))
    assert "awaits toy/1:gone, which is no row" in problems(toys, capsys)
    toys.write(PAPER.replace(f"recipe: {TINY}, mini", "recipe: recipes/gone.gin, mini"))
    assert "toy/1:a names the recipe recipes/gone.gin, which is not there" in problems(toys, capsys)


def test_a_row_of_speeds_names_the_script_that_measures_them(toys, capsys):
    speed = PAPER.replace(f"mini: {{recipe: {TINY}, seeds: 2}}", "benchmark: benchmarks/gone.py")
    toys.write(speed)
    assert "toy/1:a names the benchmark benchmarks/gone.py, which is not there" in problems(toys, capsys)
    toys.write(speed.replace("gone.py", "sampling.py"))
    assert "toy/1:a" not in problems(toys, capsys)
    toys.run()
    assert toys.row("a")["recipe"] == f"`python benchmarks/sampling.py`: `{TINY}`"


def test_check_finds_results_whose_recipe_changed(toys, capsys):
    path = toys.add("x")
    assert problems(toys, capsys) == ""
    toys.write(PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, bindings: ['SampleSet.count = 61'], seeds: 2"))
    said = problems(toys, capsys)
    assert "results/x/result.json: the recipe of toy/1:a has changed since; measure it again" in said
    toys.write(PAPER.replace(f", mini: {{recipe: {TINY}, seeds: 2}}", ""))
    assert "toy/1:a names no recipe at scale mini" in problems(toys, capsys)
    toys.write(PAPER)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "recipe_identity"}))
    assert "it does not say which recipe made it" in problems(toys, capsys)


def test_a_stale_result_is_shown_as_such(toys, capsys):
    toys.add("x", recipe_identity="of an older recipe")
    marks = toys.results / "stale.yaml"
    marks.write_text("x/result.json: {commit: abc, reason: made with other random numbers}\n")
    assert problems(toys, capsys) == ""
    assert toys.row("a")["measured, mini: FID-2k (shapes classifier), shapes train 32x32"] == "12.35 (stale)"
    assert "stale: `results/x/result.json`: made with other random numbers" in toys.page()
    marks.write_text("x/result.json: {commit: before, reason: made with other random numbers}\n")
    said = problems(toys, capsys)
    assert "x/result.json of commit before stale, which is not there or was measured again" in said
    assert "has changed since" in said
    marks.write_text("x/result.json: stale\n")
    with pytest.raises(UserError, match="must map results to"):
        load_results(toys.results)


def test_check_finds_two_results_of_one_row_and_seed(toys, capsys):
    toys.add("x")
    toys.add("y")
    assert "results/y/result.json and results/x/result.json are both of toy/1:a, mini, seed 0" in problems(toys, capsys)


def test_what_is_wrong_with_a_result_is_named(toys):
    path = toys.add("a", rows=["cdm/1a:cdm-33"])
    with pytest.raises(UserError, match=r"results/a/result\.json names the published row 'cdm/1a:cdm-33'"):
        toys.run()
    path.write_text("{")
    with pytest.raises(UserError, match="is not a result"):
        toys.run()
    path.write_text("{}")
    with pytest.raises(UserError, match="lacks metrics, protocol"):
        toys.run()


def test_the_command_imports_no_tensorflow():
    code = (
        "import sys; from harness import tables; tables.main(['cdm/2b']); tables.main(['--check'])\n"
        "assert not {'tensorflow', 'keras', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_tables_of_the_project_are_current():
    assert tables.main(["--check"]) == 0


def test_arguments_that_do_not_go_together(toys):
    for arguments in (["--run", "toy/1", "--check"], ["--dry-run"], ["--seeds", "2"], ["--from", "published"]):
        with pytest.raises(UserError, match="--run"):
            toys.run(*arguments)
    with pytest.raises(UserError, match="--seeds must be positive, got 0"):
        toys.run("--run", "toy/1", "--seeds", "0")
