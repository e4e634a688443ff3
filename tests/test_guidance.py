"""Classifier guidance: distributions known in closed form, the stage of the classifier, sets of samples, mistakes."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
import untrained
from keras import ops

from zoo import recipe, registry
from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance, Guidance
from zoo.diffusion.process import DiscreteProcess
from zoo.experiment import Experiment
from zoo.pipeline import Pipeline
from zoo.sample_files import read_images, read_set
from zoo.sampling import Guide, StageSampler
from zoo.training import randomness
from zoo.training.checkpoints import Checkpoints
from zoo.training.observers import HeldOutAccuracy
from zoo.training.step_rows import write_rows

MEAN, SPREAD = 0.12, 0.6
"""Two classes: every pixel is normal with this deviation around plus or minus the mean."""


def guided(*bindings: str) -> Pipeline:
    """A classifier, a model that is guided by it, and an upsampler."""
    return recipe.load(untrained.GUIDED, bindings).build()


# ---- the family


GUIDANCES = {"ClassifierGuidance": ClassifierGuidance(2.0), "ClassifierFreeGuidance": ClassifierFreeGuidance(2.0)}


def test_every_guidance_is_under_contract():
    assert {n for n, c in registry.load().components.items() if c.family == "guidances"} == set(GUIDANCES)


@pytest.mark.parametrize("name", GUIDANCES)
def test_contract_of_guidances(name: str):
    """A member changes the answer of the network or asks a classifier; the rest is as without guidance."""
    guidance: Guidance = GUIDANCES[name]
    assert guidance.evaluations >= 1
    image = np.ones((2, 4, 4, 3), "float32")

    def network(inputs: dict[str, Any]) -> Any:
        return 3 * inputs["image"]

    answer = guidance.answer(network, {"image": image})
    assert answer.shape == image.shape
    if guidance.asks is not None:
        assert np.array_equal(answer, network({"image": image}))
    with pytest.raises(NotImplementedError, match="Guidance asks no classifier"):
        Guidance().pull(network, {}, None, lambda function, x: x)


def test_the_scale_multiplies_the_gradient_and_zero_asks_nobody():
    logits = np.array([[1.0, 3.0]], "float32")

    def gradient(function: Any, x: Any) -> Any:
        return float(function(x)) * x

    def pull(scale: float) -> np.ndarray:
        guidance = ClassifierGuidance(scale)
        return np.asarray(guidance.pull(lambda _: logits, {"image": np.ones((1, 1))}, np.array([1]), gradient))

    assert pull(2.5) == pytest.approx(2.5 * (3 - np.log(np.exp(1) + np.exp(3))), rel=1e-6)
    assert ClassifierGuidance(0).asks is None
    assert ClassifierGuidance(0.1, "other").asks == "other"
    with pytest.raises(ValueError, match="scale must not be negative, got -1"):
        ClassifierGuidance(-1)


# ---- in closed form


class ClosedForm(keras.Model):
    """What is known of z_t = alpha x + sigma eps where x has two classes: log p(z_t | y) and its derivative."""

    def __init__(self, process: DiscreteProcess, classes: int | None = None) -> None:
        super().__init__()
        self.process, self.classes = process, classes

    def at(self, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Mean of class 1 and variance of z_t, and the rate of noise; of the trained step that is told."""
        step = ops.cast(inputs["time"], "int32")
        alpha = self.process.gather(np.sqrt(self.process.alphas_cumprod), step)
        sigma = self.process.gather(np.sqrt(1 - self.process.alphas_cumprod), step)
        return alpha * MEAN, ops.square(alpha * SPREAD) + ops.square(sigma), sigma


class Mixture(ClosedForm):
    """The noise of z_t whichever class it has: -sigma times the score of the mixture of both."""

    def call(self, inputs: dict[str, Any]) -> Any:
        mean, variance, sigma = self.at(inputs)
        z = inputs["image"]
        side = ops.tanh(ops.sum(z * mean / variance, axis=(1, 2, 3), keepdims=True))
        return sigma * (z - mean * side) / variance


class One(ClosedForm):
    """The noise of z_t of class 1."""

    def call(self, inputs: dict[str, Any]) -> Any:
        mean, variance, sigma = self.at(inputs)
        return sigma * (inputs["image"] - mean) / variance


class Exact(ClosedForm):
    """The classifier of z_t: logits that are linear in it."""

    def call(self, inputs: dict[str, Any]) -> Any:
        mean, variance, _ = self.at(inputs)
        evidence = ops.sum(inputs["image"] * mean / variance, axis=(1, 2, 3))
        return ops.stack([-evidence, evidence], axis=1)


def walked(network: type[ClosedForm], guide: bool, *bindings: str, count: int = 24, indices: Any = None) -> np.ndarray:
    """Samples of class 1, by a network in closed form."""
    asked = ["Objective.target = @NoiseTarget()", "base/DDIMSampler.clipping = None", *bindings]
    stage = guided(*asked).cascade[0]
    process = stage.objective.process
    stage.network, asked_of = network(process), None
    if guide and stage.classifier is not None:
        stage.classifier.network = Exact(process)
        asked_of = Guide(stage.classifier.build_network(0), stage.classifier.process)
    sampler = StageSampler(stage, stage.build_network(0), count, asked_of)
    indices = np.arange(count) if indices is None else np.array(indices)
    return sampler.sample(randomness.key(0, "closed form"), indices, {"label": np.ones(len(indices), np.int64)}, [])


@pytest.mark.parametrize("steps", [50, "'ddim25'"])
def test_guided_ddim_takes_the_steps_of_a_model_of_the_class(steps: Any):
    """Score of all and gradient of the classifier are the score of the class, at every step that the plan keeps."""
    binding = f"base/DDIMSampler.steps = {steps}"
    found, expected = walked(Mixture, True, binding), walked(One, False, binding)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(walked(Mixture, False, binding) - expected).max() > 0.2


def test_ddim_is_guided_to_the_distribution_of_the_class():
    found = walked(Mixture, True, "base/DDIMSampler.steps = 250")
    assert found.mean() == pytest.approx(MEAN, abs=0.03)  # of 4,608 pixels
    assert found.std() == pytest.approx(SPREAD, abs=0.03)
    assert (found.mean(axis=(1, 2, 3)) > 0).all()
    plain = walked(Mixture, False, "base/DDIMSampler.steps = 250")
    assert 0.2 < (plain.mean(axis=(1, 2, 3)) > 0).mean() < 0.8


def test_ancestral_sampling_is_guided_to_the_distribution_of_the_class():
    """Algorithm 1 is exact in the limit of many steps."""
    ancestral = ["base/Stage.sampler = @AncestralSampler()", "base/AncestralSampler.guidance = @ClassifierGuidance()"]
    noise = [
        "Objective.variance = @FixedLargeVariance()",
        "DiscreteProcess.steps = 200",
        "sr/GaussianNoise.largest = 200",
    ]
    found = walked(Mixture, True, *ancestral, *noise)
    assert found.mean() == pytest.approx(MEAN, abs=0.04)
    assert found.std() == pytest.approx(SPREAD, abs=0.04)
    assert (found.mean(axis=(1, 2, 3)) > 0).all()


def test_a_guided_image_depends_on_seed_and_index_alone():
    steps = "base/DDIMSampler.steps = 10"
    images = walked(Mixture, True, steps, count=4)
    again = walked(Mixture, True, steps, count=4, indices=[9, 3, 1])
    assert np.array_equal(again[1:], images[[3, 1]])


def test_scale_zero_is_no_guidance():
    zero, none = (f"base/{name}" for name in ("ClassifierGuidance.scale = 0", "DDIMSampler.guidance = None"))
    stage = guided(zero).cascade[0]
    assert stage.classifier is None
    assert not stage.labelled
    assert np.array_equal(walked(Mixture, True, zero), walked(Mixture, False, none))


# ---- the stage of the classifier


def test_a_classifier_is_a_stage_but_none_of_the_cascade():
    pipeline = guided()
    classifier, base, sr = pipeline.stages
    assert isinstance(classifier, ClassifierStage)
    assert pipeline.cascade == [base, sr]
    assert (base.classifier, sr.classifier) == (classifier, None)
    assert (pipeline.before(base), pipeline.before(sr), pipeline.after(base)) == (None, base, sr)
    assert classifier.output_shape(5) == (5, 10)
    assert set(classifier.input_spec(2)) == {"image", "time"}


def test_its_loss_is_the_cross_entropy_at_the_drawn_noise():
    stage = guided().stages[0]
    network, process = untrained.Classifier(), stage.process
    batch = tiny.batch_of(stage, 6)
    random = {
        "noise": tf.random.stateless_normal((6, 8, 8, 3), [1, 2]),
        "level": tf.reshape(tf.range(12.0) / 12, (6, 2)),
    }
    found = stage.training_loss(network, batch, random, None).numpy()
    steps = np.floor(np.arange(0, 12, 2) / 12 * 1000).astype(int)
    kept = process.alphas_cumprod[steps][:, None, None, None]
    z = np.sqrt(kept) * batch["image"] + np.sqrt(1 - kept) * random["noise"]
    logits = np.asarray(
        network({"image": tf.constant(z, tf.float32), "time": tf.constant(steps, tf.float32)}), np.float64
    )
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), batch["label"]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A classifier that is linear in the image, trained for 60 steps; not to be changed."""
    bindings = [
        "classifier/Training.steps = 60",
        "classifier/Monitoring.grid_every = 30",
        "classifier/Training.batch = 32",
    ]
    asked = recipe.load(untrained.GUIDED, [*bindings, "classifier/ClassifierStage.held_out = 130"])
    experiment = Experiment(asked, asked.build(), tmp_path_factory.mktemp("trained"))
    experiment.pipeline.stages[0].network = untrained.Classifier()
    experiment.train(experiment.pipeline.stages[:1])
    return experiment


def accuracies(experiment: Experiment) -> list[dict[str, str]]:
    with (experiment.workdir / "stages/classifier/accuracy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_its_accuracy_on_held_out_images_rises(trained: Experiment):
    rows = accuracies(trained)
    assert [(row["step"], row["weights"], row["images"]) for row in rows] == [
        (step, weights, "130") for step in ("30", "60") for weights in ("raw", "ema")
    ]
    last = {name: float(value) for name, value in rows[-1].items() if name.startswith("top")}
    assert last["top_1_quarter_1"] > 0.25  # of ten classes, with hardly any noise
    assert last["top_5"] > last["top_1"]
    assert last["top_1_quarter_1"] > last["top_1_quarter_4"]
    assert Checkpoints(trained.stage_folder(trained.pipeline.stages[0]) / "checkpoints").latest() == 60


def test_its_accuracies_are_forgotten_with_the_steps_that_are_taken_again(tmp_path: Path):
    observer = HeldOutAccuracy(None, None, tf.distribute.get_strategy(), tmp_path, 0)  # type: ignore[arg-type]
    row = dict.fromkeys(observer.fields, 0.5)
    write_rows(observer.path, observer.fields, [{**row, "step": step} for step in (10, 20, 30)])
    observer.rewind(20)
    assert [line.split(",")[0] for line in observer.path.read_text().splitlines()] == ["step", "10", "20"]


def test_it_makes_no_images(trained: Experiment):
    with pytest.raises(UserError, match="classifier makes no images: it is a classifier"):
        trained.sample_set(trained.pipeline.stages[:1], "last")
    alone = guided("Pipeline.stages = [@classifier/ClassifierStage()]")
    with pytest.raises(UserError, match="this recipe makes no images: of its stages"):
        alone.last


# ---- sets of samples


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An unconditional model guided to its labels, and an upsampler; not to be changed."""
    experiment = untrained.experiment_of(tmp_path_factory.mktemp("guided"), source=untrained.GUIDED)
    experiment.sample_set(experiment.pipeline.stages, "last")
    return experiment


def pixels(experiment: Experiment, name: str = "base") -> np.ndarray:
    found = read_images(experiment.workdir / "samples" / name, np.arange(24), 12)
    return np.round((found + 1) * 127.5).astype(int)


def labels(experiment: Experiment, name: str) -> list[int]:
    return read_set(experiment.workdir / "samples" / name, np.arange(24), 12)["label"].tolist()


def test_labels_are_drawn_for_a_model_that_is_not_told_them(sampled: Experiment):
    assert labels(sampled, "base") == labels(sampled, "sr") == [index % 10 for index in range(24)]
    assert not sampled.pipeline.cascade[0].conditioned_on_class
    identity = json.loads((sampled.workdir / "samples/base/set.json").read_text())
    checkpoint = Checkpoints(sampled.workdir / "stages/classifier/checkpoints")
    assert identity["classifier"] == {"step": 0, "hash": checkpoint.digest(0)}
    assert identity["sampler"]["guidance"] == {"class": "ClassifierGuidance", "classifier": "classifier", "scale": 1.0}
    assert "classifier" not in json.loads((sampled.workdir / "samples/sr/set.json").read_text())
    assert sampled.provenance()["samples"].keys() == {"base", "sr"}


def test_pictures_are_those_of_the_set(sampled: Experiment):
    """The base model's, enlarged: one class differs from another, and is the one of the set."""
    found = sampled.sample(labels=[0, 1, 2], seed=0)
    np.testing.assert_allclose(found.astype(int), pixels(sampled, "sr")[:3], atol=1)
    with pytest.raises(UserError, match=r"labels must be in 0 .. 9, got \[10\]"):
        sampled.sample(labels=[10])


def test_other_scales_and_other_classifiers_make_other_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bindings = ["Pipeline.stages = [@classifier/ClassifierStage(), @base/Stage()]", "SampleSet.count = 24"]

    def made(*more: str) -> np.ndarray:
        experiment = untrained.experiment_of(tmp_path, *bindings, *more, source=untrained.GUIDED)
        experiment.sample_set(experiment.pipeline.stages, "last")
        return pixels(experiment)

    first, stronger = made(), made("base/ClassifierGuidance.scale = 3")
    assert np.abs(first - stronger).max() > 1
    assert capsys.readouterr().out.count("they are made anew") == 1
    experiment = untrained.experiment_of(tmp_path, *bindings, source=untrained.GUIDED)
    classifier = experiment.pipeline.stages[0]
    state = untrained_state(classifier)
    Checkpoints(experiment.stage_folder(classifier) / "checkpoints").save(7, state.groups)
    other = made()
    assert np.abs(first - other).max() > 1
    # A step of --checkpoint is of the model; the classifier is the last one unless it is named.
    experiment.sample_set(experiment.pipeline.stages, "0")
    assert np.array_equal(pixels(experiment), other)
    experiment.sample_set(experiment.pipeline.stages, "classifier=0")
    assert np.array_equal(pixels(experiment), first)


def untrained_state(stage: Any) -> Any:
    """Other weights than those of the checkpoint at step 0."""
    from zoo.training.step import State

    state = State(stage, seed=0)
    for variable in state.ema:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [3, 4]))
    return state


def test_an_untrained_classifier_is_missed_before_anything_is_sampled(tmp_path: Path):
    experiment = untrained.experiment_of(tmp_path, "base/ClassifierGuidance.scale = 0", source=untrained.GUIDED)
    folder = experiment.workdir / "stages/classifier"
    folder.rename(tmp_path / "away")
    experiment.sample_set(experiment.pipeline.stages[1:2], "last")  # at scale 0 it is not asked
    (tmp_path / "away").rename(folder)
    experiment = untrained.experiment_of(tmp_path, source=untrained.GUIDED)
    folder.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"no checkpoint in .*classifier/checkpoints: train the stage first"):
        experiment.sample_set(experiment.pipeline.stages, "last")


# ---- mistakes

CONDITIONAL = ("base/Stage.conditioning = [@ClassLabel()]", "base/UNet.classes = 10")
MISTAKES = {
    "name": (["base/ClassifierGuidance.classifier = 'clasifier'"], "before 'base' (classifier), got 'clasifier'"),
    "order": (
        ["Pipeline.stages = [@base/Stage(), @classifier/ClassifierStage(), @sr/Stage()]"],
        "stands in Pipeline.stages before 'base' (there is none), got 'classifier'",
    ),
    "size": (["classifier/Images.size = 16"], "which it guides: 8 x 8 x 3 (with the channels), got 16 x 16 x 3"),
    "classes": (
        [*CONDITIONAL, "classifier/NoisyClassifier.out_classes = 7"],
        "out_classes must be 10, the classes of 'base', which it guides; got 7",
    ),
    "steps": (
        ["classifier/DiscreteProcess.steps = 500"],
        "which it guides: 1,000 steps of CosineSchedule (offset = 0.008, largest = 0.999); got 500 steps of Cosine",
    ),
    "schedule": (["classifier/DiscreteProcess.schedule = @LinearSchedule()"], "got 1,000 steps of LinearSchedule"),
    "selection": (
        [
            "classifier/Monitoring.selection = @Selection()",
            "classifier/Selection.score = @SmallFID()",
            "classifier/SmallFID.features = @DatasetClassifier()",
            "classifier/Selection.every = 4",
        ],
        "Monitoring.selection of stage 'classifier' must be None: a classifier makes no samples",
    ),
    "pairs": (["classifier/Images.low_resolution = 4"], "Images.low_resolution of stage 'classifier' must be None"),
    "scale": (["base/ClassifierGuidance.scale = -1"], "scale must not be negative, got -1"),
    "held out": (["classifier/ClassifierStage.held_out = 0"], "held_out must be positive, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_received_and_what_is_allowed(mistake: str):
    bindings, message = MISTAKES[mistake]
    with pytest.raises(UserError) as raised:
        guided(*bindings)
    assert message in str(raised.value)


def test_a_classifier_of_other_classes_than_the_data_is_refused_before_training(tmp_path: Path):
    """Of a model that is not told the class only the data say how many there are."""
    pipeline = guided("classifier/NoisyClassifier.out_classes = 7")
    for stage, message in zip(
        pipeline.stages[:2], ("as the data of stage 'classifier' have", "of stage 'base'"), strict=True
    ):
        with pytest.raises(ValueError, match=rf"out_classes must be 10.* {message}.* got 7"):
            stage.check_classes()
    asked = recipe.load(untrained.GUIDED, ["classifier/NoisyClassifier.out_classes = 7"])
    with pytest.raises(UserError, match="out_classes must be 10"):
        Experiment(asked, asked.build(), tmp_path).train(pipeline.stages)
    assert not (tmp_path / "stages").exists()


def test_a_denoiser_is_no_classifier():
    stage = guided().stages[0]
    with pytest.raises(ValueError, match="network must be a classifier, such as NoisyClassifier, got Denoiser"):
        ClassifierStage("classifier", untrained.Denoiser(), stage.process, stage.images, stage.training)


def test_a_sampler_with_a_schedule_of_its_own_needs_a_classifier_that_is_told_the_noise():
    bindings = ["base/Objective.process = @base/ContinuousNoiseProcess()", "base/ContinuousNoiseProcess.steps = 1000"]
    bindings += ["ContinuousNoiseProcess.schedule = @CosineSchedule()", "base/UNet.time = @LogSNREmbedding()"]
    own = ["base/DDIMSampler.steps = None", "base/DDIMSampler.process = @base/infer/ContinuousNoiseProcess()"]
    with pytest.raises(UserError, match="process needs a network that is told the log SNR"):
        guided(*bindings, *own, "base/infer/ContinuousNoiseProcess.steps = 20")
