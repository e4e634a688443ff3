"""A training that goes astray goes back to the last good checkpoint, leaves that data out, and gives up in the end."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo.training.distribution import choose
from zoo.training.step import StepResult, TrainingStep
from zoo.training.trainer import Trainer
from zoo.training.watchdog import Diverged, Incidents, Watch, Watchdog

STEPS = ("base/Training.steps = 24", "Monitoring.checkpoint_every = 4")


class SpoiltStep(TrainingStep):
    """Its noise is not a number at some positions of the stream."""

    spoilt: tuple[int, int] = (0, 0)

    def draw(self, batch: dict[str, tf.Tensor], key: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        drawn = super().draw(batch, key, position)
        spoilt = (position >= self.spoilt[0]) & (position < self.spoilt[1])
        return {**drawn, "noise": tf.where(spoilt, math.nan, drawn["noise"])}


class SpoiltTrainer(Trainer):
    spoilt: tuple[int, int] = (0, 0)

    def _make_step(self) -> TrainingStep:
        step = SpoiltStep(self.stage, self.strategy, self.seed)
        step.spoilt = self.spoilt
        return step


def spoilt(folder: Path, window: tuple[int, int], *bindings: str) -> Trainer:
    SpoiltTrainer.spoilt = window
    return SpoiltTrainer(tiny.stage("base", *STEPS, *bindings), choose("one").make(), folder, seed=0)


def test_a_spoilt_window_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A NaN at the eleventh batch: back to step 8, on with the batches from 12 on, and to the end."""
    trainer = spoilt(tmp_path, (10, 11))
    trainer.run()
    (incident,) = json.loads((tmp_path / "incidents.json").read_text())
    assert (incident["seen"], incident["restored"], incident["skipped"]) == (12, 8, 4)
    assert "base: the loss is nan" in capsys.readouterr().out
    assert trainer.checkpoints.steps()[-1] == 24
    assert all(np.isfinite(variable).all() for variable in trainer.state.raw)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(2, 25, 2))

    # A run that knows of the window from the start ends with the same bits.
    other = tmp_path / "other"
    other.mkdir()
    (other / "incidents.json").write_text((tmp_path / "incidents.json").read_text())
    again = spoilt(other, (10, 11))
    again.run()
    assert len(json.loads((other / "incidents.json").read_text())) == 1
    for one, two in zip(trainer.state.raw, again.state.raw, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_before_the_first_checkpoint(tmp_path: Path):
    trainer = spoilt(tmp_path, (1, 2), "base/Training.steps = 4")
    trainer.run()
    (incident,) = json.loads((tmp_path / "incidents.json").read_text())
    assert (incident["seen"], incident["restored"], incident["skipped"]) == (2, 0, 2)


def test_in_the_end_it_stops(tmp_path: Path):
    """Exit code 3 of the command, an account of every try, and the last good checkpoint whole."""
    trainer = spoilt(tmp_path, (10, 10**9), "Watchdog.tries = 2")
    with pytest.raises(Diverged, match=r"went astray 3 times after step 8(?s:.*)step 10: the loss is nan.*back to 8"):
        trainer.run()
    assert Diverged.code == 3
    assert len(json.loads((tmp_path / "incidents.json").read_text())) == 3
    assert trainer.checkpoints.latest() == 8


def test_without_a_watchdog_it_goes_on(tmp_path: Path):
    trainer = spoilt(tmp_path, (1, 2), "base/Training.steps = 4", "Training.watchdog = None")
    trainer.run()
    assert np.isnan(trainer.state.raw[0]).all()


def result(loss: float, norm: float = 1.0, taken: int = 1, scale: float = 1.0) -> StepResult:
    return StepResult(loss, norm, taken, scale, False)


def test_what_counts_as_astray():
    watch = Watch(Watchdog(explosion=10.0, window=3))
    assert watch.problem(result(5000.0), scaled=False) is None  # nothing to compare it with yet
    for loss in (1.0, 1.2, 0.8):
        assert watch.problem(result(loss), scaled=False) is None
    assert watch.problem(result(9.0), scaled=False) is None
    assert watch.problem(result(0.9), scaled=False) is None
    assert watch.problem(result(50.0), scaled=False) == "the loss is 50 after 0.9"
    assert "the norm of the gradient inf" in str(watch.problem(result(1.0, math.inf), scaled=False))
    # a scaled loss: overflows are no news, a collapsed scale is
    assert watch.problem(result(math.nan, math.nan, 0, 8.0), scaled=True) is None
    assert watch.problem(result(1.0, 1.0, 1, 0.5), scaled=True) == "the scale of the loss has collapsed to 0.5"


@pytest.mark.parametrize(
    "settings", [{"explosion": 1.0}, {"window": 0}, {"tries": 0}, {"smallest_scale": 0.0}], ids=lambda s: next(iter(s))
)
def test_settings_are_checked(settings: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        Watchdog(**settings)


def test_positions(tmp_path: Path):
    """The batches of a step depend on the incidents alone, also when an older checkpoint is gone back to."""
    incidents = Incidents(tmp_path / "incidents.json")
    assert [incidents.position(step) for step in (0, 5)] == [0, 5]
    assert incidents.until_jump(0) == []
    incidents.add("one", seen=12, restored=8, gave_up=False, write=True)
    incidents.add("two", seen=10, restored=8, gave_up=False, write=True)
    incidents.add("three", seen=23, restored=20, gave_up=False, write=True)
    assert [incidents.position(step) for step in (7, 8, 19, 20)] == [7, 14, 25, 29]
    assert incidents.until_jump(5) == [3]
    assert incidents.tries(8) == 2
    again = Incidents(tmp_path / "incidents.json")
    assert [again.position(step) for step in range(30)] == [incidents.position(step) for step in range(30)]
    assert "step 12: one; back to 8, 4 batches left out" in again.account()
    again.add("four", seen=21, restored=20, gave_up=True, write=False)
    assert again.tries(20) == 0  # a run that was mended and started again has all its tries
