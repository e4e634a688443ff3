"""Samplers: their order of convergence in closed form, and what a walk remembers."""

from types import SimpleNamespace
from typing import Any

import gaussian_walks
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo import registry, sampling
from zoo.data.crops import CenterCrop
from zoo.diffusion.dpm_solver import DPMSolverSampler
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.objective import Objective, Prediction
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, DynamicClipping, Restart, Sampler
from zoo.diffusion.targets import VelocityTarget
from zoo.diffusion.variances import InterpolatedVariance
from zoo.pipeline import Stage
from zoo.sampling import StageSampler
from zoo.training import randomness
from zoo.training.precisions import Float32

# ------------------------------------------------------------------ order


def test_every_sampler_is_looked_at():
    listed = {name for name, c in registry.load().components.items() if c.family == "samplers"}
    assert listed == {name.partition(",")[0] for name in gaussian_walks.SAMPLERS}


@pytest.mark.parametrize("name", gaussian_walks.SAMPLERS)
def test_order_of_convergence(name: str):
    """Twice the steps are half the error of a sampler of first order, and a quarter of one of second."""
    sampler, order = gaussian_walks.SAMPLERS[name]
    counts = [16, 32, 64] if sampler.random else [32, 64, 128]
    errors = gaussian_walks.errors(sampler, counts)
    slopes = -np.diff(np.log2(errors))
    assert slopes == pytest.approx([order, order], abs=0.15), errors


def test_second_order_is_better_at_few_steps():
    found = {name: gaussian_walks.errors(gaussian_walks.SAMPLERS[name][0], [16])[0] for name in gaussian_walks.SAMPLERS}
    assert found["DPMSolverSampler"] < 0.5 * min(error for name, error in found.items() if name != "DPMSolverSampler")


# ------------------------------------------------------------------ memory

SHAPE = (3, 4, 5, 2)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def test_a_first_step_is_ddim():
    """In exact arithmetic DPM-Solver++ without a step before it is DDIM (Lu et al. 2022, section 4)."""
    plan = LogSNRProcess(CosineLogSNRSchedule()).respace(8)
    for step in range(8):
        prediction = Prediction(normal(1), None, None, None)
        index = np.full(3, step, "int32")
        one, other = (
            sampler.step(prediction, normal(2), index, normal(3), plan)
            for sampler in (DPMSolverSampler(), DDIMSampler())
        )
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_what_is_remembered():
    plan, z = LogSNRProcess(CosineLogSNRSchedule()).respace(8), normal(0)
    sampler, at = DPMSolverSampler(), np.full(3, 5, "int32")
    memory = sampler.start(z)
    assert [part.shape for part in memory] == [SHAPE, (3, 1, 1, 1)]
    first, memory = sampler.advance(Prediction(normal(1), None, None, None), z, at, z, plan, memory)
    np.testing.assert_array_equal(memory[0], normal(1))
    # D = x + (x - x before) / (2 r), which the next step takes in place of x
    h = -np.diff(plan.logsnr) / 2  # of the steps from 1, 2 ..
    extrapolated = normal(4) + (normal(4) - normal(1)) * h[3] / (2 * h[4])
    second, _ = sampler.advance(Prediction(normal(4), None, None, None), first, at - 1, z, plan, memory)
    expected = sampler.step(Prediction(extrapolated, None, None, None), first, at - 1, z, plan)
    np.testing.assert_allclose(second, expected, rtol=1e-9)


class Blur(keras.Model):
    """A small fixed denoiser, without weights that matter."""

    def build(self, shapes: dict[str, Any]) -> None:
        self.unused = self.add_weight(shape=(1,), name="unused")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        level = ops.reshape(ops.sin(inputs["logsnr"]), (-1, 1, 1, 1))
        return ops.tanh(inputs["image"] * level) + 0 * self.unused


def sampled(sampler: Sampler, split: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Three images, walked in compiled calls of `split` steps."""
    monkeypatch.setattr(sampling, "STEPS", split)
    training = SimpleNamespace(recomputation=None, precision=Float32())
    data = SimpleNamespace(
        size=4, shape=(4, 4, 1), low_resolution=None, channels=1, classes=0, text=None, crop=CenterCrop()
    )
    process = LogSNRProcess(CosineLogSNRSchedule(), 20)
    objective = Objective(process, VelocityTarget(), InterpolatedVariance(), SimpleLoss())
    stage = Stage("base", Blur(), objective, data, sampler, training)  # type: ignore[arg-type]
    walker = StageSampler(stage, stage.build_network(0), 3)
    weights: list[tf.Variable] = [stage.network.unused.value]
    return walker.sample(randomness.key(0, "base"), np.arange(3), {}, weights)


@pytest.mark.parametrize("make", [AncestralSampler, DPMSolverSampler])
def test_a_walk_does_not_depend_on_where_it_is_split(make: type[Sampler], monkeypatch: pytest.MonkeyPatch):
    whole, parts = (sampled(make(steps=12), split, monkeypatch) for split in (12, 5))
    np.testing.assert_array_equal(whole, parts)
    assert whole.std() > 0.1


def test_a_restart_remembers_nothing(monkeypatch: pytest.MonkeyPatch):
    """Its first step has none before it: that of the first walk was from another image."""
    again = DPMSolverSampler(steps=20, restart=Restart(8))
    whole, parts = (sampled(again, split, monkeypatch) for split in (20, 3))
    np.testing.assert_array_equal(whole, parts)
    assert (whole != sampled(DPMSolverSampler(steps=20), 20, monkeypatch)).any()


def test_dynamic_clipping_keeps_a_share_of_the_values():
    x = 3 * normal(5)
    found = np.asarray(DynamicClipping(0.9)(ops.convert_to_tensor(x)))
    for image, clipped in zip(x, found, strict=True):
        s = np.quantile(np.abs(image), 0.9)
        assert s > 1
        np.testing.assert_allclose(clipped, np.clip(image, -s, s) / s, rtol=1e-6)
        assert np.mean(np.abs(clipped) < 1) == pytest.approx(0.9, abs=0.03)
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 1\], got 0.0"):
        DynamicClipping(0.0)
