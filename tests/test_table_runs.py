"""Rows measured by a command: what rows share is made once, a stop or a failure costs one row, results are filed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image
from test_tables import PAPER, RESULT, ROOT, TINY, Toys, toys

from harness import assets, choices, evaluate, pace, published_batches, table_plan, table_runs, tables
from harness.cache import Cache
from harness.features.network import Extractor, FeatureNetwork
from harness.images import RealImages
from harness.small_pictures import small_png
from zoo import recipe
from zoo import run as zoo_run
from zoo.console import Terminated, UserError

__all__ = ["toys"]  # the fixture
COSTS = {
    "stages": [
        {"name": "base", "steps": 60, "training_seconds": 600.0, "sampling_seconds": 60.0},
        {"name": "sr", "steps": 12, "training_seconds": 120.0, "sampling_seconds": 0.0},
    ]
}


class Zoo:
    """Stands for zoo.run: reads the recipe, and leaves the files that a run leaves; counts what it had to make."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.sampled: list[str] = []
        self.codes: list[int] = []
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.commands.append(command)
        given = [command[place + 1] for place, part in enumerate(command) if part == "--gin_bindings"]
        asked = recipe.load(ROOT / command[command.index("--recipe") + 1], given)
        workdir = Path(command[command.index("--workdir") + 1])
        for stage in asked.stages():
            final = workdir / "stages" / stage.name / "checkpoints" / f"{stage.steps:08d}"
            if not final.is_dir():
                self.trained.append(stage.name)
                final.mkdir(parents=True)
                (final / "manifest.json").write_text("{}")
            if not (workdir / "samples" / stage.name).is_dir():
                self.sampled.append(stage.name)
                (workdir / "samples" / stage.name).mkdir(parents=True)
                (workdir / "samples" / stage.name / "shard-00000.npz").write_bytes(b"samples")
        code = self.codes.pop(0) if self.codes else 0
        if code == 0:
            (workdir / "recipe.gin").write_text(asked.text())
            (workdir / "results").mkdir(exist_ok=True)
            seed = int(given[-1].rpartition("=")[2])
            assert given[-1].startswith("Pipeline.seed")
            result = RESULT | {"recipe_identity": asked.identity(), "seed": seed, "rows": []}
            result["metrics"] = RESULT["metrics"] | {"fid": 10.0 + seed}
            (workdir / "results" / "sr.json").write_text(json.dumps(result))
            noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
            Image.fromarray(noise).save(workdir / "results" / "sr.png")
        return code


class Bench:
    """Toys with a work directory, and --run on them."""

    def __init__(self, toys: Toys, folder: Path) -> None:
        self.toys, self.workdir, self.zoo = toys, folder / "runs", Zoo()
        self.pages = 0

    def plan(self, *ids: str, scale: str = "mini", seeds: int | None = None) -> table_plan.Plan:
        loaded = tables.load(self.toys.papers, self.toys.results)
        return table_plan.plan(loaded, ids or ["toy/1"], scale, seeds, self.workdir)

    def run(self, *ids: str, dry_run: bool = False, **asked: object) -> int:
        return table_runs.run(
            self.plan(*ids, **asked), self.toys.results, self.written, dry_run, self.zoo, lambda recipe: COSTS
        )

    def written(self) -> None:
        self.pages += 1
        self.toys.run()


@pytest.fixture
def bench(toys: Toys, tmp_path: Path) -> Bench:
    return Bench(toys, tmp_path)


def test_what_rows_share_is_made_once(bench, capsys):
    assert bench.run() == 0
    # a at two seeds, b at one: b has the stages of a's first seed, and its base samples
    assert bench.zoo.trained == ["base", "sr", "base", "sr"]
    assert bench.zoo.sampled == ["base", "sr", "base", "sr", "sr"]
    row = bench.toys.row("a")
    assert row["measured, mini: FID-2k (shapes classifier), shapes train 32x32"] == "10.50 ± 0.71 (2 seeds)"
    assert bench.pages == 3
    assert bench.toys.run("--check") == 0
    filed = json.loads((bench.toys.results / "toy/1/b/mini-0/result.json").read_text())
    assert filed["rows"] == ["toy/1:b"]
    assert filed["bindings"] == ["sr/GaussianNoise.s = 1_00", "Pipeline.seed = 0"]
    picture = bench.toys.results / "toy/1/a/mini-0/grid.png"
    assert picture.stat().st_size <= 300_000
    assert not (bench.toys.results / "toy/1/a/mini-1/grid.png").exists()
    for seed in (0, 1):
        assert (bench.workdir / f"toy/1/a/mini-{seed}/cache").resolve() == bench.workdir / "cache"
    capsys.readouterr()
    assert bench.run() == 0
    said = capsys.readouterr().out
    assert len(bench.zoo.trained) == 4
    assert "measured   toy/1:a seed 1: results/toy/1/a/mini-1/result.json" in said
    assert "0 of 3 to measure" in said


def test_what_will_be_done_is_said_first(bench, capsys):
    assert bench.run(dry_run=True) == 0
    said = capsys.readouterr().out
    assert "left out   toy/1:later: nobody has built it" in said
    assert "missing    toy/1:b seed 0: trains base 60 steps, trains sr 12 steps, 60 samples" in said
    assert "toy/1: training budget of every row: base 480 images, sr 96 images" in said
    # three rows of 60 s of sampling, and the stages of two seeds: 2 x 720 s
    assert f"3 of 3 to measure in {bench.workdir}; about 27 min, by the FLOPs and the speed of this machine" in said
    assert not bench.zoo.trained
    assert not bench.toys.results.exists()


def test_a_row_that_fails_costs_itself_alone(bench, capsys):
    bench.zoo.codes = [0, 2]
    assert bench.run() == 1
    said = capsys.readouterr().out
    assert "failed: toy/1:a seed 1: zoo.run ended with exit code 2" in said
    assert "1 of 3 failed: toy/1:a seed 1; the same command tries them again" in said
    assert len(bench.plan().open) == 1
    capsys.readouterr()
    assert bench.run() == 0
    assert "base is trained, sr is trained" in capsys.readouterr().out
    assert len(bench.zoo.trained) == 4


@pytest.mark.parametrize(("code", "error"), [(75, Terminated), (130, KeyboardInterrupt)])
def test_a_stop_stops_the_table(bench, code: int, error: type[BaseException]):
    bench.zoo.codes = [0, code]
    with pytest.raises(error):
        bench.run()
    assert [job.name for job in bench.plan().open] == ["toy/1:a seed 1", "toy/1:b seed 0"]


def test_time_left_follows_the_pace(bench, capsys):
    bench.run("toy/1:a", seeds=1)
    memory = bench.workdir / "pace.json"
    assert json.loads(memory.read_text())["estimated"] == 780.0
    memory.write_text(json.dumps({"estimated": 780.0, "seconds": 7800.0}))
    capsys.readouterr()
    bench.run("toy/1:b", dry_run=True)  # stages are trained: 60 s of sampling, ten times as long
    assert "about 10 min, by the pace of rows so far" in capsys.readouterr().out
    clock = pace.Pace(bench.plan("toy/1:b"), lambda recipe: None)
    shutil.rmtree(bench.workdir / "costs")
    assert clock.left(bench.plan("toy/1:b").open) == ""
    assert [pace.duration(s) for s in (40, 700, 7800, 300_000)] == ["40 s", "12 min", "2 h 10 min", "3 days 11 h"]


def test_seeds_and_rows_can_be_chosen(bench):
    assert [job.name for job in bench.plan("toy/1:b", seeds=3).jobs] == [f"toy/1:b seed {seed}" for seed in range(3)]
    assert [job.name for job in bench.plan("toy/1:a", "toy/1:b", scale="full").jobs] == [
        "toy/1:a seed 0",
        "toy/1:b seed 0",
    ]
    with pytest.raises(UserError, match=r"no row has a recipe at scale mini \(toy/1:later: nobody has built it\)"):
        bench.plan("toy/1:later")
    with pytest.raises(UserError, match="table toy/1 has no row 'c'"):
        bench.plan("toy/1:c")


def test_changed_and_stale_results_are_measured_again(bench):
    bench.toys.add("x", recipe_identity="another")
    assert bench.plan("toy/1:a", seeds=1).open[0].reason == "changed"
    (bench.toys.results / "stale.yaml").write_text("x/result.json: {commit: abc, reason: old}\n")
    assert bench.plan("toy/1:a", seeds=1).open[0].reason == "stale"
    assert not bench.plan("toy/1:a", seeds=2).jobs[0].measured


def test_another_recipe_of_a_row_takes_no_stage_of_the_old_one(bench):
    bench.run("toy/1:a", seeds=1)
    bench.toys.write(PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, bindings: ['sr/Training.steps = 14'], seeds: 2"))
    job = bench.plan("toy/1:a", seeds=1).open[0]
    assert job.reason == "changed"
    (job.workdir / "recipe.gin").write_text("of the old recipe")
    bench.run("toy/1:a", seeds=1)
    assert bench.zoo.trained == ["base", "sr", "sr"]
    assert "sr/Training.steps = 14" in (job.workdir / "recipe.gin").read_text()
    assert len(list((bench.workdir / "stages").iterdir())) == 3


def test_another_checkpoint_of_a_row_is_another_measurement(bench):
    bench.run("toy/1:a", seeds=1)
    bench.toys.write(PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, checkpoint: 50, seeds: 2"))
    assert bench.plan("toy/1:a", seeds=1).open[0].reason == "changed"
    bench.run("toy/1:a", seeds=1)
    assert bench.zoo.commands[-1][-2:] == ["--checkpoint", "50"]
    assert not bench.plan("toy/1:a", seeds=1).open
    assert "checkpoint 50" in bench.toys.row("a")["recipe"]


def test_a_row_that_looks_at_its_training_twice_has_two_results(bench, capsys):
    looked = "checkpoint: [50, 60], seeds: 1"
    bench.toys.write(PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, {looked}"))
    assert bench.run("toy/1:a") == 0
    assert [command[-1] for command in bench.zoo.commands] == ["50", "60"]
    assert bench.zoo.trained == ["base", "sr"]
    assert bench.zoo.sampled == ["base", "sr", "base", "sr"]
    row = bench.toys.row("a")
    for step in (50, 60):
        protocol = f"FID-2k (shapes classifier), shapes train 32x32, checkpoint {step}"
        assert row[f"measured, mini: {protocol}"] == "10.00"
    assert "checkpoints 50 and 60" in row["recipe"]
    assert bench.toys.run("--check") == 0
    assert not bench.plan("toy/1:a").open
    bench.toys.write(PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, {looked.replace('60', '40')}"))
    assert [job.name for job in bench.plan("toy/1:a").open] == ["toy/1:a seed 0 checkpoint 40"]


def test_what_stands_in_the_way_is_named(bench, capsys):
    place = bench.workdir / "toy/1/a/mini-0/stages/base"
    place.mkdir(parents=True)
    assert bench.run("toy/1:a", seeds=1) == 1
    assert f"{place} is in the way of a link" in capsys.readouterr().out


def test_a_command_is_stopped_with_this_process(monkeypatch):
    class Process:
        ended = False

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                raise Terminated
            return 75

        def terminate(self) -> None:
            self.ended = True

    assert table_runs.start([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    process = Process()
    monkeypatch.setattr(subprocess, "Popen", lambda command, cwd: process)
    with pytest.raises(Terminated):
        table_runs.start(["anything"])
    assert process.ended


def test_pictures_are_made_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(small_png(tmp_path / "noise.png")) <= 300_000
    Image.fromarray(noise // 255).save(tmp_path / "plain.png")
    (tmp_path / "small.png").write_bytes(small_png(tmp_path / "plain.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "small.png")), noise // 255)


@pytest.fixture
def real_zoo(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    """zoo.run in this process, which has TensorFlow already."""

    def begin(command: Sequence[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "zoo.run"]
        monkeypatch.setattr(sys, "argv", ["zoo.run", *command[3:]])
        with flagsaver.flagsaver():
            return zoo_run.main()

    return begin


def test_a_table_from_nothing(bench, real_zoo):
    """Two rows that differ in sampling: the second trains nothing, and the page has both."""
    one = ["Pipeline.stages = [@base/Stage()]", "Evaluation.metrics = [@FID()]", "base/Training.steps = 2"]
    small = [*one, "SampleSet.count = 12", "Shapes.train = 60", "Shapes.test = 40"]
    text = PAPER.replace(f"{TINY}, seeds: 2", f"{TINY}, bindings: {json.dumps(small)}")
    other = json.dumps([*small, "DDIMSampler.steps = 2"])
    bench.toys.write(text.replace('["sr/GaussianNoise.s = 1_00"]', other))
    bench.zoo = real_zoo
    assert bench.run() == 0
    assert bench.toys.run("--check") == 0
    title = next(name for name in bench.toys.row("a") if name.startswith("measured, mini: FID-12"))
    assert float(bench.toys.row("a")[title]) != float(bench.toys.row("b")[title])
    first, second = (json.loads((bench.toys.results / f"toy/1/{row}/mini-0/result.json").read_text()) for row in "ab")
    assert first["samples"]["base"]["checkpoint"] == second["samples"]["base"]["checkpoint"]
    assert first["feature_network"] == second["feature_network"]
    assert (bench.workdir / "toy/1/b/mini-0/recipe.gin").is_file()
    assert len(list((bench.workdir / "stages").glob("base-*/checkpoints/00000002"))) == 1


# ---- samples that authors published


class Corners(Extractor):
    """Stands for Inception: features of every kind, without weights."""

    title, identity, batch, at_once = "Inception", "corners", 50, 50
    facts = {"title": title, "identity": identity, "dimensions": 3, "input": "uint8", "resize": "none", "weights": ""}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pooled = images.mean(axis=(1, 2), dtype=np.float32)
        return {"pooled": pooled, "logits": pooled / 50, "spatial": images[:, 0, :4, 0].astype(np.float32)}


class CornersNetwork(FeatureNetwork):
    gives = frozenset({"pooled", "logits", "spatial"})

    def check(self, real: RealImages) -> None:
        pass

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        return Corners()


def write_batches(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A sample batch, and a reference batch as ADM publishes them: statistics of all images, and some of the images."""
    folder.mkdir()
    (folder / "w.pb").write_bytes(b"weights")
    generator = np.random.default_rng(1)
    theirs, real = (generator.integers(0, high, (120, 16, 16, 3), dtype=np.uint8) for high in (200, 256))
    found = Corners()(real)
    statistics = {}
    for mark, kind in (("", "pooled"), ("_s", "spatial")):
        statistics |= {
            f"mu{mark}": found[kind].mean(0),
            f"sigma{mark}": np.cov(found[kind].astype(float), rowvar=False),
        }
    np.savez(folder / "theirs.npz", arr_0=theirs)
    np.savez(folder / "toys.npz", arr_0=real[:60], **statistics)
    return theirs, real


@pytest.fixture
def batches(toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """--run --from published on files in the asset folder, scored by harness.evaluate in this process."""
    write_batches(tmp_path / "assets")
    monkeypatch.setattr(choices, "feature_network", lambda word, *rest: {"inception": CornersNetwork}[word]())
    monkeypatch.setenv("ZOO_OFFLINE", "0")  # evaluate sets it: undone afterwards

    def score(command: Sequence[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "harness.evaluate"]
        evaluate.main(command[3:])
        return 0

    def run(dry_run: bool = False, begin: Callable[[Sequence[str]], int] = score) -> int:
        loaded = tables.load(toys.papers, toys.results)
        places = (tmp_path / "runs", toys.results, lambda: toys.run())
        return published_batches.run(loaded, ["toy/1"], *places, offline=True, dry_run=dry_run, begin=begin)

    return run


def test_published_samples_become_a_measured_column(toys, batches, capsys):
    assert batches(dry_run=True) == 0
    assert "missing   theirs_toys16 against toys16: toy/1:theirs" in capsys.readouterr().out
    assert batches() == 0
    result = json.loads((toys.results / "toy/1/theirs/published/result.json").read_text())
    assert {"fid", "sfid", "is_adm", "precision", "recall"} <= set(result["metrics"])
    assert (result["rows"], result["batch"], result["scale"]) == (["toy/1:theirs"], "theirs_toys16", "published")
    title = next(name for name in toys.row("theirs") if "FID-120 (Inception)" in name)
    assert title.startswith("measured on the published samples: ")
    # means 99.5 and 127.5 in three channels, and little else
    assert float(toys.row("theirs")[title]) == pytest.approx(3 * 28**2, rel=0.02)
    assert toys.row("a")[title] == "-"
    assert toys.run("--check") == 0
    capsys.readouterr()
    assert batches() == 0
    assert "0 of 1 batches to score" in capsys.readouterr().out


def test_a_batch_that_cannot_be_scored(toys, batches, tmp_path, capsys, monkeypatch):
    assert batches(begin=lambda command: 2) == 1
    assert "failed: theirs_toys16: harness.evaluate ended with exit code 2" in capsys.readouterr().out
    (tmp_path / "assets" / "theirs.npz").unlink()
    assert batches() == 1
    assert "theirs_toys16 is not here: put https://example.org/theirs.npz at" in capsys.readouterr().out
    (tmp_path / "assets" / "w.pb").unlink()
    with pytest.raises(UserError, match=r"inception-2015-graph is not here: put https://example.org/w.pb at"):
        batches()
    monkeypatch.setattr(assets, "catalogue", dict)
    with pytest.raises(UserError, match="there are no published samples of these rows"):
        batches()


def test_every_published_batch_belongs_to_rows_and_has_a_reference():
    loaded = tables.load(ROOT / "harness" / "papers", ROOT / "results")
    found = published_batches.batches(loaded, ["adm/5", "adm/6"])
    assert sum(len(batch.rows) for batch in found) == len(loaded.batches) == 31
    assert len(found) == 27
    assert {batch.reference for batch in found} <= set(assets.catalogue())
