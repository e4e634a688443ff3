"""Checkpoints: whole or not there, damage is found and named, and they fit one network only."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo.console import UserError
from zoo.training.checkpoints import Best, Checkpoints, Groups, of_stage
from zoo.training.monitors import Monitoring
from zoo.training.step import State
from zoo.training.trainer import restore_network
from zoo.whole_files import write_text

NAMES = ["block/kernel", "block/bias"]


def groups(seed: int, shape: tuple[int, ...] = (3, 4)) -> dict[str, dict[str, tf.Variable]]:
    """Raw and averaged weights and a slot of two variables, drawn from a seed."""
    generator = np.random.default_rng(seed)
    sizes = dict(zip(NAMES, (shape, shape[-1:]), strict=True))
    return {
        group: {name: tf.Variable(generator.normal(size=size).astype(np.float32)) for name, size in sizes.items()}
        for group in ("raw", "ema", "first")
    }


def values(some: Groups) -> list[np.ndarray]:
    return [variable.numpy() for name in sorted(some) for variable in some[name].values()]


def same(one: Groups, other: Groups) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(values(one), values(other), strict=True))


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    """Checkpoints at steps 5 and 10, the contents drawn from the step."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (5, 10):
        checkpoints.save(step, groups(step))
    return checkpoints


def test_round_trip_of_a_real_stage_is_exact_to_the_bit(tmp_path: Path):
    state = State(tiny.stage("sr"), seed=0)
    for index, variable in enumerate(variable for group in state.groups.values() for variable in group.values()):
        variable.assign(tf.random.stateless_normal(variable.shape, [1, index]))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, state.groups)

    other = State(tiny.stage("sr"), seed=1)
    assert set(other.groups) == {"raw", "ema", "first", "second"}
    assert not same(state.groups, other.groups)
    digest = checkpoints.restore(7, other.groups)
    assert same(state.groups, other.groups)

    network, found, step = restore_network(tiny.stage("sr"), tmp_path, "last", seed=2)
    assert (found, step) == (digest, 7)
    averages = [variable.numpy() for variable in network.trainable_variables]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(averages, state.ema, strict=True))


def test_the_last_few_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    assert checkpoints.steps() == []
    assert checkpoints.latest() is None
    for step in (0, 2, 11, 100, 101):
        checkpoints.save(step, groups(step))
    assert checkpoints.steps() == [11, 100, 101]
    assert checkpoints.latest() == 101


def test_a_half_written_one_is_passed_over_and_cleaned_away(saved: Checkpoints):
    leftover = saved.directory / ".partial-00000015"
    shutil.copytree(saved.directory / "00000010", leftover)
    (leftover / "manifest.json").unlink()
    assert saved.steps() == [5, 10]
    assert saved.latest() == 10
    saved.save(15, groups(15))
    assert not list(saved.directory.glob(".*"))
    restored = groups(0)
    saved.restore(15, restored)
    assert same(restored, groups(15))


def truncate(folder: Path) -> str:
    path = next(folder.glob("*.data-*"))
    path.write_bytes(path.read_bytes()[:-10])
    return path.name


def flip(folder: Path) -> str:
    path = next(folder.glob("*.data-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    return path.name


def remove_index(folder: Path) -> str:
    (folder / "variables.index").unlink()
    return "variables.index is missing"


def remove_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json"


def spoil_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_bytes(b"\xff{")
    return "manifest.json"


@pytest.mark.parametrize("damage", [truncate, flip, remove_index, remove_manifest, spoil_manifest])
def test_damage_is_named_and_the_one_before_is_taken(
    saved: Checkpoints, damage: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
):
    named = damage(saved.directory / "00000010")
    assert named in str(saved.problem(10))
    assert saved.latest() == saved.choose("last") == 5
    assert f"checkpoint 10 is damaged ({saved.problem(10)})" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"checkpoint 10 in .* is damaged"):
        saved.choose("10")
    # Training goes on from 5 and writes 10 again.
    saved.save(10, groups(10))
    assert saved.problem(10) is None
    restored = groups(0)
    saved.restore(10, restored)
    assert same(restored, groups(10))


def test_choose(saved: Checkpoints, tmp_path: Path):
    assert saved.choose("last") == 10
    assert saved.choose("5") == 5
    for wrong in ("nonsense", "7", "-5", ""):
        with pytest.raises(UserError, match=r"--checkpoint must be last, best or one of \[5, 10\]"):
            saved.choose(wrong)
    with pytest.raises(UserError, match="train the stage first"):
        Checkpoints(tmp_path / "nothing").choose("last")
    for step in (5, 10):
        truncate(saved.directory / f"{step:08d}")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        saved.choose("last")


def test_training_does_not_begin_anew_over_damaged_ones(saved: Checkpoints, tmp_path: Path):
    assert saved.resume_from() == 10
    assert Checkpoints(tmp_path / "nothing").resume_from() is None
    for step in (5, 10):
        flip(saved.directory / f"{step:08d}")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged; to train this stage anew, remove"):
        saved.resume_from()


def test_a_checkpoint_that_is_removed_while_it_is_read(saved: Checkpoints):
    """As by the training of the stage, which keeps the last few only."""
    shutil.rmtree(saved.directory / "00000010")
    with pytest.raises(UserError, match="was removed while it was read: is the stage being trained"):
        saved.restore(10, groups(0))


def renamed(some: Groups, names: list[str]) -> Groups:
    return {group: dict(zip(names, variables.values(), strict=True)) for group, variables in some.items()}


# What the network that asks has, beside the network that was saved.
OTHERS: dict[str, Callable[[], Groups]] = {
    "shapes": lambda: groups(0, (3, 5)),
    "names": lambda: renamed(groups(0), ["block/kernel", "block/scale"]),
    "larger": lambda: {name: {**some, "more/bias": tf.Variable([0.0])} for name, some in groups(0).items()},
    "smaller": lambda: {name: {NAMES[0]: some[NAMES[0]]} for name, some in groups(0).items()},
    "optimizer": lambda: {**groups(0), "velocity": groups(0)["first"]},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_network_is_refused(saved: Checkpoints, difference: str):
    with pytest.raises(UserError, match=r"does not fit this recipe's network: .+") as raised:
        saved.restore(10, OTHERS[difference]())
    assert "\n" not in str(raised.value)


# ---- what stays


def test_those_that_a_paper_looks_at_stay(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, keep_at=(5, 15, 100))
    for step in range(0, 25, 5):
        checkpoints.save(step, groups(step))
    assert checkpoints.steps() == [5, 15, 20]
    with pytest.raises(ValueError, match="keep_at must be multiples of checkpoint_every = 10, got"):
        Monitoring(checkpoint_every=10, keep_at=(20, 25))


def test_a_checkpoint_can_be_named_for_each_stage():
    assert [of_stage(which, "sr") for which in ("last", "best", "70", "base=5,sr=10", "base=5")] == [
        "last", "best", "70", "10", "last",
    ]  # fmt: skip
    for wrong in ("base=", "=5", "base=5,7", "base=5,,"):
        with pytest.raises(UserError, match="NAME=STEP,NAME=STEP of stages, got"):
            of_stage(wrong, "base")


def test_every_nth_and_the_best_stay(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, keep_every=10)
    assert checkpoints.best() is None
    for step in range(0, 15, 5):
        checkpoints.save(step, groups(step))
    with pytest.raises(UserError, match=r"--checkpoint best: .* were not scored; bind Monitoring.selection"):
        checkpoints.choose("best")
    checkpoints.save(15, groups(15))
    checkpoints.set_best(Best(15, 3.5, "FID-8"))
    for step in range(20, 40, 5):
        checkpoints.save(step, groups(step))
    assert checkpoints.steps() == [10, 15, 20, 30, 35]
    assert checkpoints.choose("best") == 15
    assert checkpoints.best() == Best(15, 3.5, "FID-8")
    checkpoints.set_best(Best(35, 2.5, "FID-8"))
    assert checkpoints.steps() == [10, 20, 30, 35]


def test_a_full_disk(saved: Checkpoints, capsys: pytest.CaptureFixture[str]):
    """Files may not grow beyond a kilobyte: what a full disk does to a write."""
    large = {name: {"kernel": tf.zeros((100, 100)), "bias": tf.zeros((10,))} for name in ("raw", "ema")}
    variables = {name: {key: tf.Variable(value) for key, value in some.items()} for name, some in large.items()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"checkpoint of step 15 could not be written .* the one of step 10 is whole. Make room"
        ):
            saved.save(15, variables)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(saved.directory.glob(".*"))
    assert saved.latest() == 10
    saved.save(15, variables)
    assert saved.latest() == 15


def test_the_hash_tells_weights_apart(saved: Checkpoints, tmp_path: Path):
    hashes = {saved.restore(step, groups(0)) for step in (5, 10)}
    again = Checkpoints(tmp_path / "again")
    again.save(5, groups(5))
    assert len(hashes) == 2
    assert again.restore(5, groups(0)) in hashes


def test_text_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "two\n"):
        write_text(path, text)
        assert path.read_text() == text
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]
