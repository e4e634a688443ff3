"""The contract of the family `sources`, on every member that the catalogue lists."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_datasets import imagenet_tars, lsun_databases, picture

from zoo import registry
from zoo.console import UserError
from zoo.data.captioned_shapes import CaptionedShapes
from zoo.data.folder import ImageFolder
from zoo.data.imagenet import ImageNet
from zoo.data.lsun import LSUN
from zoo.data.shapes import Shapes
from zoo.data.sources import Source, class_order
from zoo.data.tfds import TFDS
from zoo.data.tfrecords import TFRecords

SIZE = 8
SPLITS = {"train": 7, "test": 3}


def write_records(path: Path, count: int) -> None:
    """Pictures of classes 0 and 1 in turn, as TFDS and others write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(count):
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture(number)])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def folder(root: Path) -> Source:
    for split, count in SPLITS.items():
        for number in range(count):
            path = root / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
    return ImageFolder(str(root))


def records(root: Path) -> Source:
    for split, count in SPLITS.items():
        write_records(root / f"{split}-0", count)
    return TFRecords(str(root / "{split}-*"), classes=2)


def prepared(root: Path) -> Source:
    place = root / "toy" / "1.0.0"
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = []
    for split, count in SPLITS.items():
        write_records(place / f"toy-{split}.tfrecord-00000-of-00001", count)
        splits.append({"filepathTemplate": template, "name": split, "numBytes": "900", "shardLengths": [str(count)]})
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "tfrecord", "moduleName": "__main__", "splits": splits}
    (place / "dataset_info.json").write_text(json.dumps(info))
    core = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}
    features = {
        "image": {"image": image, "pythonClassName": f"{core}.image_feature.Image"},
        "label": {"classLabel": {"numClasses": "2"}, "pythonClassName": f"{core}.class_label_feature.ClassLabel"},
    }
    (place / "features.json").write_text(
        json.dumps({"featuresDict": {"features": features}, "pythonClassName": f"{core}.features_dict.FeaturesDict"})
    )
    return TFDS("toy", directory=str(root))


MEMBERS: dict[str, Callable[[Path], Source]] = {
    "Shapes": lambda root: Shapes(train=7, test=3),
    "CaptionedShapes": lambda root: CaptionedShapes(train=7, test=3),
    "TFDS": prepared,
    "ImageFolder": folder,
    "TFRecords": records,
    "ImageNet": lambda root: ImageNet(str(imagenet_tars(root))),
    "LSUN": lambda root: LSUN("bedroom", str(lsun_databases(root))),
}
ABSENT: dict[str, Callable[[Path], Source]] = {
    "TFDS": lambda root: TFDS("cifar10", directory=str(root)),
    "ImageFolder": lambda root: ImageFolder(str(root / "nowhere")),
    "TFRecords": lambda root: TFRecords(str(root / "{split}-*"), classes=2),
    "ImageNet": lambda root: ImageNet(str(root)),
    "LSUN": lambda root: LSUN("bedroom", str(root)),
}


@pytest.fixture(params=MEMBERS, scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return MEMBERS[request.param](tmp_path_factory.mktemp(request.param))


def test_every_listed_source_is_tried() -> None:
    listed = {key for key, entry in registry.load().components.items() if entry.family == "sources"}
    assert listed == set(MEMBERS) == {"Shapes", "CaptionedShapes", *ABSENT}


def test_a_source_says_what_it_holds(source: Source) -> None:
    source.check()
    assert source.missing() is None
    assert {"train", "test"} <= set(source.splits()) or set(source.splits()) == {"train", "validation"}
    assert source.classes == len(set(source.class_names))
    assert all(isinstance(line, str) for line in source.notes())
    for split in source.splits():
        assert source.count(split) == len(list(source.records(split)))
        assert source.encoded_bytes(split) >= 0
    assert len({source.fingerprint(split) for split in source.splits()}) == len(source.splits())
    assert source.fingerprint("train") == source.fingerprint("train")


def test_order_is_a_function_of_seed_and_epoch(source: Source) -> None:
    count = source.count("train")

    def positions(seed: int | None, epoch: int) -> list[int]:
        return [int(record["position"]) for record in source.records("train", seed, tf.constant(epoch, tf.int64))]

    orders = [positions(*key) for key in ((None, 0), (1, 0), (1, 1), (2, 0))]
    assert orders[0] == list(range(count))
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    tf.random.set_seed(3)
    assert positions(1, 1) == orders[2]
    known = source.order("train", 1, 1)
    assert known is None or known.numpy().tolist() == orders[2]


def test_places_of_an_order_can_be_picked(source: Source) -> None:
    places = tf.constant([0, 2, 5], tf.int64)
    whole = [int(record["position"]) for record in source.records("train", 4, 2)]
    picked = [int(record["position"]) for record in source.records("train", 4, 2, places)]
    assert picked == [whole[0], whole[2], whole[5]]
    assert list(source.records("train", 4, 2, places[:0])) == []


def test_records_become_pictures_with_labels(source: Source) -> None:
    decoded = source.records("train").map(lambda record: source.decode(record, SIZE, "train"))
    examples = list(decoded)
    assert len(examples) == source.count("train")
    for example in examples:
        assert example["image"].dtype == tf.uint8
        assert example["image"].shape[-1] == 3
        assert ("label" in example) == (source.classes > 0)
        if source.classes:
            assert example["label"].dtype == tf.int32
            assert 0 <= int(example["label"]) < source.classes
    assert len({np.asarray(example["image"]).tobytes() for example in examples}) == len(examples)


def test_captions_of_records_are_those_of_the_list(source: Source) -> None:
    examples = list(source.records("train").map(lambda record: source.decode(record, SIZE, "train")))
    if not source.captioned:
        assert not any("captions" in example for example in examples)
        with pytest.raises(UserError, match=f"{source.name} has no captions"):
            source.captions("train")
        return
    decoded = [tuple(example["captions"].numpy().decode().split("\n")) for example in examples]
    assert decoded == source.captions("train")
    assert all(caption.strip() for captions in decoded for caption in captions)


def test_every_record_has_a_name(source: Source) -> None:
    for split in source.splits():
        assert len({source.locate(split, position) for position in range(source.count(split))}) == source.count(split)


def test_a_split_that_is_not_there_is_refused_by_name(source: Source) -> None:
    with pytest.raises(UserError, match=r"tran.*train"):
        source.count("tran")


@pytest.mark.parametrize("name", ABSENT)
def test_data_that_are_not_here_are_told_and_break_nothing(name: str, tmp_path: Path) -> None:
    absent = ABSENT[name](tmp_path)
    assert absent.splits() == ()
    message = absent.missing()
    assert message is not None
    assert str(tmp_path) in message
    with pytest.raises(UserError):
        absent.count("train")


def test_the_hash_of_an_order_is_that_of_a_file_with_a_name_a_line() -> None:
    assert class_order(("a", "b")) == "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
