"""Sweeps: what may be swept, what the values share, going on after a kill, and what is kept of the result."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image
from untrained import GUIDED, network_of

from harness import charts, sweep_report
from zoo import experiment as experiments
from zoo import recipe as recipes
from zoo import sampling
from zoo import sweep as sweeps
from zoo.console import Terminated, UserError
from zoo.experiment import Experiment
from zoo.recipe import Recipe
from zoo.sharing import copy, link
from zoo.sweep import Sweep
from zoo.sweep_plan import SweepPlan, plan, read_axis, short_keys
from zoo.training.checkpoints import Checkpoints
from zoo.training.step import State

S = "sr/GaussianNoise.s = 0, 50, 300"
FEW = ["base/Training.steps = 0", "sr/Training.steps = 0", "SampleSet.count = 24"]


@pytest.fixture(scope="module")
def tiny_recipe() -> Recipe:
    return recipes.load(tiny.RECIPE)


# ---- what is asked


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("sr/GaussianNoise.s = 0, 251, 1_000", ("0", "251", "1000")),
        ("sr/GaussianNoise.s=7", ("7",)),
        ("X.origin = None, @TruncatedSamples(), @a/b/Real()", ("None", "@TruncatedSamples()", "@a/b/Real()")),
        ("X.resolutions = (8, 16), (), [4],", ("(8, 16)", "()", "[4]")),
        ("X.path = 'a, b', %PATH", ("'a, b'", "%PATH")),
        ("X.end = 1e-6, -0.5", ("1e-06", "-0.5")),
    ],
)
def test_gin_reads_the_values(text: str, values: tuple[str, ...]):
    assert read_axis(text).values == values


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["sr/GaussianNoise.s"], "--sweep must be 'KEY = VALUE, VALUE, ...'"),
        (["sr/GaussianNoise.s = "], "has no values"),
        (["sr/GaussianNoise.s = 1, , 2"], "cannot be read"),
        (["sr/GaussianNoise.s = 1)\nUNet.blocks = (2"], "more than one binding"),
        (["sr/GaussianNoise.s = 50, 3, 50.0"], "has the value 50.0 twice"),
        ([S, "sr/GaussianNoise.s = 7"], "is given twice"),
        (["sr/GaussianNoise.smalest = 1, 2"], "did you mean 'smallest'"),
        (["sr/GaussNoise.s = 1, 2"], "did you mean 'GaussianNoise'"),
        (["rs/GaussianNoise.s = 1, 2"], "did you mean 'sr'"),
        (["GaussianNoise.s = 1, 2"], "bind sr/GaussianNoise.s instead"),
        (["sr/GaussianNoise.s = 1, 'two'"], "wrong type"),
        (["UNet.channels = 32, 64"], "needs another training .*'base', 'sr'.*--workdir DIR"),
        (["sr/GaussianNoise.largest = 300, 400"], "weights of stage 'sr' depend on it"),
        ([S, "base/Training.steps = 60, 70"], "weights of stage 'base' depend on it"),
        (["Pipeline.seed = 0, 1"], "the trained weights depend on the seed"),
        (["Pipeline.stages = [@base/Stage()]"], "changes the stages from base, sr to base"),
        (["SampleSet.batch = 8, 16"], "are one experiment"),
    ],
)
def test_what_cannot_be_swept(tiny_recipe: Recipe, asked: list[str], message: str):
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        plan(tiny_recipe, [], asked)


def test_points_are_the_product(tiny_recipe: Recipe):
    made = plan(tiny_recipe, [], ["sr/GaussianNoise.s = 0, 50", "DDIMSampler.steps = 2, 4, None"])
    assert made.name == "sr-GaussianNoise.s+DDIMSampler.steps"
    assert [point.values for point in made.points][:4] == [("0", "2"), ("0", "4"), ("0", "None"), ("50", "2")]
    assert [point.folder for point in made.points][2] == "s=0,steps=None"
    assert len({point.recipe.identity() for point in made.points}) == len(made.points) == 6
    assert made.points[3].recipe.overrides() == ["sr/GaussianNoise.s = 50", "DDIMSampler.steps = 2"]


def test_folders_differ_where_values_do(tiny_recipe: Recipe):
    with pytest.raises(UserError, match="--sweep_name must consist of"):
        plan(tiny_recipe, [], [S], "../elsewhere")
    bindings = ["SampleSet.labels = @DrawnLabels()"]
    long = ", ".join(f"({', '.join(['0.1'] * count)})" for count in (20, 30))
    made = plan(recipes.load(tiny.RECIPE, bindings), bindings, [f"DrawnLabels.frequencies = {long}"])
    folders = [point.folder for point in made.points]
    assert len(set(folders)) == 2
    assert max(map(len, folders)) < 100


def test_keys_are_as_short_as_they_can_be():
    assert short_keys(["sr/GaussianNoise.s", "DDIMSampler.steps"]) == ["s", "steps"]
    assert short_keys(["a/X.s", "a/Y.s"]) == ["X.s", "Y.s"]
    assert short_keys(["a/X.s", "b/X.s", "X.t"]) == ["a/X.s", "b/X.s", "t"]


# ---- folders in common


def test_links_and_second_names(tmp_path: Path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/shard").write_text("images")
    (tmp_path / "made/.shard.partial").write_text("ima")
    link(tmp_path / "deep/er/place", tmp_path / "made")
    link(tmp_path / "deep/er/place", tmp_path / "made")
    shutil.copytree(tmp_path, tmp_path.with_name("moved"), symlinks=True)
    assert (tmp_path.with_name("moved") / "deep/er/place/shard").read_text() == "images"
    copy(tmp_path / "made", tmp_path / "second")
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["shard"]
    (tmp_path / "in/way").mkdir(parents=True)
    with pytest.raises(UserError, match="in the way of a link"):
        link(tmp_path / "in/way", tmp_path / "made")


# ---- a sweep of untrained networks, scored by what is told of the images


class Spread:
    """Stands for the harness: counts what it scored; the number is the spread of the images."""

    def __init__(self) -> None:
        self.scored: list[Path] = []

    def evaluate(self, samples_dir: Path, images: Any, cache: Path, provenance: Any) -> dict[str, Any]:
        self.scored.append(samples_dir)
        found = []
        for path in sorted(samples_dir.glob("shard-*.npz")):
            with np.load(path) as arrays:
                found.append(arrays["arr_0"])
        every = np.concatenate(found)
        return {**provenance, "metrics": {"fid": float(every.std()), "images": len(every)}, "cache": str(cache)}


class Walk:
    """Stands for the sampler, which takes seconds to trace: images that depend on their number, on s and on a guide."""

    def __init__(self, stage: Any, network: Any, batch: int, guide: Any = None) -> None:
        assert network.built
        assert guide is None or guide.network.built
        self.stage, self.at_once = stage, batch
        self.shift = stage.level if guide is None else 10 * stage.sampler.guidance.scale

    def walk(self, key: Any, indices: np.ndarray, batch: Any, weights: Any, levels: Any = ()) -> dict[int, np.ndarray]:
        shape = (len(indices), self.stage.size, self.stage.size, 3)
        return {s: np.broadcast_to(np.sin(indices + self.shift + s)[:, None, None, None], shape) for s in (0, *levels)}


class Bench:
    """A tiny cascade with untrained networks in a work directory, and sweeps over it; says what was sampled."""

    recipe, few = tiny.RECIPE, FEW

    def __init__(self, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workdir, self.spread, self.accounts = workdir, Spread(), 0
        self.sampled: list[tuple[str, str, tuple[int, ...]]] = []
        monkeypatch.setattr(sampling, "StageSampler", Walk)
        self.stop_after: int | None = None
        real = experiments.sample_stage

        def sample_stage(stage: Any, network: Any, samples: Any, folder: Path, *rest: Any) -> str:
            self.sampled.append((stage.name, folder.parent.parent.name, tuple(rest[3])))
            if self.stop_after is not None and len(self.sampled) > self.stop_after:
                raise Terminated
            return real(stage, network, samples, folder, *rest)

        monkeypatch.setattr(experiments, "sample_stage", sample_stage)
        monkeypatch.setattr(sweeps, "Experiment", self.experiment)

    def experiment(self, recipe: Recipe, pipeline: Any, workdir: Path, strategy: Any = None) -> Experiment:
        pipeline.evaluation = pipeline.evaluation and self.spread
        return Experiment(recipe, pipeline, workdir, strategy)

    def base(self, *bindings: str) -> Experiment:
        return self.built(recipes.load(self.recipe, [*self.few, *bindings]))

    def built(self, asked: Recipe) -> Experiment:
        made = self.experiment(asked, asked.build(), self.workdir)
        for stage in made.pipeline.stages:
            stage.network = network_of(stage)
        return made

    def plan(self, *asked: str, bindings: tuple[str, ...] = (), name: str | None = None) -> SweepPlan:
        given = [*self.few, *bindings]
        return plan(recipes.load(self.recipe, given), given, asked, name)

    def run(self, *asked: str, bindings: tuple[str, ...] = (), checkpoint: str = "last") -> dict[str, Any]:
        self.sampled.clear()
        self.spread.scored.clear()
        made = self.plan(*asked, bindings=bindings)
        return Sweep(made, self.built(made.points[0].recipe), checkpoint).run(lambda recipe: [], self.written)

    def written(self, folder: Path, account: dict[str, Any]) -> None:
        self.accounts += 1
        assert folder == self.workdir / "sweeps" / folder.name


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory whose stages have a checkpoint."""
    asked = recipes.load(tiny.RECIPE, FEW)
    made = Experiment(asked, asked.build(), tmp_path_factory.mktemp("sweeps") / "run")
    for stage in made.pipeline.stages:
        stage.network = network_of(stage)
    made.train(made.pipeline.stages)
    return made.workdir


@pytest.fixture
def bench(stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    shutil.copytree(stages, tmp_path / "run")
    return Bench(tmp_path / "run", monkeypatch)


def test_what_values_share_is_sampled_once_and_a_kill_costs_one(bench: Bench):
    bench.stop_after = 3  # base, sr of s = 0, sr of s = 50; inside of s = 300
    with pytest.raises(Terminated):
        bench.run(S)
    folders = ["s=0", "s=50", "s=300"]
    assert [made[:2] for made in bench.sampled] == [("base", "s=0"), *(("sr", folder) for folder in folders)]
    assert bench.accounts == 2
    bench.stop_after = None
    account = bench.run(S)
    assert [made[:2] for made in bench.sampled] == [("sr", "s=300")]
    assert [row["values"] for row in account["rows"]] == [["0"], ["50"], ["300"]]
    spreads = [row["result"]["metrics"]["fid"] for row in account["rows"]]
    assert len(set(spreads)) == 3
    assert {row["result"]["metrics"]["images"] for row in account["rows"]} == {24}
    sweep = bench.workdir / "sweeps/sr-GaussianNoise.s"
    shard = "samples/base/shard-00000.npz"
    assert len({(sweep / folder / shard).stat().st_ino for folder in folders}) == 1  # on the disk once
    assert (sweep / "s=0/stages/sr").resolve() == (bench.workdir / "stages/sr").resolve()
    assert {row["result"]["cache"] for row in account["rows"]} == {str(sweep / f / "cache") for f in folders}
    assert (sweep / "s=0/cache").resolve() == bench.workdir / "cache"
    assert "sr/GaussianNoise.s = 50" in (sweep / "s=50/recipe.gin").read_text()
    # once more: nothing is done, and a value more is one value more, in a sweep of another name too
    assert bench.run(S)["rows"] == account["rows"]
    assert not bench.sampled
    assert not bench.spread.scored
    bench.run("sr/GaussianNoise.s = 50, 7")
    assert bench.sampled == [("sr", "s=7", ())]


def test_samples_of_the_run_itself_are_taken_over(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    base = bench.base("SampleSet.count = 60")
    base.sample_set(base.pipeline.stages[:1], "last")
    monkeypatch.setattr(Walk, "walk", _only("sr", Walk.walk))
    bench.run(S)  # of 60 images 24 are kept
    assert len(list((bench.workdir / "sweeps/sr-GaussianNoise.s/s=0/samples/base").glob("shard-*"))) == 2
    assert len(list((bench.workdir / "samples/base").glob("shard-*"))) == 5
    base.sample_set(base.pipeline.stages[:1], "last")  # which are all still there


def _only(name: str, walk: Callable[..., Any]) -> Callable[..., Any]:
    """The walk of one stage; another one must not be sampled."""

    def checked(self: Walk, *given: Any) -> Any:
        assert self.stage.name == name
        return walk(self, *given)

    return checked


def test_another_sampler_of_the_base_is_another_set(bench: Bench):
    bench.run("base/DDIMSampler.steps = 2, 3", "sr/GaussianNoise.s = 0, 50")
    made = [stage for stage, _, _ in bench.sampled]
    assert made == ["base", "sr", "sr", "base", "sr", "sr"]


def test_one_pass_keeps_every_level(bench: Bench):
    """CDM, section 3.3: the levels of all values that are asked for, those of a later sweep not among them."""
    origin = "sr/LowResolution.origin = @TruncatedSamples()"
    truncated = (origin, "base/DDIMSampler.steps = 20", "sr/GaussianNoise.largest = 600")
    with pytest.raises(UserError, match="s must be a level that the 20 steps of stage 'base' visit: 1 or 54, got 50"):
        bench.run("sr/GaussianNoise.s = 54, 50", bindings=truncated)
    # that of the recipe, 50, is none of them either, and is not asked for
    bench.run("sr/GaussianNoise.s = 54, 1, 527", bindings=truncated)
    assert bench.sampled[0] == ("base", "s=54", (1, 54, 527))
    assert [stage for stage, _, _ in bench.sampled] == ["base", "sr", "sr", "sr"]
    bench.run("sr/GaussianNoise.s = 54, 106", bindings=truncated)
    assert bench.sampled == [("base", "s=106", (106,)), ("sr", "s=106", ())]


class Guided(Bench):
    """A model guided by a classifier, alone."""

    recipe = GUIDED
    few: ClassVar = [
        "Pipeline.stages = [@classifier/ClassifierStage(), @base/Stage()]",
        "base/Training.steps = 0",
        "classifier/Training.steps = 0",
        "SampleSet.count = 24",
    ]


def test_scales_of_guidance_are_swept_and_zero_asks_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench, scales = Guided(tmp_path / "run", monkeypatch), "base/ClassifierGuidance.scale = 0, 1, 5"
    made = bench.base()
    made.train(made.pipeline.stages)
    account = bench.run(scales)
    assert [row["values"] for row in account["rows"]] == [["0"], ["1"], ["5"]]
    assert [name for name, *_ in bench.sampled] == ["base"] * 3
    classifiers = [row["result"]["samples"]["base"].get("classifier") for row in account["rows"]]
    assert classifiers == [None, *[account["weights"]["classifier"]] * 2]
    assert len({row["result"]["metrics"]["fid"] for row in account["rows"]}) == 3
    bench.run(scales)
    assert not bench.sampled
    # Another classifier: what it guided is made anew, and what it did not is kept.
    state = State(made.pipeline.stages[0], seed=3)
    for variable in state.ema:
        variable.assign_add(tf.ones(variable.shape))
    Checkpoints(bench.workdir / "stages/classifier/checkpoints").save(9, state.groups)
    bench.run(scales)
    assert [folder for _, folder, _ in bench.sampled] == ["scale=1", "scale=5"]


def test_a_value_is_scored_again_when_something_changed(bench: Bench):
    one = ("sr/GaussianNoise.s = 50",)
    bench.run(*one)
    bench.run(*one, bindings=("SampleSet.count = 36",))
    assert len(bench.spread.scored) == 1
    assert bench.run(*one, bindings=("SampleSet.count = 36",))["rows"][0]["result"]["metrics"]["images"] == 36
    assert not bench.spread.scored
    bench.run(*one, bindings=("SampleSet.count = 36", "DDIMSampler.steps = 3"))
    assert len(bench.spread.scored) == 1
    manifest = next(bench.workdir.glob("stages/sr/checkpoints/*/manifest.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "hash": "of other weights"}))
    bench.run(*one, bindings=("SampleSet.count = 36", "DDIMSampler.steps = 3"))
    assert [stage for stage, _, _ in bench.sampled] == ["sr"]


def test_mistakes_before_anything_is_sampled(bench: Bench):
    with pytest.raises(UserError, match=r"no Pipeline\.evaluation: bind"):
        bench.run(S, bindings=("Pipeline.evaluation = None",))
    with pytest.raises(UserError, match=r"s must be in 0 .. 1000"):
        bench.run("sr/GaussianNoise.s = 50, 2000")
    with pytest.raises(UserError, match="--checkpoint must be last, best or one of"):
        bench.run(S, checkpoint="7")
    shutil.rmtree(bench.workdir / "stages/sr")
    with pytest.raises(UserError, match=r"no checkpoint in .*sr/checkpoints: train the stage first"):
        bench.run(S)
    assert not (bench.workdir / "sweeps").exists()
    assert not bench.sampled


# ---- what is shown and kept


@pytest.fixture
def account() -> dict[str, Any]:
    """s = 0, 251, 501 by origin: FID falls and rises again, the others the other way round."""

    def row(s: str, origin: str, fid: float) -> dict[str, Any]:
        metrics = {"fid": fid, "is_mean": 50 - fid, "is_std": 0.5, "is_one_split": 40.0, "precision": 1 - fid / 100}
        titles = {"fid": "FID-2k (shapes classifier)", "is_mean": "IS-2k", "precision": "precision-2k"}
        result = {
            "metrics": metrics,
            "protocol": titles,
            "reference": {"name": "shapes train", "fingerprint": "f"},
            "feature_network": {"identity": "n", "title": "shapes classifier"},
            "resolution": 32,
        }
        date = "2026-01-02T03:04:05+00:00"
        return {"values": [s, origin], "folder": f"s={s},{origin}", "date": date, "result": result}

    origins = ["None", "@TruncatedSamples()"]
    fids = {"0": 20.0, "251": 11.0, "501": 14.0}
    return {
        "recipe": "recipes/quickstart.gin",
        "bindings": ["SampleSet.count = 2000"],
        "checkpoint": "last",
        "seed": 0,
        "weights": {"base": {"step": 60, "hash": "0123456789"}, "sr": {"step": 12, "hash": "abcdefabcdef"}},
        "sweep": [
            {"key": "sr/GaussianNoise.s", "name": "s", "values": list(fids)},
            {"key": "sr/LowResolution.origin", "name": "origin", "values": origins},
        ],
        "asked": 6,
        "rows": [row(s, origin, fid + (origin != "None")) for s, fid in fids.items() for origin in origins],
    }


def test_the_table(account: dict[str, Any]):
    text = "\n".join(sweep_report.SweepReport(account).render())
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^s = 251, origin = None +11.00 \* +39.00 ± 0.50 \* +0.890 \*$", text, re.MULTILINE), text
    assert text.count(" *") == 3  # one a column
    assert "one_split" not in text  # another cut of a score that is shown
    flat = " ".join(text.split())
    assert (
        "* best; by FID-2k (shapes classifier) of 6 of 6 values: s = 251, origin = None (11.00, lower is better)"
        in flat
    )


def test_another_metric_chooses(account: dict[str, Any]):
    account["rows"][5]["result"]["metrics"]["precision"] = 0.99
    protocol, row = sweep_report.SweepReport(account, "precision").chosen()
    assert (protocol.title, account["rows"][row]["values"]) == ("precision-2k", ["501", "@TruncatedSamples()"])


def test_unlike_protocols_are_not_ranked(account: dict[str, Any], tmp_path: Path):
    account["rows"][0]["result"]["protocol"] = {"fid": "FID-1k (shapes classifier)"}
    report = sweep_report.SweepReport(account)
    assert report.chosen() is None
    assert "numbers of unlike protocols are not ranked" in report.verdict()
    report.write(tmp_path)
    assert not (tmp_path / "best.gin").exists()


def test_a_number_that_is_nan_is_no_best_one(account: dict[str, Any]):
    account["rows"][2]["result"]["metrics"]["fid"] = float("nan")
    _, row = sweep_report.SweepReport(account).chosen()
    assert account["rows"][row]["values"] == ["251", "@TruncatedSamples()"]


def test_the_picture_and_the_best_recipe(account: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(charts, "draw_sweep", lambda *panels: drawn.append(panels) or _real_draw(*panels))
    sweep_report.SweepReport(account).write(tmp_path)
    (panels, ticks) = drawn[0]
    assert ticks == []
    axis, best = panels[0]
    assert [(curve.label, len(curve.points)) for curve in axis.curves] == [
        ("origin = None", 3),
        ("origin = @TruncatedSamples()", 3),
    ]
    assert (axis.x, axis.title, best) == ("s", "FID-2k (shapes classifier)", (251.0, 11.0, None))
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size[0] > 1000
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert (kept["metric"], kept["best"]["values"]) == ("fid", ["251", "None"])
    assert len(kept["rows"]) == 6
    text = (tmp_path / "best.gin").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "best of 6 values tried (6 asked), scored 2026-01-02" in text
    assert "11.00 (lower is better)" in text
    assert text.splitlines()[-2:] == ["sr/GaussianNoise.s = 251", "sr/LowResolution.origin = None"]


_real_draw = charts.draw_sweep


def test_names_lie_along_x_where_no_binding_is_a_number(account: dict[str, Any]):
    account["sweep"][0]["values"] = ["0", "None", "501"]
    for row in account["rows"]:
        row["values"][0] = {"251": "None"}.get(row["values"][0], row["values"][0])
    panels, ticks = sweep_report.SweepReport(account).panels()
    assert ticks == ["0", "None", "501"]
    assert [point[0] for point in panels[0][0].curves[0].points] == [0.0, 1.0, 2.0]


def test_the_best_value_is_included_or_passed(account: dict[str, Any], tmp_path: Path):
    sweep_report.SweepReport(account).write(tmp_path)
    best = tmp_path / "best.gin"
    (tmp_path / "mine.gin").write_text(f"include 'tests/recipes/tiny.gin'\ninclude '{best}'\n")
    wanted = recipes.load(tiny.RECIPE, ["sr/GaussianNoise.s = 251"]).identity()
    assert recipes.load(tmp_path / "mine.gin").identity() == wanted
    assert recipes.load(tiny.RECIPE, [f"include '{best}'"]).identity() == wanted


def test_the_metric_is_checked_first(tiny_recipe: Recipe):
    evaluation = tiny_recipe.build().evaluation
    for metric in (None, "fid", "recall", "cas_top1"):
        sweep_report.check_metric(evaluation, metric)
    for metric in ("FID", "is_mean", "classes_above_real"):
        with pytest.raises(UserError, match=r"one of|that chooses \(fid, precision, recall, cas_top1"):
            sweep_report.check_metric(evaluation, metric)
