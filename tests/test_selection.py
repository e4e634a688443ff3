"""The best checkpoint by a score of averaged weights: scored when due, kept, chosen by its name, resumed."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from zoo.console import UserError
from zoo.data.images import Images
from zoo.training.distribution import choose
from zoo.training.selection import Selection
from zoo.training.trainer import Trainer

BINDINGS = ("base/Training.steps = 24", "Monitoring.checkpoint_every = 4", "Monitoring.keep = 1")


class GivenScores:
    """Values in turn, and what they were given for."""

    def __init__(self, *values: float) -> None:
        self.values, self.seen = list(values), []

    def title(self, count: int, images: Images) -> str:
        return f"score of {count}"

    def check(self, images: Images) -> None:
        if images.size != 8:
            raise UserError("only 8 x 8")

    def score(self, samples: np.ndarray, labels: np.ndarray | None, images: Images, cache: Path) -> float:
        self.seen.append((samples, labels, cache))
        return self.values.pop(0)


def trainer_of(folder: Path, score: GivenScores, *bindings: str) -> Trainer:
    stage = tiny.stage("base", *BINDINGS, *bindings)
    stage.training.monitoring.selection = Selection(score, every=8, images=20, batch=8)
    return Trainer(stage, choose("one").make(), folder, seed=0, cache=folder / "cache")


def test_the_best_is_kept_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scores = GivenScores(3.0, 1.0, 2.0)
    trainer = trainer_of(tmp_path, scores)
    trainer.run()
    assert trainer.checkpoints.steps() == [16, 24]
    assert trainer.checkpoints.choose("best") == 16
    assert (tmp_path / "selection.csv").read_text() == "step,value\n8,3.0\n16,1.0\n24,2.0\n"
    assert "base: score of 20 1.000 at step 16; the best is 1.000 at 16" in capsys.readouterr().out
    for samples, labels, cache in scores.seen:
        assert (samples.dtype, samples.shape) == (np.uint8, (20, 8, 8, 3))
        assert labels is not None
        assert labels.shape == (20,)
        assert cache == tmp_path / "cache"
    assert np.array_equal(scores.seen[0][1], scores.seen[1][1])  # the same labels and seeds each time
    assert not np.array_equal(scores.seen[0][0], scores.seen[1][0])


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_score_is_scored(tmp_path: Path):
    trainer_of(tmp_path, GivenScores(3.0, 1.0, 2.0)).run()
    (tmp_path / "selection.csv").write_text("step,value\n8,3.0\n16,1.0\n32,0.1\n")  # 32 is of a run that went back
    again = GivenScores(0.5)
    trainer_of(tmp_path, again, "base/Training.steps = 26").run()
    assert (tmp_path / "selection.csv").read_text() == "step,value\n8,3.0\n16,1.0\n24,0.5\n"
    assert len(again.seen) == 1


def test_what_cannot_be_scored_fails_before_training(tmp_path: Path):
    stage = tiny.stage("sr")
    stage.training.monitoring.selection = Selection(GivenScores(), every=4)
    with pytest.raises(UserError, match="only 8 x 8"):
        Trainer(stage, choose("one").make(), tmp_path, seed=0)


def test_with_the_small_fid(tmp_path: Path):
    """As a recipe says it, with the classifier of the dataset; the cache has it for the evaluation."""
    bindings = ["Monitoring.selection = @Selection()", "Selection.score = @SmallFID()", "Selection.every = 4"]
    bindings += ["SmallFID.features = @DatasetClassifier()", "Selection.images = 16", "Selection.batch = 8"]
    stage = tiny.stage("base", *bindings, "base/Training.steps = 8")
    trainer = Trainer(stage, choose("one").make(), tmp_path / "base", seed=0, cache=tmp_path / "cache")
    trainer.run()
    best = trainer.checkpoints.best()
    assert best is not None
    assert best.title == "FID-16 (shapes classifier)"
    assert best.value > 0
    assert list((tmp_path / "cache").glob("classifier-*.npz"))
