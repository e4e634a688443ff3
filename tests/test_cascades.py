"""Cascades: truncated and non-truncated augmentation, low-resolution images from elsewhere, walks that begin again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops
from scipy.linalg import sqrtm
from untrained import experiment_of

from zoo.console import UserError
from zoo.data.crops import CenterCrop
from zoo.diffusion.conditioning import GaussianNoise, LowResolution, Origin
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import ContinuousNoiseProcess, DiscreteProcess
from zoo.diffusion.samplers import AncestralSampler
from zoo.diffusion.schedules import CosineSchedule
from zoo.diffusion.targets import ImageTarget
from zoo.diffusion.variances import FixedSmallVariance
from zoo.experiment import Experiment
from zoo.origins import TruncatedSamples
from zoo.pipeline import Stage
from zoo.sample_files import level_path, shard_path
from zoo.sampling import StageSampler
from zoo.training import randomness
from zoo.training.precisions import Float32

TRUNCATED = (
    "base/DDIMSampler.steps = 'ddim4'",
    "sr/LowResolution.origin = @TruncatedSamples()",
    "sr/GaussianNoise.s = 251",
)


def sampled(workdir: Path, *bindings: str) -> Experiment:
    """The tiny cascade, sampled."""
    experiment = experiment_of(workdir, "SampleSet.count = 12", *bindings)
    experiment.sample_set(experiment.pipeline.stages, "last")
    return experiment


def images(experiment: Experiment, stage: str, s: int | None = None) -> np.ndarray:
    """What is in the first shard of a stage."""
    path = shard_path(experiment.workdir / "samples" / stage, 0)
    with np.load(path if s is None else level_path(path, s)) as arrays:
        return arrays["arr_0"]


# ------------------------------------------------------------------ truncated sampling


@pytest.fixture(scope="module")
def truncated(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A truncated cascade; not to be changed."""
    return sampled(tmp_path_factory.mktemp("truncated"), *TRUNCATED)


def test_the_walk_keeps_what_it_has_come_to(truncated: Experiment):
    """z_s is what the steps above s leave; one more walk from there gives the image."""
    stage = truncated.pipeline.stage("base")
    walker = StageSampler(stage, stage.network, 8)
    weights = [variable.value for variable in stage.network.trainable_variables]
    key = randomness.key(0, "base/sampling")
    labels = {"label": np.arange(8) % 10}
    made = walker.walk(key, np.arange(8), labels, weights, levels=(0, 251, 501, 751))
    assert set(made) == {0, 251, 501, 751}
    assert np.array_equal(made[0], walker.sample(key, np.arange(8), labels, weights))
    assert np.array_equal(made[251], images(truncated, "base", 251)[:8])
    # 'ddim4' visits the levels 751, 501, 251 and 1: its first step (number 3) leaves z_501.
    start, given = walker._start(key, tf.range(8), {"label": tf.range(8) % 10})
    values = walker._values(weights)
    arguments = (key, tf.range(8))
    z, memory = walker._walk(values, start, (), given, tf.constant(3), tf.constant(3), *arguments)
    np.testing.assert_allclose(z, made[501], atol=1e-6)
    z, _ = walker._walk(values, z, memory, given, tf.constant(2), tf.constant(0), *arguments)
    np.testing.assert_allclose(z, made[0], atol=1e-6)


def test_the_next_stage_is_given_z_s_as_it_is(truncated: Experiment, tmp_path: Path):
    stage = truncated.pipeline.stage("sr")
    given = stage.low_resolution_images(np.arange(12), truncated.workdir / "samples" / "base", 12)
    assert np.array_equal(given["z_s"], images(truncated, "base", 251))
    inputs = stage.sampling_inputs(given, {})
    assert np.array_equal(inputs["low_resolution"], given["z_s"])
    assert set(np.asarray(inputs["low_resolution_time"])) == {251}
    assert stage.conditioning_draws({"z_s": given["z_s"].shape}) == {}  # no noise is added
    # Not truncated, the same level is reached with fresh noise: other images of the same spread.
    usual = sampled(tmp_path, TRUNCATED[0], TRUNCATED[2])
    assert not (usual.workdir / "samples" / "base" / "s0251").exists()
    assert np.array_equal(images(usual, "base"), images(truncated, "base"))
    assert (images(usual, "sr") != images(truncated, "sr")).mean() > 0.5


def test_one_pass_keeps_every_level_that_is_asked_for(tmp_path: Path):
    experiment = sampled(tmp_path, *TRUNCATED, "sr/TruncatedSamples.levels = (501, 751)")
    folder = experiment.workdir / "samples" / "base"
    assert sorted(path.name for path in folder.glob("s0*")) == ["s0251", "s0501", "s0751"]
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    other = Experiment(experiment.recipe, experiment.pipeline, tmp_path)
    noise = other.pipeline.stage("sr").low_resolution.augmentation
    noise.s = 501  # of the search: the base model is not sampled again
    other.sample_set(other.pipeline.stages, "last")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == times


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["sr/GaussianNoise.s = 300"], "s must be a level that the 4 steps of stage 'base' visit: 251 or 501, got 300"),
        (["sr/TruncatedSamples.levels = (10,)"], "visit: 1 or 251, got 10"),
        (
            ["sr/DiscreteProcess.steps = 999", "sr/GaussianNoise.process = @sr/DiscreteProcess()"],
            "to the process of 'base'",
        ),
        (["sr/LowResolution.augmentation = None"], "which needs GaussianNoise"),
        (["sr/TruncatedSamples.levels = (0,)"], "levels must be whole and positive"),
    ],
)
def test_levels_that_cannot_be_had(bindings: list[str], message: str):
    with pytest.raises((UserError, ValueError), match=message.replace("(", r"\(")):
        tiny.pipeline(*TRUNCATED, *bindings)


def test_pictures_take_the_same_way(truncated: Experiment):
    """What is sampled in memory for a person is what the sample set holds."""
    labels = (np.arange(8) % 10).tolist()
    made = truncated.sample(labels=labels, seed=0)
    assert np.abs(made.astype(int) - images(truncated, "sr")[:8]).max() <= 1


# ------------------------------------------------------------------ images from elsewhere


def test_real_images_with_their_labels(tmp_path: Path):
    bindings = ["sr/LowResolution.origin = @RealImages()", "sr/RealImages.split = 'test'"]
    experiment = sampled(tmp_path, *bindings, "SampleSet.count = 20", "SampleSet.shard = 12")
    stage = experiment.pipeline.stage("sr")
    assert experiment.pipeline.before(stage) is None
    real = list(stage.images.examples("test", 20, seed=0).as_numpy_iterator())
    first = stage.low_resolution_images(np.arange(12), None, 12)
    second = stage.low_resolution_images(np.arange(12, 20), None, 12)
    low = np.concatenate([first["low_resolution"], second["low_resolution"]])
    assert np.array_equal(np.round((low + 1) * 127.5), [example["low_resolution"] for example in real])
    assert not (tmp_path / "samples" / "base").exists()  # whose samples nobody would take
    with np.load(shard_path(tmp_path / "samples" / "sr", 0)) as arrays:
        assert arrays["arr_1"].tolist() == [int(example["label"]) for example in real[:12]]
    assert experiment.set_identity(stage, {}, None)["data"] == stage.images.source.fingerprint("test")
    with pytest.raises(UserError, match="has 200 images, number 202 is asked for: sample fewer"):
        stage.low_resolution_images(np.arange(198, 202), None, 12)


def test_images_of_a_file(tmp_path: Path):
    path = tmp_path / "low.npz"
    stored = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(path, arr_0=stored, arr_1=np.arange(12) // 2)
    bindings = ["sr/LowResolution.origin = @StoredImages()"]
    experiment = sampled(tmp_path / "run", *bindings, f"sr/StoredImages.path = '{path}'")
    with np.load(shard_path(tmp_path / "run" / "samples" / "sr", 0)) as arrays:
        assert arrays["arr_1"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    made = experiment.sample(count=8, seed=0)
    assert np.abs(made.astype(int) - images(experiment, "sr")[:8]).max() <= 1
    stage = experiment.pipeline.stage("sr")
    with pytest.raises(UserError, match="has 12 images, number 13 is asked for"):
        stage.low_resolution_images(np.arange(13), None, 12)
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((1, 9, 9, 3), np.uint8))
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((1, 8, 8, 3)))
    (tmp_path / "text.npz").write_text("text")
    for name, message in (
        ("large", r"must hold images \[N, 8, 8, 3\]"),
        ("float", "must be uint8"),
        ("text", "must be an npz"),
    ):
        stage.low_resolution.origin.path = str(tmp_path / f"{name}.npz")
        with pytest.raises(UserError, match=message):
            stage.low_resolution_images(np.arange(1), None, 12)


# ------------------------------------------------------------------ more sampling steps


def test_a_restart_walks_part_of_the_way_again(tmp_path: Path):
    bindings = ["Pipeline.stages = [@base/Stage()]", "base/DDIMSampler.steps = 'ddim4'"]
    once = sampled(tmp_path / "once", *bindings)
    again = [*bindings, "base/DDIMSampler.restart = @Restart()", "Restart.step = 501"]
    twice = sampled(tmp_path / "twice", *again)
    assert once.pipeline.stages[0].sampler_steps == 4
    assert twice.pipeline.stages[0].sampler_steps == 4 + 3
    difference = np.abs(images(twice, "base").astype(int) - images(once, "base"))
    assert 1 < difference.mean() < 80  # other images, of the same start
    thrice = sampled(tmp_path / "thrice", *again, "Restart.times = 2")
    assert thrice.pipeline.stages[0].sampler_steps == 4 + 3 + 3
    assert (images(thrice, "base") != images(twice, "base")).mean() > 0.5
    with pytest.raises((UserError, ValueError), match="251 or 501, got 300"):
        tiny.pipeline(*again, "Restart.step = 300")
    with pytest.raises((UserError, ValueError), match=r"step must be in 1 .. 1000"):
        tiny.pipeline(*again, "Restart.step = 1001")


# ------------------------------------------------------------------ levels told as log SNR


def test_noise_of_a_continuous_process_is_told_as_log_snr():
    process = ContinuousNoiseProcess(CosineSchedule(), 50)
    assert LowResolution(GaussianNoise(process, s=2)).level == "low_resolution_logsnr"
    zeros = np.zeros((3, 4, 4, 3), np.float32)
    noise = np.ones_like(zeros)
    told = []
    for s in (0, 9, 9.5, 10, 50):
        inputs = GaussianNoise(process, s=s).apply(zeros, {"augmentation_noise": noise})
        sigma = 0 if s == 0 else float(inputs["low_resolution"][0, 0, 0, 0])  # zeros plus sigma times ones
        logsnr = float(inputs["low_resolution_logsnr"][0])
        assert sigma == pytest.approx(np.sqrt(1 / (1 + np.exp(logsnr))), abs=2e-4)
        told.append(logsnr)
    assert told == sorted(told, reverse=True)
    assert sigma == pytest.approx(np.sqrt(1 - process.signal(50)), abs=1e-6)
    half = GaussianNoise(process, s=9.5).apply(zeros + 1, {"augmentation_noise": 0 * noise})["low_resolution"]
    neighbours = np.sqrt([process.signal(9), process.signal(10)])
    assert float(half[0, 0, 0, 0]) == pytest.approx(neighbours.mean(), abs=1e-6)  # half way in sqrt(abar)
    with pytest.raises(ValueError, match="whole number"):
        GaussianNoise(DiscreteProcess(CosineSchedule(), 50), s=9.5)


def test_training_levels_fill_the_whole_range_of_a_continuous_process():
    process = ContinuousNoiseProcess(CosineSchedule(), 50)
    count = 500
    levels = (np.arange(count) + 0.5) / count
    random = {
        "augmentation_noise": np.zeros((count, 1, 1, 1), np.float32),
        "augmentation_level": np.stack([levels, levels, levels * 50 % 1], axis=1).astype(np.float32),
    }
    inputs = GaussianNoise(process, s=3, smallest=3, largest=20).augment(np.ones((count, 1, 1, 1), np.float32), random)
    alpha = np.ravel(inputs["low_resolution"])
    assert alpha.max() <= np.sqrt(process.signal(2)) + 1e-6
    assert alpha.min() >= np.sqrt(process.signal(20)) - 1e-6
    assert len(np.unique(alpha.round(5))) > 150  # and not the 18 steps alone
    np.testing.assert_allclose(inputs["low_resolution_logsnr"], np.log(alpha**2 / (1 - alpha**2)), rtol=1e-3)


# ------------------------------------------------------------------ data whose best denoiser is known
# Images of independent blocks of 2 x 2 Gaussian pixels; the low-resolution pixel is the mean of its block. Then the
# exact posterior means are linear, and no network has to be trained (CDM, sections 3.1 to 3.3).

STEPS = 400
IMAGES, SIDE = 8, 50  # SIDE x SIDE blocks an image
COUNT = IMAGES * SIDE**2
MEAN = 0.2
DISTANCES = np.array([[0.0, 0.5, 0.5, 0.8], [0.5, 0.0, 0.8, 0.5], [0.5, 0.8, 0.0, 0.5], [0.8, 0.5, 0.5, 0.0]])
COVARIANCE = 0.25 * np.exp(-2 * DISTANCES)  # of the four pixels: nearer ones are more alike
AVERAGE = np.full((1, 4), 0.25)


def blocks(images: Any, side: int) -> Any:
    """[B, SIDE side, SIDE side, 1] -> [B, SIDE^2, side^2]."""
    parts = ops.reshape(images, (-1, SIDE, side, SIDE, side))
    return ops.reshape(ops.transpose(parts, (0, 1, 3, 2, 4)), (-1, SIDE**2, side**2))


class Posterior(keras.Model):
    """E[x | z_t, y_s] of Gaussian blocks x, where y_s is the noisy low-resolution image, if there is one.

    Args:
        mean: of x, as this model believes it to be; so its `covariance`.
        s: None for a base model, else the level of the augmentation.
    """

    def __init__(self, process: DiscreteProcess, mean: float, covariance: np.ndarray, s: int | None = None) -> None:
        super().__init__()
        size = len(covariance)
        self.side, self.conditional = int(np.sqrt(size)), s is not None
        observed = np.vstack([np.eye(size), AVERAGE]) if self.conditional else np.eye(size)
        low = process.signal(s or 0)
        gains, offsets = [], []
        for signal in process.alphas_cumprod:
            # z = a x + sqrt(1 - a^2) noise and y = b A x + sqrt(1 - b^2) noise, one below the other
            rates = np.sqrt(np.array([signal] * size + [low] * (len(observed) - size)))
            seen = rates[:, None] * observed
            spread = seen @ covariance @ seen.T + np.diag(1 - rates**2)
            gain = covariance @ seen.T @ np.linalg.inv(spread)
            gains.append(gain)
            offsets.append(mean - gain @ seen @ np.full(size, mean))
        self.gains, self.offsets = np.stack(gains).astype("float32"), np.stack(offsets).astype("float32")

    def build(self, shapes: dict[str, Any]) -> None:
        self.unused = self.add_weight(shape=(1,), name="unused")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        seen = [blocks(inputs["image"], self.side)]
        if self.conditional:
            seen.append(blocks(inputs["low_resolution"], 1))
        index = ops.cast(inputs["time"], "int32")
        gain, offset = (ops.take(ops.convert_to_tensor(table), index, axis=0) for table in (self.gains, self.offsets))
        x = ops.einsum("bij,bnj->bni", gain, ops.concatenate(seen, axis=-1)) + ops.expand_dims(offset, 1)
        x = ops.transpose(ops.reshape(x, (-1, SIDE, SIDE, self.side, self.side)), (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, SIDE * self.side, SIDE * self.side, 1)) + 0 * self.unused


def exact(name: str, network: Posterior, process: DiscreteProcess, low: LowResolution | None = None) -> StageSampler:
    """A sampler of a stage whose network is exact."""
    training = SimpleNamespace(recomputation=None, precision=Float32())
    small = None if low is None else SIDE
    side = SIDE * network.side
    data = SimpleNamespace(
        size=side, shape=(side, side, 1), low_resolution=small, channels=1, classes=0, text=None, crop=CenterCrop()
    )
    objective = Objective(process=process, target=ImageTarget(), variance=FixedSmallVariance(), loss=SimpleLoss())
    stage = Stage(name, network, objective, data, AncestralSampler(), training, () if low is None else (low,))
    return StageSampler(stage, stage.build_network(0), IMAGES)


def cascade(s: int, origin: Origin | None = None, wrong: float = 0.0) -> np.ndarray:
    """COUNT blocks [COUNT, 4] of a cascade of exact denoisers; `wrong` moves what the base model takes for the mean."""
    process = DiscreteProcess(CosineSchedule(), STEPS)
    base = exact("base", Posterior(process, MEAN + wrong, AVERAGE @ COVARIANCE @ AVERAGE.T), process)
    low = LowResolution(GaussianNoise(process, s=s), origin=origin)
    fine = exact("fine", Posterior(process, MEAN, COVARIANCE, s), process, low)
    indices, (before, after) = np.arange(IMAGES), ([part.network.unused.value] for part in (base, fine))
    levels = [] if origin is None else [s]
    made = base.walk(randomness.key(1, "base"), indices, {}, before, levels)
    given = {"z_s": made[s]} if levels else {"low_resolution": made[0]}
    images = fine.sample(randomness.key(1, "fine"), indices, given, after)
    return np.asarray(blocks(images, 2)).reshape(COUNT, 4)


def error(samples: np.ndarray) -> float:
    """Frechet distance of the samples from the true distribution."""
    covariance = np.cov(samples.T)
    cross = np.trace(np.real(sqrtm(covariance @ COVARIANCE)))
    return float(np.sum((samples.mean(0) - MEAN) ** 2) + np.trace(covariance + COVARIANCE) - 2 * cross)


@pytest.mark.parametrize("s", [1, 200])
@pytest.mark.parametrize("origin", [None, TruncatedSamples()], ids=["non-truncated", "truncated"])
def test_exact_cascades_reach_the_true_distribution(s: int, origin: Origin | None):
    samples = cascade(s, origin)
    np.testing.assert_allclose(samples.mean(0), MEAN, atol=5 * np.sqrt(0.25 / COUNT))  # five standard errors
    # Of a covariance the standard error is at most sqrt(2 / n) of the variance; 400 steps are not quite the limit.
    np.testing.assert_allclose(np.cov(samples.T), COVARIANCE, atol=0.25 * (5 * np.sqrt(2 / COUNT) + 0.01))


def test_augmentation_forgives_a_wrong_base_model():
    """The paper's argument: the larger s, the less of the first model's error reaches the last image."""
    errors = [error(cascade(s, wrong=0.6)) for s in (1, 200, 300, 390)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1  # four pixels are moved by 0.6: 4 x 0.36
    assert errors[-1] < errors[0] / 20
    assert error(cascade(200, TruncatedSamples(), wrong=0.6)) < errors[0] / 1.5
