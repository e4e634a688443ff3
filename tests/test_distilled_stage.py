"""Students as stages of a recipe: what they take over, how they are trained, sampled and told apart; mistakes."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from zoo import describe, recipe, symbolic
from zoo.console import UserError
from zoo.diffusion.conditioning import ClassLabel
from zoo.distilled_stage import DistilledStage
from zoo.experiment import Experiment
from zoo.pipeline import Pipeline, Stage
from zoo.training.checkpoints import Checkpoints
from zoo.training.trainer import restore_network

RECIPE = tiny.ROOT / "tests" / "recipes" / "tiny_distilled.gin"
NAMES = ["base", "guided", "s2", "s1"]


class Denoiser(keras.Model):
    """A network of one convolution that is told the log SNR and the class, or none: quick to trace."""

    classes = 10

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width

    def build(self, shapes: dict[str, Any]) -> None:
        self.inner = keras.layers.Conv2D(self.width, 3, padding="same", activation="silu", name="inner")
        self.outer = keras.layers.Conv2D(3, 3, padding="same", name="outer")
        self.label = keras.layers.Embedding(self.classes + 1, 3, name="label")
        self.time = keras.layers.Dense(3, name="time")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        image, level = inputs["image"], inputs["logsnr"][:, None] / 20
        told = self.time(ops.concatenate([level, level**2], axis=-1)) + self.label(inputs["label"] + 1)
        return self.outer(self.inner(image)) + (1 - ops.sigmoid(4 * level)[:, None, None]) * image + told[:, None, None]


def built(*bindings: str) -> Pipeline:
    return recipe.load(RECIPE, bindings).build()


def experiment_of(workdir: Path, *bindings: str) -> Experiment:
    asked = recipe.load(RECIPE, bindings)
    experiment = Experiment(asked, asked.build(), workdir)
    for stage in experiment.pipeline.stages:
        stage.network = Denoiser()
    return experiment


def student(one: Experiment | Pipeline, name: str) -> DistilledStage:
    stage = (one.pipeline if isinstance(one, Experiment) else one).stage(name)
    assert isinstance(stage, DistilledStage)
    return stage


def variables(experiment: Experiment, name: str, step: int) -> dict[str, np.ndarray]:
    """Everything in a checkpoint."""
    reader = tf.train.load_checkpoint(str(experiment.workdir / f"stages/{name}/checkpoints/{step:08d}/variables"))
    names = reader.get_variable_to_shape_map()
    return {
        key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(key)
        for key in names
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The whole chain, trained; not to be changed."""
    longer = ["s1/Training.steps = 60", "base/Training.steps = 40"]
    experiment = experiment_of(tmp_path_factory.mktemp("distilled"), *longer)
    experiment.train(experiment.pipeline.stages)
    return experiment


def link(workdir: Path, trained: Experiment, *names: str) -> None:
    """Trained stages in another work directory."""
    (workdir / "stages").mkdir(exist_ok=True)
    for name in names:
        (workdir / "stages" / name).symlink_to(trained.workdir / "stages" / name)


# ---- the pipeline


def test_a_student_stands_in_the_place_of_its_teacher():
    pipeline = built()
    base, guided, s2, s1 = pipeline.makers
    assert [stage.name for stage in pipeline.stages] == NAMES
    assert pipeline.cascade == [s1]
    assert pipeline.last is s1
    assert [stage.teacher for stage in (base, guided, s2, s1)] == [None, base, guided, s2]
    assert {pipeline.before(stage) for stage in pipeline.makers} == {None}
    assert [stage.sampler_steps for stage in pipeline.makers] == [4, 4, 2, 1]


def test_a_cascade_goes_on_from_the_student():
    stages = "[@base/Stage(), @guided/DistilledStage(), @sr/Stage()]"
    process = [
        "sr/Objective.process = @sr/DiscreteProcess()", "sr/UNet.time = @StepEmbedding()", "sr/ClassLabel.dropout = 0.0"
    ]  # fmt: skip
    pipeline = built(f"Pipeline.stages = {stages}", *process)
    base, guided, sr = pipeline.makers
    assert pipeline.cascade == [guided, sr]
    assert [pipeline.after(stage) for stage in (base, guided, sr)] == [sr, sr, None]
    assert [pipeline.before(stage) for stage in (base, guided, sr)] == [None, None, guided]
    assert pipeline.kept_levels(base) == ()


def test_a_student_has_the_method_of_its_teacher_and_is_always_told_the_class():
    base, guided, *_ = built("Objective.weighting = @MinSNRWeighting()").makers
    for part in ("process", "target", "variance", "loss", "weighting"):
        assert getattr(guided.objective, part) is not None
        assert type(getattr(guided.objective, part)) is type(getattr(base.objective, part))
    (told,), (asked,) = base.conditioning, guided.conditioning
    assert isinstance(told, ClassLabel)
    assert isinstance(asked, ClassLabel)
    assert (told.dropout, asked.dropout) == (0.1, 0.0)
    shapes = {"image": (2, 8, 8, 3)}
    assert set(base.randomness(shapes)) - set(guided.randomness(shapes)) == {"label_dropout"}


# ---- identity


def outlines(*bindings: str) -> dict[str, Any]:
    return {outline.name: outline for outline in recipe.load(RECIPE, bindings).stages()}


@pytest.mark.parametrize(
    ("binding", "changed"),
    [
        ("base/Training.steps = 9", NAMES),
        ("Objective.loss = @MultiscaleLoss()", NAMES),
        ("ClassifierFreeGuidance.scale = 3.0", NAMES[1:]),
        ("s2/ProgressiveDistillation.clipping = @StaticClipping()", NAMES[2:]),
        ("s2/Adam.learning_rate = 1e-4", NAMES[2:]),
        ("s1/Training.steps = 9", NAMES[3:]),
        ("base/DDIMSampler.steps = 5", []),
        ("guided/DDIMSampler.steps = 5", []),
        ("s2/DDIMSampler.eta = 0.5", []),
        ("ClassifierFreeGuidance.passes = 2", []),
    ],
)
def test_trained_weights_depend_on_the_teachers_training(binding: str, changed: list[str]):
    """And not on how anyone is sampled: rows of a table share their stages by it."""
    before, after = outlines(), outlines(binding)
    assert list(before) == NAMES
    assert [name for name in NAMES if before[name].training != after[name].training] == changed
    assert [before[name].steps for name in NAMES] == [8, 8, 8, 8]


def test_a_shorter_chain_shares_its_stages():
    short = outlines("Pipeline.stages = [@base/Stage(), @guided/DistilledStage(), @s2/DistilledStage()]")
    assert {name: one.training for name, one in short.items()} == {name: outlines()[name].training for name in short}


def test_shapes_of_a_student_are_those_of_its_teacher():
    """`--do check` counts a network once for all recipes in which these are equal."""
    assert outlines()["s1"].network != outlines("base/Images.size = 16")["s1"].network
    assert outlines()["s1"].network == outlines("s1/Training.steps = 9")["s1"].network
    assert len({outlines()[name].network for name in NAMES}) == 1
    assert outlines("s1/UNet.dropout = 0.1")["s1"].network != outlines()["s1"].network


# ---- training


def test_a_student_begins_with_the_average_of_its_teacher(trained: Experiment):
    for teacher, name, step in (("base", "guided", 40), ("guided", "s2", 8), ("s2", "s1", 8)):
        told = json.loads((trained.workdir / f"stages/{name}/teacher.json").read_text())
        checkpoints = Checkpoints(trained.workdir / f"stages/{teacher}/checkpoints")
        assert told == {"stage": teacher, "step": step, "hash": checkpoints.digest(step)}


def test_before_its_first_step_a_student_is_its_teacher(trained: Experiment, tmp_path: Path):
    again = experiment_of(tmp_path, "base/Training.steps = 40", "guided/Training.steps = 0")
    link(tmp_path, trained, "base")
    again.train(again.pipeline.stages[:2])
    average = {k.partition("/")[2]: v for k, v in variables(again, "base", 40).items() if k.startswith("ema/")}
    begun = variables(again, "guided", 0)
    for group in ("raw", "ema"):
        found = {key.partition("/")[2]: value for key, value in begun.items() if key.startswith(f"{group}/")}
        assert found.keys() == average.keys()
        assert all(np.array_equal(found[name], average[name]) for name in found)


def test_students_learn_and_teachers_stay(trained: Experiment):
    with (trained.workdir / "stages/s1/metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    with trained.strategy.scope():
        teacher = student(trained, "s1").teacher
        now = [variable.numpy() for variable in teacher.network.trainable_variables]
        network, _, _ = restore_network(teacher, trained.stage_folder(teacher), "last", 0)
    for value, variable in zip(now, network.trainable_variables, strict=True):
        assert np.array_equal(value, variable.numpy())


def test_the_loss_is_against_the_guided_answer(trained: Experiment):
    """Worked out by hand from the stored weights, at given levels."""
    stage = student(trained, "guided")
    with trained.strategy.scope():
        teacher, _, _ = restore_network(stage.teacher, trained.stage_folder(stage.teacher), "last", 0)
    batch = tiny.batch_of(stage, 4)
    random = {"noise": tf.random.stateless_normal((4, 8, 8, 3), [1, 2]), "level": tf.reshape(tf.range(8.0) / 8, (4, 2))}
    found = stage.training_loss(lambda given: 0 * given["image"], batch, random, None)
    level = stage.objective.process.level(random["level"][:, 0])
    z = level.alpha * batch["image"] + level.sigma * random["noise"]
    told, untold = (
        teacher({**level.inputs, "image": z, "label": label})
        for label in (tf.cast(batch["label"], tf.int32), tf.fill((4,), -1))
    )
    expected = np.mean(np.square(untold + 2.0 * (told - untold)), axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_stopped_student_ends_as_one_that_was_left_alone(trained: Experiment, tmp_path: Path):
    """Up to the rounding of sums, whose order threads decide; tests/test_resume.py compares bits."""
    link(tmp_path, trained, "base", "guided")
    for steps in (4, 8):
        run = experiment_of(tmp_path, "base/Training.steps = 40", f"s2/Training.steps = {steps}")
        run.train([student(run, "s2")])
    found, expected = (variables(one, "s2", 8) for one in (run, trained))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


def test_half_precision_and_micro_batches(trained: Experiment, tmp_path: Path):
    link(tmp_path, trained, "base")
    bindings = ["guided/Training.micro_batches = 2", "guided/Training.precision = @BFloat16()"]
    run = experiment_of(tmp_path, "base/Training.steps = 40", *bindings)
    run.train([student(run, "guided")])
    assert Checkpoints(tmp_path / "stages/guided/checkpoints").latest() == 8


# ---- samples


def test_the_last_student_is_sampled_and_a_teacher_where_it_is_asked_for(trained: Experiment, tmp_path: Path):
    run = experiment_of(tmp_path, "base/Training.steps = 40", "s1/Training.steps = 60", "SampleSet.count = 12")
    link(tmp_path, trained, *NAMES)
    run.sample_set(run.pipeline.stages, "last")
    assert [path.name for path in (tmp_path / "samples").glob("[a-z]*")] == ["s1"]
    run.sample_set([run.pipeline.stage("base")], "last")
    assert {path.name for path in (tmp_path / "samples").glob("[a-z]*")} == {"s1", "base"}
    assert run.provenance()["samples"].keys() == {"s1"}
    assert run.sample(labels=[3, 4]).shape == (2, 8, 8, 3)


# ---- mistakes


def test_a_teacher_must_be_trained_to_its_end(trained: Experiment, tmp_path: Path):
    run = experiment_of(tmp_path, "base/Training.steps = 40")
    s2, guided = student(run, "s2"), student(run, "guided")
    with pytest.raises(UserError, match=r"'s2' learns from 'guided', which is trained for 0 of 8 .*--stage guided"):
        run.train([s2])
    assert not (tmp_path / "stages/s2").exists()
    link(tmp_path, trained, "base")
    longer = experiment_of(tmp_path, "base/Training.steps = 50")
    with pytest.raises(UserError, match="'base', which is trained for 40 of 50 steps"):
        longer.train([student(longer, "guided")])
    run.train([guided, s2])  # before it, in one command, is soon enough
    assert Checkpoints(tmp_path / "stages/s2/checkpoints").latest() == 8
    (tmp_path / "stages/base").unlink()
    run.train([guided])  # it is trained, and needs its teacher no more


def test_another_teacher_under_a_half_trained_student_is_a_mistake(trained: Experiment, tmp_path: Path):
    link(tmp_path, trained, "base")
    half = experiment_of(tmp_path, "base/Training.steps = 40", "guided/Training.steps = 4")
    half.train([student(half, "guided")])
    (tmp_path / "stages/base").unlink()
    other = experiment_of(tmp_path, "base/Training.steps = 4", "Pipeline.seed = 1")
    with pytest.raises(UserError, match=r"'guided' has begun with other weights of its teacher 'base' .* remove"):
        other.train(other.pipeline.stages[:2])


def test_a_network_of_another_architecture_is_refused(trained: Experiment, tmp_path: Path):
    link(tmp_path, trained, "base")
    run = experiment_of(tmp_path, "base/Training.steps = 40")
    guided = student(run, "guided")
    guided.network = Denoiser(width=5)
    with pytest.raises(UserError, match=r"architecture of 'base', .* '.*inner.*' is \(3, 3, 3, 4\) there"):
        run.train([guided])


def test_check_finds_another_architecture(capsys: pytest.CaptureFixture[str]):
    assert recipe.check(RECIPE) == 0
    assert recipe.check(RECIPE, ["s2/UNet.dropout = 0.1"]) == 0  # the same tensors
    assert recipe.check(RECIPE, ["s2/UNet.blocks = 2"]) == 1
    assert "network of stage 's2' must have the architecture of 'guided'" in capsys.readouterr().out


STUDENTS = "[@guided/DistilledStage(), @s2/DistilledStage(), @s1/DistilledStage()]"
MISTAKES = {
    "teacher": (
        [f"Pipeline.stages = {STUDENTS}"],
        "is a stage, and Pipeline.stages lacks it: write @base/Stage() there",
    ),
    "order": (
        ["Pipeline.stages = [@guided/DistilledStage(), @base/Stage()]"],
        "teacher of stage 'guided' is 'base', which must stand in Pipeline.stages before it (there is none)",
    ),
    "discrete": (
        ["Objective.process = @DiscreteProcess()", "UNet.time = @StepEmbedding()"],
        "2 steps of a DiscreteProcess do not divide into 4, half as long each",
    ),
    "sampler": (
        ["s2/DDIMSampler.steps = 4"],
        "s2/DDIMSampler.steps must be 2, or divide it: stage 's2' learns the noise levels of 2 steps and no others",
    ),
    "levels of the teacher": (
        ["s1/ProgressiveDistillation.steps = 3", "s1/DDIMSampler.steps = 3"],
        "s1/ProgressiveDistillation.steps must be 1, or divide it: its teacher 's2' has learned the noise levels of 2",
    ),
    "guided student": (
        ["s2/DDIMSampler.guidance = @ClassifierFreeGuidance()"],
        "guidance of the sampler of stage 's2' must be None: a student is always told its class or text",
    ),
    "no dropout": (["ClassLabel.dropout = 0.0"], "also asks the network of stage 'base' without its ClassLabel"),
    "guided twice": (
        ["s2/DistilledStage.distillation = @GuidanceDistillation()", "s2/DDIMSampler.steps = 4"],
        "also asks the network of stage 'guided' without its ClassLabel",
    ),
    "scale": (["ClassifierFreeGuidance.scale = 1.0"], "guidance must be ClassifierFreeGuidance with a scale other"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_received_and_what_is_allowed(mistake: str):
    bindings, message = MISTAKES[mistake]
    with pytest.raises(UserError) as raised:
        built(*bindings)
    assert message in str(raised.value)


# ---- what it costs


def test_the_teacher_counts():
    """Two evaluations more for each image, and its weights in memory; it is not sampled."""
    found = describe.describe(built("SampleSet.count = 10"), "v100-32")
    base, guided, _, s1 = found["stages"]
    for one in (guided, s1):
        assert one["training_flops"] == pytest.approx(base["training_flops"] * 5 / 3)
        assert one["memory"]["weights"] == 2 * base["memory"]["weights"]
    assert found["sampling_flops"] == s1["sampling_flops"] == pytest.approx(s1["flops"])


def test_parts_of_a_student_need_no_weights_of_the_teacher():
    stage = built().stages[3]
    assert isinstance(stage, Stage)
    assert symbolic.build(stage).parameters == symbolic.build(built().stages[0]).parameters
