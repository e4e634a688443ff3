"""Sample sets: an image depends on its seed and index alone; shards are whole, resumable, and of one identity."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops

from zoo import recipe, registry
from zoo.console import UserError
from zoo.experiment import Experiment
from zoo.sample_files import claim, is_whole, read_images
from zoo.sampling import BalancedLabels, DrawnLabels, GivenLabels, Labels, SampleSet, StageSampler
from zoo.training import randomness
from zoo.training.checkpoints import Checkpoints
from zoo.training.trainer import State


class Denoiser(keras.Model):
    """All that a network is told, through one convolution: quick to trace."""

    classes = 10

    def build(self, shapes: dict[str, Any]) -> None:
        # Made here, as the U-Net's: an initializer draws its seed when it is made.
        self.convolution = keras.layers.Conv2D(3, 3, padding="same", name="convolution")
        self.label = keras.layers.Embedding(self.classes, 3, name="label")
        self.time = keras.layers.Dense(3, name="time")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        image = inputs["image"]
        told = self.label(inputs["label"]) + self.time(inputs["time"][:, None] / 1000)
        if "low_resolution" in inputs:
            told = told + self.time(inputs["low_resolution_time"][:, None] / 1000)
            image = image + ops.image.resize(inputs["low_resolution"], image.shape[1:3])
        return self.convolution(image) + told[:, None, None]


def experiment_of(workdir: Path, *bindings: str) -> Experiment:
    """The tiny cascade with untrained denoisers, checkpointed at step 0."""
    asked = recipe.load(tiny.RECIPE, ["base/Training.steps = 0", "sr/Training.steps = 0", *bindings])
    experiment = Experiment(asked, asked.build(), workdir)
    for stage in experiment.pipeline.stages:
        stage.network = Denoiser()
    experiment.train(experiment.pipeline.stages, "one")
    return experiment


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
        assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]
        identity = json.loads((folder / "set.json").read_text())
        assert identity["checkpoint"]["step"] == 0
        assert identity["labels"] == {"class": "BalancedLabels"}


def test_whole_shards_are_kept_and_damaged_ones_made_again(copied: Path):
    folder = copied / "samples" / "sr"
    whole = contents(folder)
    times = {path: path.stat().st_mtime_ns for path in shards(folder)}
    cut, missing, kept = shards(folder)[1], shards(folder)[2], [shards(folder)[i] for i in (0, 3, 4)]
    cut.write_bytes(cut.read_bytes()[:-100])
    missing.unlink()
    (folder / f".{missing.name}.partial").write_bytes(b"half")
    sample(experiment_of(copied))
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
    Checkpoints(experiment.stage_folder(stage) / "checkpoints").save(3, state.groups, state.names)
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
    # A lost float file is made again.
    lost = folders["base"] / "s0000" / "shard-00000.npz"
    content = lost.read_bytes()
    lost.unlink()
    sample(experiment)
    assert lost.read_bytes() == content


# ---- files


def test_what_is_whole(tmp_path: Path):
    path = tmp_path / "shard-00000.npz"
    assert not is_whole(path, 3)
    np.savez(path, arr_0=np.zeros((3, 2, 2, 3), np.uint8))
    assert is_whole(path, 3)
    assert not is_whole(path, 2)
    content = path.read_bytes()
    for damaged in (content[:-30], content[:40], b"", b"text", content.replace(b"arr_0", b"arr_9")):
        path.write_bytes(damaged)
        assert not is_whole(path, 3)


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


def test_a_folder_belongs_to_one_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "samples"
    folder.mkdir()  # as another worker leaves it for a moment: no reason to remove it
    first = claim(folder, {"seed": 0})
    shard = folder / "shard-00000.npz"
    shard.write_bytes(b"")
    assert claim(folder, {"seed": 0}) == first
    assert shard.exists()
    assert capsys.readouterr().out == ""
    assert claim(folder, {"seed": 1}) != first
    assert not shard.exists()
    shard.write_bytes(b"")
    (folder / "set.json").unlink()  # of unknown origin
    claim(folder, {"seed": 1})
    assert not shard.exists()
