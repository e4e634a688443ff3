"""Datasets, crops, pairs, order, resuming and corrupt files, on small folders and shards made on the spot."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from zoo.console import UserError
from zoo.data import held, keyed, summary
from zoo.data.crops import BigGANCrop, CenterCrop, Crop
from zoo.data.drawing import BACKGROUNDS, LOOKS, render
from zoo.data.flips import RandomFlip
from zoo.data.floats import to_floats
from zoo.data.folder import ImageFolder
from zoo.data.images import Images
from zoo.data.random_crops import RandomCrop
from zoo.data.shapes import Shapes
from zoo.data.shards import Shard, Shards, count_records
from zoo.data.sources import Example, Record, Source, decode_image, permutation
from zoo.data.tfds import TFDS
from zoo.data.tfrecords import TFRecords

SIZE = 8
TFDS_DIRECTORY = os.environ.get("TFDS_DATA_DIR", "")
needs_cifar10 = pytest.mark.skipif(
    not Path(TFDS_DIRECTORY, "cifar10").is_dir() or not TFDS_DIRECTORY,
    reason="needs CIFAR-10 prepared by TensorFlow Datasets in TFDS_DATA_DIR",
)


def png(value: int, size: int = SIZE, mode: str = "RGB") -> bytes:
    """A grey picture whose level says which record it is."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, count: int = 12, corrupt: tuple[int, ...] = ()) -> ImageFolder:
    """train/a and train/b with `count` pictures in all, levels 0, 1, ... in file order; one picture in test."""
    for number in range(count):
        path = root / "train" / ("a" if number < count // 2 else "b") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number)[: 40 if number in corrupt else None])
    (root / "test" / "a").mkdir(parents=True, exist_ok=True)
    (root / "test" / "a" / "x.png").write_bytes(png(200))
    return ImageFolder(str(root))


def serialized(image: bytes, label: int) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def make_shards(root: Path, lengths: tuple[int, ...], prefix: str = "train") -> list[Shard]:
    """TFRecord files of pictures whose level and label count on from file to file."""
    root.mkdir(parents=True, exist_ok=True)
    shards, number = [], 0
    for index, length in enumerate(lengths):
        path = root / f"{prefix}.tfrecord-{index:05d}-of-{len(lengths):05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(length):
                writer.write(serialized(png(number), number % 3))
                number += 1
        shards.append(Shard(str(path), 0, length))
    return shards


def make_prepared(root: Path, lengths: tuple[int, ...] = (5, 4)) -> None:
    """A dataset `toy` as TFDS prepares it, with classes 0 to 2."""
    folder = root / "toy" / "1.0.0"
    make_shards(folder, lengths, "toy-train")
    make_shards(folder, (2,), "toy-test")
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"filepathTemplate": template, "name": name, "numBytes": "1000", "shardLengths": [str(n) for n in shards]}
        for name, shards in (("train", lengths), ("test", (2,)))
    ]
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "tfrecord", "moduleName": "__main__", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    core = "tensorflow_datasets.core.features"
    dimensions = {"dimensions": [str(SIZE), str(SIZE), "3"]}
    image = {"image": {"dtype": "uint8", "shape": dimensions}, "pythonClassName": f"{core}.image_feature.Image"}
    label = {"classLabel": {"numClasses": "3"}, "pythonClassName": f"{core}.class_label_feature.ClassLabel"}
    features = {"featuresDict": {"features": {"image": image, "label": label}}}
    (folder / "features.json").write_text(
        json.dumps(features | {"pythonClassName": f"{core}.features_dict.FeaturesDict"})
    )


def images_of(source: Source, size: int = SIZE, **settings: Any) -> Images:
    return Images(source, size, CenterCrop(), **settings)


def levels(dataset: tf.data.Dataset, count: int) -> list[int]:
    """Grey level, which is the record's number, of the first elements of a stream or of examples."""
    found = []
    for element in dataset.take(count):
        value = element["image"].numpy()[0, 0, 0]
        found.append(round((float(value) + 1) * 127.5) if value.dtype == np.float32 else int(value))
    return found


# ---- pictures of every kind


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_kind_of_png_becomes_rgb_as_pillow_makes_it(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    picture = Image.fromarray(pixels).convert("RGB" if mode in ("P", "1") else "RGBA").convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(tf.constant(buffer.getvalue())), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_keep_the_upper_eight_and_cmyk_is_converted() -> None:
    deep, inks = io.BytesIO(), io.BytesIO()
    Image.fromarray((np.arange(16, dtype=np.uint16) * 4096 + 99).reshape(4, 4)).save(deep, "PNG")
    np.testing.assert_array_equal(
        decode_image(tf.constant(deep.getvalue()))[..., 1].numpy().ravel(), np.arange(16) * 16
    )
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(inks, "JPEG")
    red = decode_image(tf.constant(inks.getvalue())).numpy().reshape(-1, 3).mean(axis=0)
    assert red[0] > 240
    assert max(red[1:]) < 15


# ---- crops


@pytest.mark.parametrize("crop", [CenterCrop(), BigGANCrop()])
def test_crops_give_the_size_and_leave_a_fitting_image_alone(crop: Crop) -> None:
    random = np.random.default_rng(1)
    for shape in ((16, 16), (32, 32), (15, 40), (70, 33), (5, 9)):
        image = random.integers(0, 256, (*shape, 3), np.uint8)
        found = crop(tf.constant(image), 16).numpy()
        assert found.shape == (16, 16, 3)
        np.testing.assert_array_equal(found, image if shape == (16, 16) else crop.reduce(image, 16))


@pytest.mark.parametrize("crop", [CenterCrop(), BigGANCrop()])
def test_crops_are_pillows_to_the_bit(crop: Crop) -> None:
    random = np.random.default_rng(2)
    shapes = random.integers(1, 130, (150, 2)).tolist()
    for height, width in [*shapes, (1, 1), (1, 300), (300, 1), (90, 67), (24, 24), (48, 48), (95, 96), (130, 60)]:
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        expected = np.asarray(crop.cut(Image.fromarray(image), 24))
        np.testing.assert_array_equal(crop.reduce(image, 24), expected, err_msg=f"{height} x {width}")


def test_overshoot_of_the_cubic_is_clipped() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    found = CenterCrop().reduce(image, 30)
    np.testing.assert_array_equal(found, np.asarray(CenterCrop().cut(Image.fromarray(image), 30)))
    assert (found[:, :12] == 0).all()
    assert (found[:, 18:] == 255).all()


def test_biggan_crop_keeps_the_central_square_by_area() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:4], image[:, 4:6], image[:, 6:] = 100, 200, 255
    np.testing.assert_array_equal(BigGANCrop()(tf.constant(image), 2)[..., 0], [[100, 200], [100, 200]])


@pytest.mark.parametrize("crop", [RandomCrop(), RandomCrop(0.3, 0.6)])
def test_random_crops_are_pillows_to_the_bit(crop: RandomCrop) -> None:
    random = np.random.default_rng(3)
    shapes = random.integers(1, 200, (100, 2)).tolist()
    for height, width in [*shapes, (1, 1), (1, 90), (24, 24), (48, 60), (49, 48), (60, 130)]:
        image, drawn = random.integers(0, 256, (height, width, 3), np.uint8), random.random(3)
        expected = np.asarray(crop.cut(Image.fromarray(image), 24, drawn))
        assert expected.shape == (24, 24, 3)
        np.testing.assert_array_equal(crop.reduce(image, 24, drawn), expected, err_msg=f"{height} x {width}")


def test_random_crops_of_adms_public_code() -> None:
    """Its shorter side is 32 .. 40 pixels for a crop of 32, each as often, and a window stands anywhere."""
    crop = RandomCrop()
    drawn = np.stack([crop.draw(np.array([5, number])) for number in range(4000)])
    lengths = np.array([crop._length(32, uniform) for uniform in drawn[:, 0]])
    assert np.bincount(lengths, minlength=41)[32:] == pytest.approx([4000 / 9] * 9, rel=0.2)
    assert lengths.min() == 32
    assert lengths.max() == 40
    ramp = np.zeros((80, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(80)[:, None], np.arange(100)
    corners = np.stack([crop.reduce(ramp, 32, one)[0, 0] for one in drawn[:500]])
    assert corners[:, 0].max() > 14  # of 80 rows, brought to 40 at most
    assert corners[:, 1].max() > 35  # of 100 columns
    assert corners.min() == 0


def test_random_crops_are_drawn_by_number_anew_every_epoch() -> None:
    """Alike wherever reading begins and however many workers read; examples are not touched."""
    plain = images_of(Shapes(train=6, test=6))
    images = images_of(Shapes(train=6, test=6), random_crop=RandomCrop(0.5, 0.6), flip=RandomFlip())
    whole = np.stack([element["image"] for element in images.stream(seed=1).take(24).as_numpy_iterator()])
    late = np.stack([element["image"] for element in images.stream(seed=1, first=7).take(9).as_numpy_iterator()])
    np.testing.assert_array_equal(late, whole[7:16])
    shares = [list(images.batches(1, 0, 24, 12, (index, 2)).as_numpy_iterator()) for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in rejoined(shares, 1)]), whole)
    assert len({image.tobytes() for image in whole}) == 24  # of six pictures
    assert not images._held
    for one, other in zip(plain.examples("train"), images.examples("train"), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


# ---- order


def test_permutation_depends_on_its_key_alone() -> None:
    first = permutation(1000, 7, 3).numpy()
    tf.random.set_seed(5)
    np.testing.assert_array_equal(first, permutation(1000, 7, tf.constant(3, tf.int64)))
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    for other in ((7, 4), (8, 3), (3, 7)):
        assert np.mean(permutation(1000, *other).numpy() == first) < 0.02


def test_splitmix_has_its_published_value_in_both_forms() -> None:
    state = keyed.GOLDEN
    assert int(keyed._mix(np.array([state], np.uint64))[0]) == 0xE220A8397B1DCDAF
    assert int(keyed._graph_mix(tf.constant([state], tf.uint64))[0]) == 0xE220A8397B1DCDAF
    draws = keyed.graph_uniforms(3, tf.range(4000, dtype=tf.int64)).numpy()
    assert abs(draws.mean() - 0.5) < 0.02
    assert draws.min() >= 0
    assert draws.max() < 1


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    images = images_of(make_folder(tmp_path))
    order = levels(images.stream(seed=4), 36)
    epochs = [order[:12], order[12:24], order[24:]]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert levels(images.stream(seed=4), 36) == order
    assert levels(images.stream(seed=5), 12) != order[:12]


@pytest.mark.parametrize("first", [1, 11, 12, 30])
def test_going_on_gives_the_same_pixels(tmp_path: Path, first: int) -> None:
    images = images_of(make_folder(tmp_path), flip=RandomFlip(), low_resolution=4)
    whole = list(images.stream(seed=1).take(40).as_numpy_iterator())
    for before, after in zip(whole[first:], images.stream(seed=1, first=first).as_numpy_iterator(), strict=False):
        for key in ("image", "label", "low_resolution"):
            np.testing.assert_array_equal(before[key], after[key])


class CountingSource(Shapes):
    """Counts the images that are really decoded."""

    def __init__(self) -> None:
        super().__init__(train=5000, test=10)
        self.decoded = 0

    def decode(self, record: Record, size: int, split: str) -> Example:
        def count(position: np.ndarray) -> np.ndarray:
            self.decoded += 1
            return position

        position = tf.numpy_function(count, [record["position"]], tf.int64)
        image = tf.zeros([size, size, 3], tf.uint8) + tf.cast(position % 256, tf.uint8)
        return {"image": image, "label": tf.cast(record["label"], tf.int32)}


def test_what_was_seen_is_skipped_without_decoding() -> None:
    source = CountingSource()
    images = images_of(source)
    assert len(levels(images.stream(seed=0, first=14_000), 3)) == 3
    assert source.decoded < 1000  # a block, and what is decoded ahead of it
    source.decoded = 0
    assert len(levels(images.examples("train", seed=2, first=4_999), 3)) == 1
    assert source.decoded == 1


# ---- flips, pairs, channels


def test_half_of_the_images_are_mirrored_by_number() -> None:
    numbers = tf.range(2000, dtype=tf.int64)
    mirrored = RandomFlip().mirrored(3, numbers).numpy()
    assert 0.45 < mirrored.mean() < 0.55
    np.testing.assert_array_equal(RandomFlip().mirrored(3, numbers[7:]), mirrored[7:])
    assert not RandomFlip(0.0).mirrored(3, numbers).numpy().any()
    assert RandomFlip(1.0).mirrored(3, numbers).numpy().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_in_the_range_of_the_networks_and_mirrored_where_asked(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, channels), np.uint8)
    floats = to_floats(images, np.array([True, False, True, False]))
    expected = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(floats[1::2], expected[1::2])
    np.testing.assert_array_equal(floats[::2], expected[::2, :, ::-1])


def test_pairs_are_means_over_areas() -> None:
    images = images_of(Shapes(train=20, test=10), size=12, low_resolution=4)
    element = next(iter(images.stream(seed=0)))
    assert element["image"].dtype == element["low_resolution"].dtype == tf.float32
    blocks = element["image"].numpy().reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(element["low_resolution"], blocks, atol=1e-6)
    example = next(iter(images.examples("test")))
    assert example["image"].dtype == example["low_resolution"].dtype == tf.uint8
    means = example["image"].numpy().reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.max(np.abs(example["low_resolution"].numpy() - means)) <= 0.5 + 1e-4


def test_one_channel_is_luma_and_grey_keeps_its_levels(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for level in range(256):
        (tmp_path / "c" / f"{level:03d}.png").write_bytes(png(level, 1, "L"))
    grey = images_of(ImageFolder(str(tmp_path), held_out=1000), size=1, channels=1)
    assert levels(grey.examples("train"), 256) == list(range(256))
    (tmp_path / "c" / "000.png").write_bytes(b"")
    colour = io.BytesIO()
    Image.new("RGB", (1, 1), (10, 200, 90)).save(colour, "PNG")
    (tmp_path / "c" / "000.png").write_bytes(colour.getvalue())
    assert levels(grey.examples("train"), 1) == [round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)]


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [({"size": 0}, "size"), ({"low_resolution": SIZE}, "low_resolution"), ({"channels": 4}, "channels")],
)
def test_images_name_the_parameter_that_is_wrong(settings: dict[str, int], parameter: str) -> None:
    with pytest.raises(ValueError, match=parameter):
        images_of(Shapes(), **settings)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        images_of(Shapes()).examples("validation")


# ---- corrupt files


def test_corrupt_files_are_left_out_counted_and_named(tmp_path: Path) -> None:
    images = images_of(make_folder(tmp_path, corrupt=(0, 4, 5, 11)))
    assert images.problems == []
    for _ in range(2):
        assert levels(images.examples("train"), 100) == [1, 2, 3, 6, 7, 8, 9, 10]
        assert [Path(problem.split(": ")[0]).name for problem in images.problems] == [
            f"{number:03d}.png" for number in (0, 4, 5, 11)
        ]
    assert all(problem.split(": ", 1)[1] for problem in images.problems)
    assert levels(images.examples("train", count=2, first=4), 10) == [6, 7]
    # Ranges of records share no image.
    assert [levels(images.examples("train", first=k, last=k + 5), 10) for k in (0, 5, 10)] == [
        [1, 2, 3],
        [6, 7, 8, 9],
        [10],
    ]


def test_a_corrupt_file_moves_no_number_of_the_stream(tmp_path: Path) -> None:
    sound = levels(images_of(make_folder(tmp_path)).stream(seed=1), 48)
    images = images_of(make_folder(tmp_path, corrupt=(3, 8)))
    found = levels(images.stream(seed=1), 48)
    for number in range(48):
        following = next(level for level in sound[number:] if level not in (3, 8))
        assert found[number] == following
    for first in (sound.index(3), sound.index(8) + 1, 17):
        assert levels(images.stream(seed=1, first=first), 20) == found[first : first + 20]
    assert len(images.problems) == 2


def test_a_folder_of_nothing_but_corrupt_files_is_refused(tmp_path: Path) -> None:
    images = images_of(make_folder(tmp_path, corrupt=tuple(range(12))))
    with pytest.raises(UserError, match=r"no image of split 'train' .*000\.png: "):
        images.stream(seed=0)


# ---- a worker's share


def numbered_levels(batches: tf.data.Dataset, count: int | None = None) -> list[list[int]]:
    """Grey levels of every batch."""
    taken = batches if count is None else batches.take(count)
    return [[round((float(value) + 1) * 127.5) for value in batch["image"][:, 0, 0, 0]] for batch in taken]


def rejoined(parts: list[list[dict[str, np.ndarray]]], pieces: int) -> list[dict[str, np.ndarray]]:
    """Global batches from what each worker was given, of which `pieces` batches make its rows."""
    joined = []
    for k in range(len(parts[0]) // pieces):
        rows = [batch for worker in parts for batch in worker[k * pieces : (k + 1) * pieces]]
        joined.append({key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    return joined


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("corrupt", [(), (3, 4, 8, 11)])
@pytest.mark.parametrize(("first", "workers", "parts"), [(0, 1, 1), (0, 4, 1), (5, 2, 2), (30, 3, 2), (12, 1, 4)])
def test_all_workers_together_have_the_stream_of_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hold: bool,
    corrupt: tuple[int, ...],
    first: int,
    workers: int,
    parts: int,
) -> None:
    source, settings = make_folder(tmp_path, corrupt=corrupt), {"flip": RandomFlip(), "low_resolution": 4}
    batch, count = 12, 48
    monkeypatch.setattr(held, "DECODED_BYTES", 0)
    stream = list(images_of(source, **settings).stream(1, first, count).batch(batch))
    monkeypatch.setattr(held, "DECODED_BYTES", 10**9 if hold else 0)
    images = images_of(source, **settings)
    shares = []
    for index in range(workers):
        share = images.batches(1, first, count, batch, (index, workers), parts)
        assert share.element_spec["image"].shape == (batch // workers // parts, SIZE, SIZE, 3)
        shares.append(list(share.as_numpy_iterator()))
    found = rejoined(shares, parts)
    assert len(found) == len(stream) == 4
    for whole, joined in zip(stream, found, strict=True):
        for key in ("image", "label", "low_resolution"):
            np.testing.assert_array_equal(joined[key], whole[key])
    assert bool(images._held) == hold
    assert len(images.problems) == len(corrupt)


def test_a_worker_decodes_its_own_pictures_alone() -> None:
    source = CountingSource()
    batches = images_of(source).batches(0, 4000, 400, 100, worker=(1, 4))
    assert [len(levels) for levels in numbered_levels(batches)] == [25] * 4
    assert source.decoded == 101  # and the one that shows that the split can be read


def test_batches_from_windows_of_shards_are_shared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, (7, 5, 6, 3))
    source = TFRecords(str(tmp_path / "{split}.tfrecord-*"), classes=3)
    in_memory = source._shards("train")
    windows = Shards(in_memory.shards, in_memory.size, "image", "label", held=0, window=600)
    monkeypatch.setattr(source, "_shards", lambda split: windows)
    assert windows.order(0, 0) is None
    images = images_of(source)
    alone = numbered_levels(images.batches(2, 5, 60, 12))
    order = [level for batch in alone for level in batch]
    assert sorted(order[16:37]) == list(range(21))  # a whole epoch
    assert order == levels(images.stream(2, 5), 60)
    shares = [numbered_levels(images.batches(2, 5, 60, 12, (index, 3))) for index in range(3)]
    assert [[level for share in shares for level in share[k]] for k in range(5)] == alone
    assert images._held == {}


def test_endless_batches_and_small_demands_do_not_end_early_or_hold(tmp_path: Path) -> None:
    images = images_of(make_folder(tmp_path))
    assert len(numbered_levels(images.batches(0, 0, 8, 4))) == 2
    assert images._held == {}
    assert len(numbered_levels(images.batches(0, 0, None, 4), 20)) == 20
    assert list(images._held) == ["train"]
    assert len(numbered_levels(images.batches(0, 3, 8, 4))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 10, "worker": (0, 4)}, "batch must be a multiple of workers"),
        ({"batch": 8, "worker": (0, 2), "parts": 3}, "= 6, got 8"),
        ({"batch": 8, "worker": (2, 2)}, "0 <= index < workers"),
        ({"batch": 8, "count": 12}, "count must be a multiple of batch"),
    ],
)
def test_batches_that_do_not_divide_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images_of(Shapes()).batches(**({"seed": 0, "first": 0, "count": None} | settings))


# ---- image folders


@pytest.mark.parametrize(
    ("files", "splits", "classes"),
    [
        (["train/b/1.png", "train/a/1.png", "val/b/2.JPG"], {"train": 2, "val": 1}, ("a", "b")),
        (["b/1.png", "a/1.png", "a/2.png", "a/3.png"], {"train": 3, "test": 1}, ("a", "b")),
        (["train/1.png", "test/1.png"], {"train": 1, "test": 1}, ()),
        (["1.png", "2.png", "3.png", "notes.txt", ".hidden.png"], {"train": 2, "test": 1}, ()),
        (["train/a/1.png", "overview.png"], {"train": 1}, ("a",)),
    ],
)
def test_folder_layouts(tmp_path: Path, files: list[str], splits: dict[str, int], classes: tuple[str, ...]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(png(7))
    source = ImageFolder(str(tmp_path), held_out=3)
    source.check()
    assert {split: source.count(split) for split in source.splits()} == splits
    assert source.class_names == classes
    elements = [example for split in splits for example in images_of(source, train=split).examples("train")]
    assert all(("label" in element) == bool(classes) for element in elements)


def test_folder_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        ImageFolder(str(tmp_path / "nowhere")).check()
    with pytest.raises(UserError, match="holds no image files"):
        ImageFolder(str(tmp_path)).check()
    with pytest.raises(UserError, match=r"no split 'tran' \(did you mean 'train'\?\)"):
        make_folder(tmp_path).count("tran")


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    before = make_folder(tmp_path).fingerprint("train")
    assert make_folder(tmp_path).fingerprint("train") == before
    (tmp_path / "train" / "a" / "000.png").write_bytes(png(0, size=31))
    assert ImageFolder(str(tmp_path)).fingerprint("train") != before


# ---- shards


@pytest.mark.parametrize("limits", [(10**9, 10**9), (0, 10**9), (0, 1000), (0, 1)])
def test_shards_are_permuted_completely_in_memory_and_in_windows(tmp_path: Path, limits: tuple[int, int]) -> None:
    files = make_shards(tmp_path, (7, 5, 6, 3))
    size = sum(Path(shard.path).stat().st_size for shard in files)
    shards = Shards(files, size, "image", "label", *limits)
    in_file_order = [int(record["position"]) for record in shards.records(None, 0)]
    assert in_file_order == list(range(21))
    orders = [[int(record["position"]) for record in shards.records(3, epoch)] for epoch in (0, 1)]
    assert all(sorted(order) == in_file_order for order in orders)
    assert len({tuple(order) for order in [in_file_order, *orders]}) == 3
    tf.random.set_seed(1)
    resumed = [int(record["position"]) for record in shards.records(3, tf.constant(1, tf.int64)).skip(9)]
    assert resumed == orders[1][9:]
    for record in shards.records(3, 0).take(4):
        assert int(decode_image(record["image"])[0, 0, 0]) == int(record["position"])
    assert shards.locate(13) == f"{files[2].path}: record 1"


def test_parts_of_shards_skip_what_belongs_to_others(tmp_path: Path) -> None:
    first, second = make_shards(tmp_path, (4, 4))
    shards = Shards([first._replace(skip=2, take=2), second._replace(take=1)], 100, "image", None)
    found = [int(decode_image(record["image"])[0, 0, 0]) for record in shards.records(None, 0)]
    assert found == [2, 3, 4]
    assert shards.locate(1).endswith("record 3")


def test_tfrecords_are_found_by_pattern(tmp_path: Path) -> None:
    make_shards(tmp_path, (3, 2), "train")
    make_shards(tmp_path, (2,), "validation")
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    pattern = str(tmp_path / "{split}.tfrecord-*")
    source = TFRecords(pattern, classes=3, names=str(tmp_path / "names.txt"))
    source.check()
    assert source.splits() == ("train", "validation")
    assert [source.count(split) for split in source.splits()] == [5, 2]
    assert source.class_names == ("one", "two", "three")
    elements = list(images_of(source).examples("train"))
    assert [int(element["label"]) for element in elements] == [0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="splits that are here: train, validation"):
        source.count("test")
    with pytest.raises(UserError, match=r"names 3 classes, but TFRecords\.classes is 4"):
        TFRecords(pattern, classes=4, names=str(tmp_path / "names.txt")).check()
    with pytest.raises(ValueError, match=r"\{split\}"):
        TFRecords("data/train-*", classes=3)


def test_a_label_out_of_range_is_a_named_problem(tmp_path: Path) -> None:
    make_shards(tmp_path, (5,))
    images = images_of(TFRecords(str(tmp_path / "{split}.tfrecord-*"), classes=2))
    assert levels(images.examples("train"), 10) == [0, 1, 3, 4]
    assert len(images.problems) == 1
    assert "record 2: label outside 0 to 1" in images.problems[0]


def test_a_cut_off_shard_is_named(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path, (5,))
    assert count_records(shard.path) == 5
    with open(shard.path, "r+b") as file:
        file.truncate(Path(shard.path).stat().st_size - 3)
    with pytest.raises(UserError, match="cut off inside record 4"):
        TFRecords(str(tmp_path / "{split}.tfrecord-*"), classes=3).count("train")


# ---- TensorFlow Datasets


def test_a_prepared_dataset_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_prepared(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = TFDS("toy")
    source.check()
    assert source.missing() is None
    assert (source.classes, source.splits(), source.count("train"), source.count("train[5:]")) == (
        3,
        ("train", "test"),
        9,
        4,
    )
    images = images_of(source, train="train[3:7]")
    assert [(int(x["image"][0, 0, 0]), int(x["label"])) for x in images.examples("train")] == [
        (3, 0),
        (4, 1),
        (5, 2),
        (6, 0),
    ]
    assert sorted(levels(images.stream(seed=0), 4)) == [3, 4, 5, 6]
    assert "record 0" in source.locate("train", 5)
    assert source.fingerprint("train") != source.fingerprint("test")
    assert "label" not in next(iter(images_of(TFDS("toy", label=None)).examples("train")))
    for wrong, message in (
        (TFDS("toy", image="img"), "no feature 'img' .*did you mean 'image'"),
        (TFDS("toy", image="label"), "only pictures"),
        (TFDS("toy", label="image"), "no class feature"),
    ):
        with pytest.raises(UserError, match=message):
            wrong.check()
    with pytest.raises(UserError, match=r"no split 'tset'.*did you mean 'test'"):
        source.count("tset")


def test_a_dataset_that_is_not_here_is_known_all_the_same(tmp_path: Path) -> None:
    source = TFDS("imagenet2012", directory=str(tmp_path))
    source.check()
    assert source.classes == 1000
    message = source.missing()
    assert message is not None
    assert "not prepared" in message
    assert str(tmp_path) in message
    with pytest.raises(UserError, match="not prepared"):
        source.count("train")
    with pytest.raises(UserError, match=r"no dataset is called 'imagenet2013'.*did you mean 'imagenet2012'"):
        TFDS("imagenet2013", directory=str(tmp_path)).check()


@pytest.mark.data
@needs_cifar10
def test_cifar10_is_read_whole() -> None:
    images = images_of(TFDS("cifar10"), size=32)
    labels = [int(label) for block in images.examples("test").batch(500) for label in block["label"]]
    assert np.bincount(labels).tolist() == [1000] * 10
    assert images.problems == []


# ---- Shapes


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    shapes = Shapes()
    images = shapes.draw("train", np.arange(40), 16)
    np.testing.assert_array_equal(shapes.draw("train", np.array([33, 7]), 16), images[[33, 7]])
    for other in (shapes.draw("test", np.arange(40), 16), Shapes(seed=1).draw("train", np.arange(40), 16)):
        assert np.all(np.any(other != images, axis=(1, 2, 3)))
    assert len({Shapes().fingerprint("train"), Shapes().fingerprint("test"), Shapes(seed=1).fingerprint("train")}) == 3


def test_shapes_keep_their_pixels() -> None:
    """A change here needs a new VERSION in zoo/data/shapes.py, or caches and published numbers go wrong."""
    images = Shapes().draw("train", np.arange(10), 32).astype(np.float64)
    expected = [74.85, 51.60, 88.86, 108.11, 154.62, 65.42, 133.04, 39.05, 134.71, 38.31]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=0.05)


def test_shapes_look_the_same_at_every_resolution() -> None:
    shapes = Shapes()
    large = shapes.draw("test", np.arange(200), 128).astype(np.float64)
    for size in (16, 32, 64):
        factor = 128 // size
        reduced = large.reshape(200, size, factor, size, factor, 3).mean(axis=(2, 4))
        difference = np.abs(shapes.draw("test", np.arange(200), size) - reduced)
        assert difference.mean() < 2.5
        assert abs(np.mean(shapes.draw("test", np.arange(200), size) - reduced)) < 0.5


@pytest.mark.parametrize("size", [16, 400])
def test_shapes_are_images_of_any_size(size: int) -> None:
    images = images_of(Shapes(train=2000, test=10), size=size)
    element = next(iter(images.stream(seed=0)))
    assert element["image"].shape == (size, size, 3)
    first = next(iter(images.examples("test")))
    np.testing.assert_array_equal(first["image"], Shapes(2000, 10).draw("test", np.array([0]), size)[0])
    assert images.classes == len(LOOKS) == 10


def test_captions_are_true() -> None:
    """Class, size, place and background of the caption are found in the picture itself."""
    shapes = Shapes()
    indices = np.arange(300)
    scenes = shapes.scenes("train", indices)
    clear = scenes._replace(haze=np.zeros(300, np.float32), exposure=np.ones(300, np.float32))
    gone = clear._replace(haze=np.ones(300, np.float32))
    changed = np.abs(render(clear, 64).astype(int) - render(gone, 64)).max(axis=-1) > 40  # the shape, not its shadow
    ticks = (np.arange(64) + 0.5) / 32 - 1
    for index in indices[changed.sum(axis=(1, 2)) > 100]:
        caption = shapes.caption("train", int(index))
        look = LOOKS[index % 10]
        assert f"{look.colour} {look.texture} {look.shape}" in caption
        rows, columns = np.nonzero(changed[index])
        across, down = (ticks[line.min()] + ticks[line.max()] for line in (columns, rows))  # twice the middle
        for word, way in (("left", -across), ("right", across), ("upper", -down), ("lower", down)):
            assert word not in caption or way > 0, caption
        extent = max(np.ptp(rows), np.ptp(columns)) / 64
        assert "small" not in caption or extent < 0.45, caption
        assert "large" not in caption or extent > 0.35, caption
        assert f"{BACKGROUNDS[scenes.background[index]][0]} background" in caption


def test_classes_are_balanced_and_shuffled_together() -> None:
    images = images_of(Shapes(train=200, test=10), size=4)
    labels = [int(element["label"]) for element in images.stream(seed=0).take(200)]
    assert np.bincount(labels).tolist() == [20] * 10
    assert labels[:10] != list(range(10))


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: Shapes(train=0), "train"),
        (lambda: Shapes(seed=-1), "seed"),
        (lambda: RandomFlip(1.5), "probability"),
        (lambda: RandomCrop(0.9, 0.8), "smallest"),
        (lambda: RandomCrop(0.5, 1.1), "largest"),
        (lambda: ImageFolder("x", held_out=1), "held_out"),
        (lambda: ImageFolder(""), "directory"),
        (lambda: TFDS(""), "dataset"),
        (lambda: TFRecords("{split}", classes=-1), "classes"),
    ],
)
def test_constructors_name_the_parameter_that_is_wrong(make: Callable[[], object], parameter: str) -> None:
    with pytest.raises(ValueError, match=parameter):
        make()


# ---- the command


def test_command_names_what_is_corrupt(tmp_path: Path) -> None:
    make_folder(tmp_path / "pictures", corrupt=(4,))
    command = [sys.executable, "-m", "zoo.data", str(tmp_path / "pictures"), "--grid", str(tmp_path / "grid.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "train: 11 images, 1 corrupt" in result.stdout
    assert "004.png: " in result.stdout
    assert result.stderr == ""
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 10 * SIZE


def test_command_understands_every_kind_of_name(tmp_path: Path) -> None:
    make_prepared(tmp_path)
    make_folder(tmp_path / "pictures")
    assert isinstance(summary.find_source("shapes"), Shapes)
    assert isinstance(summary.find_source(str(tmp_path / "pictures")), ImageFolder)
    assert isinstance(summary.find_source(str(tmp_path / "nowhere")), ImageFolder)
    assert isinstance(summary.find_source("data/{split}-*"), TFRecords)
    prepared = summary.find_source(str(tmp_path / "toy"))
    assert isinstance(prepared, TFDS)
    assert prepared.count("train") == 9
    assert isinstance(summary.find_source("imagenet_resized/32x32"), TFDS)


def test_summary_counts_classes_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_prepared(tmp_path)
    assert summary.describe(TFDS("toy", directory=str(tmp_path)), None, None) == 0
    text = capsys.readouterr().out
    assert "splits: train (9), test (2)" in text
    assert "height 8 to 8, median 8 pixels" in text
