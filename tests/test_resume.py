"""A run killed in training, inside a checkpoint, in sampling and in evaluation ends as one that was left alone."""

import csv
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo.training.checkpoints import Checkpoints

LIMIT = 240  # seconds for a part of a run, on a machine that does other things too


def killed(workdir: Path, due: Callable[[], bool], *flags: str, source: Path = tiny.RECIPE) -> str:
    """Starts the command, kills it once `due`; what it had written to the screen."""
    screen = workdir.with_suffix(".screen")
    with screen.open("w") as file:
        process = subprocess.Popen(
            tiny.command(workdir, *flags, source=source),
            cwd=tiny.ROOT,
            env=tiny.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + LIMIT
            while not due():
                assert process.poll() is None, f"it ended before it could be killed:\n{screen.read_text()[-2000:]}"
                assert time.monotonic() < deadline, f"it did not come so far:\n{screen.read_text()[-2000:]}"
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    return screen.read_text()


def rows(workdir: Path, stage: str) -> list[dict[str, str]]:
    with (workdir / "stages" / stage / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def variables(workdir: Path, stage: str, step: int) -> dict[str, np.ndarray]:
    """Everything in a checkpoint of a stage."""
    folder = workdir / "stages" / stage / "checkpoints" / f"{step:08d}"
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name != "_CHECKPOINTABLE_OBJECT_GRAPH"}


def images(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"].astype(int)


@pytest.mark.slow
def test_killed_at_every_part_of_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    finished, workdir = tiny.finished_run(tmp_path_factory.getbasetemp()), tmp_path / "run"
    folder, samples, cache = workdir / "stages/base/checkpoints", workdir / "samples", workdir / "cache"
    checkpoints = Checkpoints(folder)

    # ---- while a checkpoint is written, when there is one before it
    killed(workdir, lambda: checkpoints.steps()[-1:] > [0] and bool(list(folder.glob(".partial-*"))))
    last = checkpoints.steps()[-1]
    assert 0 < last < tiny.STEPS["base"]
    assert checkpoints.problem(last) is None
    (folder / ".partial-00000099").mkdir()  # for a kill that came between writing and renaming
    (folder / ".partial-00000099" / "variables.index").write_bytes(b"half")

    # ---- after the first shard of samples
    screen = killed(workdir, lambda: (samples / "base" / "shard-00000.npz").exists())
    assert f"base: going on from step {last}\n" in screen
    assert checkpoints.steps()[-1] == tiny.STEPS["base"]
    assert not list(folder.glob(".partial-*"))
    first_shard = (samples / "base" / "shard-00000.npz").stat().st_mtime_ns

    # ---- after the first part of the evaluation, the trained classifier
    screen = killed(workdir, lambda: bool(list(cache.glob("classifier-*.npz"))))
    assert re.findall("(base|sr): trained", screen) == ["base", "sr"]
    assert not (workdir / "results" / "sr.json").exists()
    assert (samples / "base" / "shard-00000.npz").stat().st_mtime_ns == first_shard

    # ---- to the end
    done = subprocess.run(
        tiny.command(workdir),
        cwd=tiny.ROOT,
        env=tiny.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FID-60 (shapes classifier)" in done.stdout
    assert "classifier of shapes train: trained" not in done.stdout  # it was, before the kill
    assert len(json.loads((workdir / "run.json").read_text())["invocations"]) == 4

    for stage, steps in tiny.STEPS.items():
        found, expected = rows(workdir, stage), rows(finished, stage)
        assert [int(row["step"]) for row in found] == list(range(tiny.LOG_EVERY, steps + 1, tiny.LOG_EVERY))
        for row, other in zip(found, expected, strict=True):
            for column in ("step", "images", "loss", "gradient_norm", "learning_rate"):
                assert row[column] == other[column]
        # With one thread between operations the processes agree to the bit: weights, averages, slots and samples.
        weights, others = variables(workdir, stage, steps), variables(finished, stage, steps)
        assert set(weights) == set(others)
        assert [name for name in weights if not np.array_equal(weights[name], others[name])] == []
        for path in sorted((finished / "samples" / stage).glob("shard-*.npz")):
            assert np.array_equal(images(samples / stage / path.name), images(path))


@pytest.mark.slow
def test_a_student_killed_in_training_ends_with_the_same_bits(tmp_path: Path):
    """It learns from the same teacher again, and not from what it had become itself."""
    source, flags = tiny.ROOT / "tests" / "recipes" / "tiny_distilled.gin", ("--do", "train")
    workdir, alone = tmp_path / "killed", tmp_path / "alone"
    student = Checkpoints(workdir / "stages/s2/checkpoints")
    killed(workdir, lambda: student.steps()[-1:] == [4], *flags, source=source)
    assert not (workdir / "stages/s1").exists()
    for place in (workdir, alone):
        command = tiny.command(place, *flags, source=source)
        done = subprocess.run(
            command, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("s2: going on from step 4" in done.stdout) == (place == workdir)
    for stage in ("base", "guided", "s2", "s1"):
        weights, others = variables(workdir, stage, 8), variables(alone, stage, 8)
        assert set(weights) == set(others)
        assert [name for name in weights if not np.array_equal(weights[name], others[name])] == []
