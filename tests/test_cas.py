"""The classification accuracy score: class by class, by a small network and by ResNet-50, on tiny images."""

import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from harness import cas, packed
from harness.cache import Cache
from harness.features import resnet_training
from harness.features.accuracy import ClassHits, count_hits
from harness.features.crops import middle_crop, random_crop
from harness.features.resnet import build_resnet, forward_flops
from harness.features.resnet_training import ResNetPlan, train_resnet
from harness.images import ArrayImages, RealImages
from harness.metrics.classification_accuracy import ClassificationAccuracy, ResNetAccuracy
from harness.metrics.metric import Evidence
from harness.packed import Packed
from zoo.console import UserError

SMALL = {"size": 32, "width": 4, "batch": 16, "learning_rate": 1.0, "warm_up": 1}


def stripes(count: int, seed: int, size: int = 20) -> ArrayImages:
    """Labelled images of four kinds that a small network tells apart: a bright channel each, or stripes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = generator.integers(0, 80, (count, size, size, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        part = image[::2] if label == 3 else image[..., label]
        part += np.uint8(120)
    return ArrayImages(images, labels, f"stripes {seed}")


# ---- hits


def test_hits_are_counted_by_class():
    """A network whose logits are the pixels of its image: what is first, and what among five, is known."""
    import keras

    image = keras.Input((1, 8, 1))
    flat = keras.layers.Flatten()(image)
    network = keras.Model(image, (flat, flat))
    ranks = np.array([[9, 8, 7, 6, 5, 4, 3, 2], [2, 3, 4, 5, 6, 7, 8, 9]], np.uint8).repeat(4, axis=0)
    labels = np.array([0, 1, 5, 5, 7, 7, 3, 1])
    found = count_hits(network, ArrayImages(ranks.reshape(8, 1, 8, 1), labels), 8, batch=3)
    assert found.count.tolist() == [1, 2, 0, 1, 0, 2, 0, 2]
    assert found.first.tolist() == [1, 0, 0, 0, 0, 0, 0, 2]
    assert found.among_five.tolist() == [1, 1, 0, 1, 0, 0, 0, 2]
    assert (found.top1, found.top5) == (3 / 8, 5 / 8)


@pytest.fixture(scope="module")
def real() -> RealImages:
    train = stripes(160, seed=0)
    return RealImages(train, train, stripes(40, seed=1))


def test_a_result_has_the_hits_of_samples_and_of_as_many_real_images(real: RealImages, tmp_path: Path):
    """Samples of one class all have the label of another: these two classes are lost, the others are not."""
    samples = stripes(80, seed=2)
    samples.labels = np.where(samples.labels == 1, 0, np.where(samples.labels == 0, 1, samples.labels))
    metric = ClassificationAccuracy(width=8, epochs=10, batch=16, mirror=0.0, shift=0)
    cache = Cache(tmp_path)
    side = Evidence(samples, None)
    numbers = metric.compute(reference=None, samples=side, real=real, cache=cache)
    found = metric.details(samples=side, real=real, cache=cache)["by_class"]
    assert found["images"] == [10] * 4
    assert found["samples_top1"][:2] == [0, 0]
    assert min(found["samples_top1"][2:]) >= 8
    assert min(found["real_top1"]) >= 8
    assert found["real_images"] == 80
    assert numbers["cas_top1"] == sum(found["samples_top1"]) / 40
    assert numbers["cas_top5"] == 1.0
    above = sum(ours > theirs for ours, theirs in zip(found["samples_top1"], found["real_top1"], strict=True))
    assert numbers["classes_above_real"] == above
    floor = metric.floor(pair=None, count=80, real=real, cache=cache)
    assert floor == {"cas_top1": sum(found["real_top1"]) / 40, "cas_top5": 1.0}


def test_a_score_is_trained_once(real: RealImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metric = ClassificationAccuracy(width=2, epochs=1, batch=16)
    calls = []
    hits = ClassHits(*np.ones((3, 4), np.int64))
    monkeypatch.setattr(metric, "train_and_test", lambda train, *rest: calls.append(train.count) or hits, raising=True)
    for _ in range(2):
        metric.compute(reference=None, samples=Evidence(stripes(40, 3), None), real=real, cache=Cache(tmp_path))
    assert calls == [40, 40]  # the samples, and as many real images


# ---- ResNet-50


def test_the_network_is_resnet_50():
    network = build_resnet(224, 1000, seed=0)
    parameters = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    assert parameters == 25_557_032  # as everyone counts it
    assert forward_flops(network) == 2 * 4_089_184_256  # multiply-adds of version 1.5; version 1 has 3.86e9
    assert network.outputs[0].shape[1] == 2048


def test_a_test_crop_is_the_middle_in_its_own_pixels():
    """224 of 256 pixels need no resize; smaller images are enlarged."""
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(middle_crop(images, 224), images[:, 16:240, 16:240])
    assert middle_crop(images[:, :128, :128], 224).shape == (2, 224, 224, 3)
    wide = middle_crop(np.pad(images, [[0, 0], [0, 0], [40, 40], [0, 0]]), 224)
    np.testing.assert_array_equal(wide, images[:, 16:240, 16:240])


def test_training_crops_depend_on_the_seed_alone():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    crop = tf.function(lambda seed: random_crop(image, 32, seed))
    found = np.stack([crop(tf.constant([0, step], tf.int64)) for step in range(20)])
    again = np.stack([crop(tf.constant([0, step], tf.int64)) for step in range(20)])
    np.testing.assert_array_equal(found, again)
    assert len(np.unique(found.reshape(20, -1), axis=0)) == 20
    assert abs(found.mean() - 127.5) < 5


def test_crops_have_every_size_and_half_are_mirrored():
    """Brightness grows to the right: its span is the width of the part, its sign tells mirrored ones."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    crop = tf.function(lambda seed: random_crop(tf.constant(ramp), 16, seed))
    found = np.stack([crop(tf.constant([1, step], tf.int64)).numpy().mean(axis=(0, 2)) for step in range(200)])
    widths = np.abs(found[:, -1] - found[:, 0]) / (15 / 16) / 200
    assert 0.2 < widths.min() < 0.35  # the smallest part: 8 % of the area, as wide as 3/4 of its height
    assert widths.max() > 0.9
    assert 0.4 < (found[:, -1] < found[:, 0]).mean() < 0.6


def test_the_rate_is_that_of_the_published_schedule():
    plan = ResNetPlan()
    moments = {0: 0.0, 2.5: 0.2, 5: 0.4, 29.9: 0.4, 30: 0.04, 60: 0.004, 80: 0.0004, 89.9: 0.0004}
    for epoch, rate in moments.items():
        assert plan.rate(epoch) == pytest.approx(rate), epoch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"drops": (60, 30)}, "drops must be rising"),
        ({"drops": (3,)}, "none before warm_up = 5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ResNetAccuracy(**settings)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks in the place of sixteen: their graph is built in a quarter of the time."""
    monkeypatch.setattr(resnet_training, "build_resnet", functools.partial(build_resnet, blocks=(1, 1, 1, 1)))


def test_resnet_learns_and_leaves_nothing_behind(real: RealImages, tmp_path: Path, shallow: None):
    metric = ResNetAccuracy(epochs=5, drops=(4,), **SMALL)
    found = metric.train_and_test(stripes(160, seed=2), real, Cache(tmp_path), "test")
    assert found.count.tolist() == [10] * 4
    assert found.top1 > 0.8
    assert list(tmp_path.iterdir()) == []  # neither checkpoints nor the copy of the images
    assert metric.protocol(1_281_100, "x")["cas_top1"].startswith("CAS-1281.1k (ResNet-50 of width 4, 32x32 crops")


def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow: None):
    """The epochs after a crash are those that would have been, and only those."""
    images, labels = stripes(48, seed=2).arrays()
    plan = ResNetPlan(epochs=3, drops=(2,), **SMALL)
    epochs = []
    make = resnet_training._epoch

    def noted(plan: ResNetPlan, *rest: object) -> tf.data.Dataset:
        epochs.append(rest[-1])
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return make(plan, *rest)

    monkeypatch.setattr(resnet_training, "_epoch", noted)
    with pytest.raises(KeyboardInterrupt):
        train_resnet(plan, images, labels.astype(np.int32), 4, tmp_path, "test")
    network = train_resnet(plan, images, labels.astype(np.int32), 4, tmp_path, "test")
    assert epochs == [0, 1, 1, 2]
    again = train_resnet(plan, images, labels.astype(np.int32), 4, tmp_path, "test")  # nothing is left to do
    assert epochs == [0, 1, 1, 2]
    for ours, theirs in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_resnet_cannot_be_trained_on(real: RealImages):
    grey = ArrayImages(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    with pytest.raises(UserError, match="takes colour images"):
        ResNetAccuracy().check(real=real, samples=grey)
    with pytest.raises(UserError, match="needs labels"):
        ResNetAccuracy().check(real=real, samples=ArrayImages(np.zeros((4, 8, 8, 3), np.uint8)))


def test_fewer_samples_than_training_images_are_named(real: RealImages):
    metric = ResNetAccuracy()
    few, enough = (Evidence(stripes(count, 2), None) for count in (40, 160))
    reference = Evidence(real.reference, None)
    assert "trained on 40 samples" in metric.warnings(reference=reference, samples=few)[0]
    assert metric.warnings(reference=reference, samples=enough) == []


# ---- images on disk


def test_packed_images_are_the_images(tmp_path: Path):
    source = stripes(10, seed=0)
    found = Packed(source, tmp_path)
    np.testing.assert_array_equal(found.images, source.images)
    np.testing.assert_array_equal(found.labels, source.labels)
    source.parts = None  # the files are there: nothing is read again
    assert Packed(source, tmp_path).labels.dtype == np.int32
    found.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = packed.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packed.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match="GiB free, and 10 images of stripes 0 need"):
        Packed(stripes(10, seed=0), tmp_path)
    monkeypatch.undo()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "_write_images", full)
    with pytest.raises(UserError, match="No space left on device: make room"):
        Packed(stripes(10, seed=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- the cost


def test_the_cost_is_told_before_anything_is_trained(capsys: pytest.CaptureFixture[str]):
    cas.main(["describe", "--device", "a100-80", "--device", "tpu-v3"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    for said in ("1,281,167 of 256x256", "25,557,032 parameters", "112,590 steps", "2.83e+18 FLOP", "235 GiB"):
        assert said in text, said
    assert "NVIDIA A100 80 GB" in text
    with pytest.raises(UserError, match="did you mean 'a100-80'"):
        cas.main(["describe", "--device", "a100-8"])
    with pytest.raises(UserError, match="--batch 1024 is more than --count 10"):
        cas.main(["describe", "--count", "10"])
