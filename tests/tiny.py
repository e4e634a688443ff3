"""The tiny cascade that the tests train: its recipe, its stages, its command, and one finished run of it."""

import fcntl
import functools
import os
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from zoo import recipe
from zoo.pipeline import Pipeline, Stage
from zoo.training.step import State

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "tests" / "recipes" / "tiny.gin"
IMAGES, SHARD, BATCH = 60, 12, 8  # its sample set
STEPS = {"base": 60, "sr": 12}
LOG_EVERY = 2


def pipeline(*bindings: str) -> Pipeline:
    """The pipeline of the tiny recipe, with networks that have no variables yet."""
    return recipe.load(RECIPE, bindings).build()


def stage(name: str, *bindings: str) -> Stage:
    return pipeline(*bindings).stage(name)


def unsettle(state: State) -> None:
    """Moves every weight a little: in a new network all gradients but the last layer's are zero."""
    for index, variable in enumerate(state.raw):
        variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, [7, index]))


def batch_of(one: Stage, count: int) -> dict[str, tf.Tensor]:
    """The first training batch of a stage."""
    return next(iter(one.images.stream(seed=0).batch(count)))


def command(workdir: Path, *flags: str, source: Path = RECIPE) -> list[str]:
    return [sys.executable, "-m", "zoo.run", "--recipe", str(source), "--workdir", str(workdir), *flags]


def environment() -> dict[str, str]:
    """One thread between operations and two inside them: then a run has the same bits in every process."""
    return os.environ | {"TF_NUM_INTEROP_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "2"}


@functools.cache
def finished_run(base: Path) -> Path:
    """The work directory of one uninterrupted run, made once for all tests; its screen is in `screen.txt`.

    Args:
        base: `tmp_path_factory.getbasetemp()`; processes of pytest-xdist have theirs in a common folder.
    """
    base = base.parent if base.name.startswith("popen-") else base
    workdir = base / "finished" / "run"
    with (base / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "screen.txt").is_file():
            _run(workdir)
    return workdir


def _run(workdir: Path) -> None:
    done = subprocess.run(
        command(workdir), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (workdir / "screen.txt").write_text(done.stdout)
