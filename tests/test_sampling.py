"""Sample sets: an image depends on its seed and index alone; shards are whole, resumable, and of one identity."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny
from untrained import experiment_of

from zoo import registry, sample_files
from zoo.console import UserError
from zoo.experiment import Experiment
from zoo.sample_files import claimed, is_whole, missing, read_images, shard_path, write_shard
from zoo.sampling import BalancedLabels, DrawnLabels, GivenLabels, Labels, SampleSet, StageSampler
from zoo.training import randomness
from zoo.training.checkpoints import Checkpoints
from zoo.training.step import State


def sample(experiment: Experiment, part: tuple[int, int] = (1, 1)) -> dict[str, Path]:
    """Samples all stages; the shards of each."""
    experiment.sample_set(experiment.pipeline.stages, "last", part)
    return {stage.name: experiment.workdir / "samples" / stage.name for stage in experiment.pipeline.stages}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shards(folder)}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with the whole sample set of both stages; not to be changed."""
    experiment = experiment_of(tmp_path_factory.mktemp("sampled"))
    sample(experiment)
    return experiment.workdir


@pytest.fixture
def copied(sampled: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(sampled, tmp_path / "run")
    return tmp_path / "run"


# ---- one image


@pytest.fixture(scope="module")
def walk() -> tuple[Any, State, dict[int, StageSampler]]:
    """The super-resolution stage with a U-Net, and samplers of two batch sizes."""
    stage = tiny.stage("sr")
    state = State(stage, seed=0)
    tiny.unsettle(state)
    return stage, state, {count: StageSampler(stage, state.network, count) for count in (4, 7)}


def walked(walk: Any, batch: int, indices: list[int], seed: int = 0) -> np.ndarray:
    """Images of the stage; label and low-resolution image are functions of the index."""
    stage, state, samplers = walk
    chosen = np.array(indices)
    low = np.stack([np.random.default_rng(index).uniform(-1, 1, (8, 8, 3)) for index in indices]).astype(np.float32)
    given = {"label": chosen % 10, "low_resolution": low}
    return samplers[batch].sample(randomness.key(seed, f"{stage.name}/sampling"), chosen, given, state.raw)


def test_an_image_depends_on_seed_and_index_alone(walk: Any):
    images = walked(walk, 4, [0, 1, 2, 3])
    assert images.shape == (4, 16, 16, 3)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1
    assert len({image.tobytes() for image in images}) == 4
    # To the bit wherever it stands in a padded batch, whatever stands beside it.
    others = walked(walk, 4, [9, 3, 1])
    assert np.array_equal(others[1], images[3])
    assert np.array_equal(others[2], images[1])
    # Within a grey level in a batch of another size.
    larger = walked(walk, 7, [5, 6, 2, 0, 3, 8])
    np.testing.assert_allclose(larger[[3, 2, 4]], images[[0, 2, 3]], atol=2 / 255)
    # And by no accident of a network that ignores its inputs.
    assert np.abs(walked(walk, 4, [0, 1, 2, 3], seed=1) - images).mean() > 0.05


def test_a_batch_larger_than_the_compiled_one_is_refused(walk: Any):
    with pytest.raises(ValueError, match="a batch of 5 images is larger than the compiled 4"):
        walked(walk, 4, [0, 1, 2, 3, 4])


def test_xla_compiles_the_whole_walk():
    """Static shapes and nothing on the host: as near to a TPU as a processor comes.

    XLA makes other floats of the same random bits, so the noise to start from is handed over.
    """
    stage = tiny.stage("base")
    state = State(stage, seed=0)
    tiny.unsettle(state)
    sampler = StageSampler(stage, state.network, 2)
    key, indices = randomness.key(0, "test"), tf.range(2)
    compiled = tf.function(sampler._prepare, jit_compile=True)
    z, inputs = compiled(key, indices, {"label": indices})
    assert z.shape == (2, 8, 8, 3)
    assert abs(float(tf.math.reduce_std(z)) - 1) < 0.2
    values = [tf.convert_to_tensor(variable) for variable in state.raw]
    walk = values, z, (), inputs, tf.constant(3), tf.constant(0), key, indices
    found, _ = tf.function(sampler._reverse_steps, jit_compile=True)(*walk)
    np.testing.assert_allclose(found, sampler._walk(*walk)[0], atol=2 / 255)


# ---- labels

LABELS = {
    "BalancedLabels": BalancedLabels(),
    "DrawnLabels": DrawnLabels(),
    "GivenLabels": GivenLabels((3, 1, 3, 0)),
}


def test_every_labels_component_is_under_contract():
    assert {n for n, c in registry.load().components.items() if c.family == "labels"} == set(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_contract_of_labels(name: str):
    labels: Labels = LABELS[name]
    found = labels(np.arange(200), 10, 5)
    assert found.dtype == np.int64
    assert found.shape == (200,)
    assert found.min() >= 0
    assert found.max() < 10
    # A function of seed and index, wherever the index stands.
    chosen = np.array([150, 3, 77, 3])
    assert np.array_equal(labels(chosen, 10, 5), found[chosen])


def test_balanced_labels():
    assert BalancedLabels()(np.array([0, 9, 10, 57]), 10, 0).tolist() == [0, 9, 0, 7]


def test_drawn_labels():
    indices = np.arange(4000)
    even, other = DrawnLabels()(indices, 4, 0), DrawnLabels()(indices, 4, 1)
    assert np.bincount(even) == pytest.approx([1000] * 4, abs=130)
    assert (even == other).mean() == pytest.approx(0.25, abs=0.05)
    skewed = DrawnLabels((1.0, 0.0, 3.0))(indices, 3, 0)
    assert np.bincount(skewed) == pytest.approx([1000, 0, 3000], abs=130)
    with pytest.raises(UserError, match="has 3 entries for 10 classes"):
        DrawnLabels((1.0, 0.0, 3.0))(indices, 10, 0)
    for wrong in ((-1.0, 2.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="frequencies must not be negative, nor all zero"):
            DrawnLabels(wrong)


def test_given_labels():
    assert GivenLabels((7, 2))(np.array([0, 1, 2, 5]), 10, 0).tolist() == [7, 2, 7, 2]
    with pytest.raises(UserError, match=r"labels must be in 0 .. 9, got \[10, -1\]"):
        GivenLabels((3, 10, -1))(np.arange(2), 10, 0)
    with pytest.raises(ValueError, match="labels must not be empty"):
        GivenLabels(())


# ---- a set of shards


def test_shards_hold_the_same_indices_whatever_the_count():
    few, many = SampleSet(7, BalancedLabels(), shard=3).shards(), SampleSet(100, BalancedLabels(), shard=3).shards()
    assert [shard.tolist() for shard in few] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(np.array_equal(a, b) for a, b in zip(few[:2], many, strict=False))
    for parameter in ("count", "batch", "shard"):
        with pytest.raises(ValueError, match=f"{parameter} must be positive, got 0"):
            SampleSet(**{"count": 5, "labels": BalancedLabels(), parameter: 0})


def test_layout_of_a_set(sampled: Path):
    for name, size in (("base", 8), ("sr", 16)):
        folder = sampled / "samples" / name
        assert [path.name for path in shards(folder)] == [f"shard-{number:05d}.npz" for number in range(5)]
        found = arrays(shards(folder)[1])
        assert set(found) == {"arr_0", "arr_1"}
        assert (found["arr_0"].dtype, found["arr_0"].shape) == (np.uint8, (12, size, size, 3))
        assert found["arr_1"].dtype == np.int64
        assert found["arr_1"].tolist() == [index % 10 for index in range(12, 24)]
        assert not (folder / "s0000").exists()
        assert not list(folder.glob(".*"))
        identity = json.loads((folder / "set.json").read_text())
        assert identity["checkpoint"]["step"] == 0
        assert identity["labels"] == {"class": "BalancedLabels"}


def test_whole_shards_are_kept_and_damaged_ones_made_again(copied: Path):
    folder = copied / "samples" / "sr"
    whole = contents(folder)
    times = {path: path.stat().st_mtime_ns for path in shards(folder)}
    cut, lost, flipped, *kept = shards(folder)
    cut.write_bytes(cut.read_bytes()[:-100])
    lost.unlink()
    (folder / f".{lost.name}.1-of-1.partial").write_bytes(b"half")
    flipped.write_bytes(with_flipped_bit(flipped.read_bytes(), 999))
    experiment = experiment_of(copied)
    assert missing(folder, experiment.pipeline.samples) == [0, 1, 2]
    sample(experiment)
    assert missing(folder, experiment.pipeline.samples) == []
    assert contents(folder) == whole  # to the bit
    assert [path.stat().st_mtime_ns for path in kept] == [times[path] for path in kept]
    assert not list(folder.glob(".*"))


def test_another_count_adds_or_removes_shards_and_moves_no_image(copied: Path, sampled: Path):
    folder, whole = copied / "samples" / "sr", contents(sampled / "samples" / "sr")
    stray = folder / "s0000" / "shard-00004.npz"
    stray.parent.mkdir()
    shutil.copy(shards(folder)[4], stray)
    sample(experiment_of(copied, "SampleSet.count = 30"))
    assert [len(arrays(path)["arr_0"]) for path in shards(folder)] == [12, 12, 6]
    assert shards(folder)[0].read_bytes() == whole["shard-00000.npz"]
    assert not stray.exists()
    last = arrays(shards(folder)[2])["arr_0"]
    assert np.array_equal(last, arrays(sampled / "samples" / "sr" / "shard-00002.npz")["arr_0"][:6])
    # One of several workers removes nothing: the rest may have been asked for more.
    sample(experiment_of(copied, "SampleSet.count = 12"), part=(1, 2))
    assert len(shards(folder)) == 3
    sample(experiment_of(copied))
    assert contents(folder) == whole


def test_independent_workers_make_the_set_together(sampled: Path, tmp_path: Path):
    experiment = experiment_of(tmp_path)
    folders = sample(experiment, part=(1, 2))
    assert [path.name for path in shards(folders["sr"])] == [f"shard-{number:05d}.npz" for number in (0, 2, 4)]
    sample(experiment, part=(2, 2))
    for name, folder in folders.items():
        assert contents(folder) == contents(sampled / "samples" / name)


def test_other_weights_or_settings_make_the_set_anew(copied: Path, capsys: pytest.CaptureFixture[str]):
    folders = {name: copied / "samples" / name for name in ("base", "sr")}
    before = {name: contents(folder) for name, folder in folders.items()}
    # Another sampler of the last stage: the stage before is kept.
    experiment = experiment_of(copied, "sr/DDIMSampler.eta = 0.5")
    sample(experiment)
    assert capsys.readouterr().out.count("they are made anew") == 1
    assert contents(folders["base"]) == before["base"]
    assert not set(contents(folders["sr"]).values()) & set(before["sr"].values())
    # Another reading of the network's output: all images are others.
    sample(experiment_of(copied, "Objective.target = @NoiseTarget()"))
    assert capsys.readouterr().out.count("they are made anew") == 2
    assert not set(contents(folders["base"]).values()) & set(before["base"].values())
    # Other weights of the first stage: the last one's images are others too.
    stage = experiment.pipeline.stages[0]
    state = State(stage, seed=0)
    for variable in state.ema:
        variable.assign_add(tf.fill(variable.shape, 0.05))
    Checkpoints(experiment.stage_folder(stage) / "checkpoints").save(3, state.groups)
    sample(experiment)
    assert capsys.readouterr().out.count("they are made anew") == 2
    assert not set(contents(folders["base"]).values()) & set(before["base"].values())


def test_unrounded_images_between_stages(sampled: Path, tmp_path: Path):
    """Where the next stage takes z_0 as it is, float32 images are stored beside the rounded ones."""
    experiment = experiment_of(tmp_path, "sr/LowResolution.rounding = None", "SampleSet.count = 18")
    folders = sample(experiment)
    assert not (folders["sr"] / "s0000").exists()
    for path in shards(folders["base"]):
        rounded, exact = arrays(path), arrays(folders["base"] / "s0000" / path.name)
        assert exact["arr_0"].dtype == np.float32
        assert np.array_equal(exact["arr_1"], rounded["arr_1"])
        assert np.array_equal(np.round((exact["arr_0"] + 1) * 127.5), rounded["arr_0"])
        assert np.abs(exact["arr_0"] - (rounded["arr_0"] / 127.5 - 1)).max() > 1e-4
    rounded_set = arrays(sampled / "samples" / "sr" / "shard-00000.npz")["arr_0"]
    difference = arrays(shards(folders["sr"])[0])["arr_0"].astype(int) - rounded_set
    assert 0 < np.abs(difference).max() < 16
    # A lost or damaged float file is made again.
    lost, damaged = (folders["base"] / "s0000" / f"shard-0000{number}.npz" for number in (0, 1))
    whole = [lost.read_bytes(), damaged.read_bytes()]
    lost.unlink()
    damaged.write_bytes(with_flipped_bit(whole[1], 2000))
    sample(experiment)
    assert [lost.read_bytes(), damaged.read_bytes()] == whole


# ---- files


def test_what_is_whole(tmp_path: Path):
    path = tmp_path / "shard-00000.npz"
    assert not is_whole(path, 3)
    np.savez(path, arr_0=np.zeros((3, 2, 2, 3), np.uint8))
    assert is_whole(path, 3)
    assert not is_whole(path, 2)
    content = path.read_bytes()
    for damaged in (content[:-30], content[:40], content + b"0", b"", b"text", content.replace(b"arr_0", b"arr_9")):
        path.write_bytes(damaged)
        assert not is_whole(path, 3)


def with_flipped_bit(content: bytes, place: int, bit: int = 3) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_no_flipped_bit_goes_unseen(tmp_path: Path):
    """The checksums of an npz file cover its arrays only: a quarter of these flips would pass them."""
    path = tmp_path / "shard-00000.npz"
    write_shard(path, np.zeros((1, 2, 2, 3), np.float32), np.array([4]))
    content = path.read_bytes()
    assert is_whole(path, 1)
    for place in range(len(content)):
        path.write_bytes(with_flipped_bit(content, place, place % 8))
        assert not is_whole(path, 1), place


def test_a_full_disk_leaves_whole_shards_and_goes_on(copied: Path, sampled: Path):
    experiment = experiment_of(copied)
    folder = copied / "samples" / "base"
    for path in shards(folder)[1:]:
        path.unlink()
    # Writing to this device fails as on a full disk.
    (folder / ".shard-00002.npz.1-of-2.partial").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"shard-00002.npz could not be written: No space left on device. It needs 2,\d"
    ):
        sample(experiment, part=(1, 2))
    assert list(contents(folder)) == ["shard-00000.npz"]
    assert not list(folder.glob(".*"))
    assert missing(folder, experiment.pipeline.samples) == [1, 2, 3, 4]
    sample(experiment)
    assert contents(folder) == contents(sampled / "samples" / "base")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "shard-00000.npz"
    write_shard(path, np.zeros((3, 2, 2, 3), np.float32), None)
    before = path.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(sample_files.os, "fsync", fails)
    with pytest.raises(UserError, match="Disk quota exceeded"):
        write_shard(path, np.ones((3, 2, 2, 3), np.float32), None)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_images_of_the_stage_before(tmp_path: Path):
    images = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    np.savez(tmp_path / "shard-00000.npz", arr_0=images[:3])
    np.savez(tmp_path / "shard-00001.npz", arr_0=images[3:])
    found = read_images(tmp_path, np.array([1, 2, 3]), shard=3)
    np.testing.assert_allclose(found, images[1:4] / 127.5 - 1, atol=1e-6)
    with pytest.raises(UserError, match="has 2 images, 3 are needed"):
        read_images(tmp_path, np.array([5]), shard=3)
    (tmp_path / "shard-00001.npz").write_bytes(b"PK\x03\x04 cut short")
    for index in (3, 8):
        with pytest.raises(UserError, match="is missing or damaged: sample the stage before first"):
            read_images(tmp_path, np.array([index]), shard=3)


# ---- several workers


def test_a_folder_belongs_to_one_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "samples"
    shard = shard_path(folder, 0)

    def claim(seed: int, part: tuple[int, int] = (1, 1)) -> str:
        with claimed(folder, {"seed": seed}, part) as digest:
            assert json.loads((folder / "set.json").read_text()) == {"seed": seed}
        return digest

    first = claim(0)
    for part in ((1, 1), (2, 3)):
        shard.write_bytes(b"")
        assert claim(0, part) == first
        assert shard.exists()
        assert capsys.readouterr().out == ""
        assert claim(1, part) != first
        assert not shard.exists()
        assert capsys.readouterr().out.count("they are made anew") == 1
        shard.write_bytes(b"")
        (folder / "set.json").unlink()  # of unknown origin
        claim(0, part)
        assert not shard.exists()
        capsys.readouterr()


def test_who_may_write_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample_files, "PATIENCE", 0.2)
    folder, ours, others = tmp_path / "samples", {"seed": 0}, {"seed": 1}
    shard = shard_path(folder, 0)
    with claimed(folder, ours, (1, 2)), claimed(folder, ours, (2, 2)), claimed(folder, ours, (1, 3)):
        shard.write_bytes(b"")
        with pytest.raises(UserError, match=f"part 1/2 of the folder of samples .* in use by process {os.getpid()}"):
            claimed(folder, ours, (1, 2)).__enter__()
        with pytest.raises(UserError, match="in use by workers that make samples of other weights or settings"):
            claimed(folder, others, (2, 3)).__enter__()
        with pytest.raises(UserError, match="in use by"):
            claimed(folder, ours).__enter__()
        assert shard.exists()
    with claimed(folder, ours):
        for identity, part in ((ours, (1, 1)), (ours, (1, 2)), (others, (1, 1))):
            with pytest.raises(UserError, match=f"the folder of samples .* in use by process {os.getpid()}"):
                claimed(folder, identity, part).__enter__()
        assert shard.exists()


def test_workers_that_start_together_agree(tmp_path: Path):
    """All find the set of others; one removes it, and none removes what another of them has made since."""
    folder = tmp_path / "samples"
    with claimed(folder, {"seed": 0}):
        shard_path(folder, 99).write_bytes(b"")
    together, problems = threading.Barrier(8), []

    def work(number: int) -> None:
        together.wait()
        try:
            with claimed(folder, {"seed": 1}, (number, 8)):
                shard_path(folder, number).write_bytes(b"")
        except UserError as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert [path.name for path in shards(folder)] == [shard_path(folder, number).name for number in range(1, 9)]


# ---- processes of their own


def devices(*arguments: object, **environment: str) -> subprocess.Popen:
    """sampling_devices.py; one thread between operations, so that all processes give the same bits."""
    script = Path(__file__).parent / "sampling_devices.py"
    asked = tiny.environment() | {"PYTHONPATH": str(tiny.ROOT), **environment}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, env=asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(*processes: subprocess.Popen, code: int = 0) -> None:
    try:
        for process in processes:
            _, said = process.communicate(timeout=300)
            assert process.returncode == code, said[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The sample sets of one and of two devices, and figures."""
    folder = tmp_path_factory.mktemp("devices")
    finished(devices("mirrored", folder))
    return folder, json.loads((folder / "mirrored.json").read_text())


def test_two_devices_make_the_set_of_one(on_devices: tuple[Path, dict[str, Any]]):
    folder, figures = on_devices
    assert figures["replicas"] == 2
    assert figures["same_images"]
    assert figures["same_guided"]
    for stage in ("base", "sr"):
        of_one = contents(folder / "one" / stage)
        assert len(of_one) == 5
        assert contents(folder / "two" / stage) == of_one


def test_any_number_of_images_is_one_trace(on_devices: tuple[Path, dict[str, Any]]):
    assert on_devices[1]["traces"] == 1


def test_two_devices_give_the_features_of_one(on_devices: tuple[Path, dict[str, Any]]):
    """To the bit, and so does the training of the classifier: it is on one device, whatever the strategy."""
    differences = on_devices[1]["features"]
    assert {"network", "pooled", "logits", "scatter"} <= set(differences)
    assert not any(differences.values())


def test_two_workers_make_the_set_of_one(on_devices: tuple[Path, dict[str, Any]]):
    """Each its part; before that the chief alone samples and extracts, which a collective would not survive."""
    folder, _ = on_devices
    with contextlib.ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(2)]
        for one in free:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in free]
    cluster = {"worker": addresses}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    finished(*[devices("worker", folder, TF_CONFIG=task) for task in tasks])
    figures = [json.loads((folder / f"worker{index}.json").read_text()) for index in range(2)]
    assert figures[0] == {"workers": 2, "images": 5, "features_of": 620}
    assert figures[1] == {"workers": 2, "images": 0, "features_of": 0}
    assert contents(folder / "workers" / "base") == contents(folder / "one" / "base")


def test_a_set_that_was_killed_and_damaged_ends_the_same(on_devices: tuple[Path, dict[str, Any]]):
    """SIGKILL with half a file written: of the set's name, then of its third shard; then damage to the whole ones."""
    folder, _ = on_devices
    place = folder / "killed" / "base"
    for write, whole in ((1, 0), (4, 2)):
        finished(devices("killed", folder, write), code=-signal.SIGKILL)
        assert len(shards(place)) == whole
        assert list(place.glob(".*.partial"))
    cut, flipped = shards(place)
    cut.write_bytes(cut.read_bytes()[:1000])
    flipped.write_bytes(with_flipped_bit(flipped.read_bytes(), 1500))
    finished(devices("killed", folder, 1000))
    assert contents(place) == contents(folder / "one" / "base")
    assert not list(place.glob(".*"))
