"""Which steps are trained: the choice of Improved DDPM against a plain version of it, and as state of a training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo import registry
from zoo.diffusion.level_samplers import LevelSampler, LossSecondMoment
from zoo.diffusion.losses import VLBLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.targets import NoiseTarget
from zoo.diffusion.variances import FixedSmallVariance
from zoo.training.checkpoints import Checkpoints
from zoo.training.trainer import Trainer

STEPS = 12
BINDINGS = (
    "Objective.levels = @LossSecondMoment()",
    "LossSecondMoment.history = 2",
    "base/DiscreteProcess.steps = 4",
    "base/Training.steps = 8",
    "sr/GaussianNoise.s = 2",
    "sr/GaussianNoise.largest = 4",
)


class Plain:
    """loss-second-moment as the public code of Improved DDPM has it: a list of losses a step, the newest last."""

    def __init__(self, steps: int, history: int, uniform: float) -> None:
        self.losses: list[list[float]] = [[] for _ in range(steps)]
        self.history, self.uniform = history, uniform

    def learn(self, index: np.ndarray, losses: np.ndarray) -> None:
        for step, loss in zip(index, losses, strict=True):
            self.losses[step] = [*self.losses[step], float(loss)][-self.history :]

    def probabilities(self) -> np.ndarray:
        steps = len(self.losses)
        if any(len(seen) < self.history for seen in self.losses):
            return np.full(steps, 1 / steps)
        root = np.sqrt(np.mean(np.square(self.losses), axis=1))
        return (1 - self.uniform) * root / root.sum() + self.uniform / steps


def test_every_level_sampler_is_under_contract():
    components = registry.load().components.values()
    assert [c.load() for c in components if c.family == "level samplers"] == [LossSecondMoment]


def test_loss_second_moment_remembers_as_the_public_code():
    """Also where one batch has a step more often than is remembered."""
    sampler, plain = LossSecondMoment(history=3, uniform=0.05), Plain(STEPS, 3, 0.05)
    random, state = np.random.default_rng(0), sampler.start(STEPS)
    warm = 0
    for _ in range(30):
        index = random.choice(STEPS, size=16, p=np.linspace(1, 3, STEPS) / np.linspace(1, 3, STEPS).sum())
        losses = random.lognormal(index / 6, 0.5).astype("float32")
        plain.learn(index, losses)
        state = sampler.learn(state, tf.constant(index, tf.int32), tf.constant(losses))
        np.testing.assert_allclose(sampler.probabilities(state), plain.probabilities(), rtol=1e-6)
        warm += np.ptp(plain.probabilities()) > 0
    assert 10 < warm < 30
    assert int(np.sum(state["seen"])) == 30 * 16


def remembered(losses: np.ndarray) -> dict[str, Any]:
    return {"losses": tf.constant(losses, tf.float32), "seen": tf.fill((len(losses),), 9)}


@pytest.mark.parametrize("sampler", [LossSecondMoment()], ids=["LossSecondMoment"])
def test_contract_of_level_samplers(sampler: LevelSampler):
    """Steps come as often as their probability says, and the weights leave the mean loss as it is."""
    state = remembered(np.geomspace(1, 1e4, STEPS)[:, None] * np.ones((1, 10)))
    p = np.asarray(sampler.probabilities(state))
    assert p.dtype == np.float64 and p.sum() == pytest.approx(1) and (p > 0).all()
    index, weight = sampler.choose(state, np.random.default_rng(1).random((200_000, 2)).astype("float32"))
    assert (index.dtype, weight.dtype) == (tf.int32, tf.float32)
    often = np.bincount(index, minlength=STEPS) / 200_000
    np.testing.assert_allclose(often, p, atol=5 * np.sqrt(p.max() / 200_000))
    np.testing.assert_allclose(weight, 1 / (STEPS * p[index]), rtol=1e-6)
    # the ends of the range, and a step that float32 alone could not meet
    ends, _ = sampler.choose(state, np.array([[0, 0], [1 - 2.0**-24, 1 - 2.0**-24]], "float32"))
    assert ends.numpy().tolist() == [0, STEPS - 1]


def test_losses_that_are_not_finite_teach_nothing():
    sampler = LossSecondMoment(history=2)
    state = remembered(np.ones((3, 2)))
    after = sampler.learn(state, tf.constant([0, 1, 0]), tf.constant([np.nan, np.inf, 7.0]))
    assert np.sort(after["losses"].numpy(), axis=1).tolist() == [[1, 7], [1, 1], [1, 1]]
    assert after["seen"].numpy().tolist() == [10, 9, 9]


def test_mistakes():
    with pytest.raises(ValueError, match="history must be positive, got 0"):
        LossSecondMoment(history=0)
    with pytest.raises(ValueError, match=r"uniform must be in \(0, 1\]: .* got 0"):
        LossSecondMoment(uniform=0.0)
    with pytest.raises(ValueError, match="it remembers the losses of steps, and object has none"):
        Objective(object(), NoiseTarget(), FixedSmallVariance(), VLBLoss(), LossSecondMoment())  # type: ignore[arg-type]


# ---- in training


def trainer_in(folder: Path) -> Trainer:
    return Trainer(tiny.stage("base", *BINDINGS), tf.distribute.get_strategy(), folder, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A training of 8 steps, with checkpoints of 4 and 8."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = trainer_in(folder)
    trainer.run()
    return trainer, folder


def test_what_is_remembered_is_part_of_a_checkpoint(trained: tuple[Trainer, Path]):
    """Gone on with from the middle, a training remembers what one that was not stopped does."""
    whole, folder = trained
    found = {name: variable.numpy() for name, variable in whole.state.groups["levels"].items()}
    assert found["seen"].sum() == 8 * tiny.BATCH
    assert (found["losses"] > 0).all()
    shutil.rmtree(folder / "checkpoints" / "00000008")
    assert "levels" in Checkpoints(folder / "checkpoints").groups(4)
    resumed = trainer_in(folder)
    resumed.run()
    for name, variable in resumed.state.groups["levels"].items():
        np.testing.assert_allclose(variable.numpy(), found[name], rtol=1e-4)


def test_losses_are_weighted_and_remembered_without(trained: tuple[Trainer, Path]):
    trainer, _ = trained
    assert trainer.state.levels is not None
    losses = np.array([[1, 1], [1, 1], [1, 1], [5, 5]], "float32")
    trainer.state.levels.variables["losses"].assign(losses)
    trainer.state.levels.variables["seen"].assign([2, 2, 2, 2])
    batch, key = tiny.batch_of(trainer.stage, tiny.BATCH), trainer.step.key
    random = trainer.step.draw(batch, key, tf.constant(0, tf.int64))
    np.testing.assert_array_equal(trainer.stage.objective.process.draw(random["level"]).index, random["step"])
    loss, _, each = trainer.step.gradients(batch, random, key)
    p = np.asarray(trainer.state.levels.sampler.probabilities(trainer.state.levels.variables))
    weights = 1 / (4 * p[random["step"].numpy()])
    assert float(loss) == pytest.approx(float(np.mean(weights * each.numpy())), rel=1e-5)
    assert len(set(np.round(weights, 3))) > 1
