"""Measurements of the tiny cascade on this machine."""

import time

import pytest
import tensorflow as tf

from zoo import measure, recipe
from zoo.console import UserError
from zoo.pipeline import Pipeline
from zoo.sampling import StageSampler

sample = StageSampler.sample
ONE = tf.distribute.OneDeviceStrategy("CPU:0")


def tiny_cascade() -> Pipeline:
    return recipe.load("tests/recipes/tiny.gin").build()


@pytest.mark.parametrize("name", ["base", "sr"])
def test_a_stage_is_measured(name: str, monkeypatch: pytest.MonkeyPatch):
    walks: list[list[int]] = []
    monkeypatch.setattr(StageSampler, "sample", lambda self, *given: walks.append(self.walks) or sample(self, *given))
    stage = tiny_cascade().stage(name)
    batch, micro_batches = stage.training.batch, stage.training.micro_batches
    found = measure.measure_stage(stage, ONE, images=4, micro_batches=2, sampled=64, limit=1.0)
    assert (found.replicas, found.images, found.micro_batches, found.sampled) == (1, 4, 2, 4)
    assert measure.STEPS[0] <= found.steps <= measure.STEPS[1]
    assert found.images_per_second == pytest.approx(4 / found.step_seconds)
    assert 0 < found.sampling_step_seconds < found.first_step_seconds
    assert found.step_seconds < found.first_step_seconds
    assert found.memory_bytes is None or 0 <= found.memory_bytes < 1e9
    assert {tuple(walk) for walk in walks} == {(measure.SAMPLING_STEPS - 1,)}  # not the whole way
    assert (stage.training.batch, stage.training.micro_batches) == (batch, micro_batches)


@pytest.mark.slow
def test_stages_without_a_plan_are_left_out(capsys: pytest.CaptureFixture[str]):
    found = measure.measure(tiny_cascade(), ONE, {"base": (2, 1)}, limit=0.1)
    assert list(found) == ["base"]
    assert "measuring base: steps of 2 images of the batch of 8" in capsys.readouterr().out


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="does not divide"):
        measure.measure_stage(tiny_cascade().stage("base"), ONE, images=5, micro_batches=2, sampled=1, limit=0.1)


def test_steps_are_counted_by_time():
    assert len(measure._timed(lambda _: None, limit=10.0)) == measure.STEPS[1]
    assert len(measure._timed(lambda _: time.sleep(0.02), limit=0.001)) == measure.STEPS[0]


def test_memory_is_that_of_large_tensors():
    memory = measure._Memory(ONE)
    held = tf.random.stateless_uniform([1000, 1000], [0, 0])
    memory.restart()
    product = tf.linalg.matmul(held, held)
    assert memory.peak is None or memory.peak == pytest.approx(held.shape[0] ** 2 * 8, rel=0.1)
    del product
