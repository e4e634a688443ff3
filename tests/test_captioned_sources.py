"""Captions that come with pictures: COCO as TensorFlow Datasets prepares it, TFRecord files, text files in folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_datasets import picture

from zoo.console import UserError
from zoo.data.captions import DrawnCaptions
from zoo.data.crops import CenterCrop
from zoo.data.folder import ImageFolder
from zoo.data.images import Images
from zoo.data.sources import Source
from zoo.data.text_encoders import RandomTextEncoder
from zoo.data.texts import Texts
from zoo.data.tfds import TFDS
from zoo.data.tfrecords import TFRecords

# As people write them: up to seven an image, with line breaks at the end or inside.
CAPTIONS = [("A dog.", "A brown dog\n"), ("Two  cats\non a mat.",), ("One.", "Two.", "Three.", "Four.")]
CLEAN = [("A dog.", "A brown dog"), ("Two cats on a mat.",), ("One.", "Two.", "Three.", "Four.")]
COCO = {"train": 2, "val": 1, "test": 1, "restval": 2}  # images of the splits of Karpathy and Li


def coco(root: Path) -> TFDS:
    """What `tfds build coco_captions` leaves, in little, described and serialised by TFDS itself."""
    import tensorflow_datasets as tfds

    features = tfds.builder("coco_captions", data_dir=str(root / "none"), try_gcs=False).info.features
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    place = root / "coco_captions" / "2014" / "1.1.0"
    place.mkdir(parents=True)
    features.save_config(str(place))
    number, splits = 0, []
    for split, count in COCO.items():
        name = f"coco_captions-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(place / name)) as writer:
            for _ in range(count):
                example = {
                    "image": np.full((16, 24, 3), 10 * number, np.uint8),
                    "image/filename": f"{number}.jpg",
                    "image/id": number,
                    "objects": [],
                    "captions": [{"text": text, "id": k} for k, text in enumerate(CAPTIONS[number % 3])],
                }
                writer.write(serializer.serialize_example(features.encode_example(example)))
                number += 1
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"filepathTemplate": template, "name": split, "numBytes": "900", "shardLengths": [str(count)]})
    info = {"name": "coco_captions", "configName": "2014", "version": "1.1.0", "fileFormat": "tfrecord"}
    (place / "dataset_info.json").write_text(json.dumps(info | {"moduleName": "__main__", "splits": splits}))
    return TFDS("coco_captions/2014", label=None, directory=str(root), captions="captions/text")


def records(root: Path) -> TFRecords:
    root.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(root / "train-0")) as writer:
        for number, texts in enumerate(CAPTIONS):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture(number)])),
                "caption": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in texts])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return TFRecords(str(root / "{split}-*"), label=None, captions="caption")


def folder(root: Path) -> ImageFolder:
    (root / "train").mkdir(parents=True)
    for number, texts in enumerate(CAPTIONS):
        (root / "train" / f"{number}.jpg").write_bytes(picture(number))
        (root / "train" / f"{number}.txt").write_text("\n\n".join(text.replace("\n", " ") for text in texts) + "\n")
    return ImageFolder(str(root), captions=".txt")


def decoded(source: Source, split: str) -> list[tuple[str, ...]]:
    examples = source.records(split).map(lambda record: source.decode(record, 8, split))
    return [tuple(example["captions"].numpy().decode().split("\n")) for example in examples]


@pytest.mark.parametrize("make", [records, folder])
def test_captions_of_files(make, tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    assert source.captioned
    source.check()
    assert source.captions("train") == decoded(source, "train") == CLEAN
    without = make(tmp_path / "b")
    without.text = None
    assert not without.captioned
    assert "captions" not in next(iter(without.records("train").map(lambda r: without.decode(r, 8, "train"))))
    with pytest.raises(UserError, match="has no captions"):
        without.captions("train")
    assert source.fingerprint("train") != without.fingerprint("train")


def test_coco_as_tfds_prepares_it(tmp_path: Path) -> None:
    source = coco(tmp_path)
    source.check()
    assert source.missing() is None
    assert source.captions("train") == decoded(source, "train") == CLEAN[:2]
    # The validation images of 2014, which papers draw captions from, are three splits here.
    validation = "val+test+restval"
    assert source.count(validation) == 4
    assert source.captions(validation) == [CLEAN[2], *CLEAN[:3]]
    drawn = DrawnCaptions((validation,))(np.arange(11), source, 0)
    assert sorted(drawn) == sorted(text for record in source.captions(validation) for text in record)
    images = Images(
        source,
        8,
        CenterCrop(),
        train="train",
        test=validation,
        text=Texts(RandomTextEncoder(), 8, str(tmp_path / "texts")),
    )
    images.check()
    element = next(iter(images.stream(0)))
    own = images.text([caption for record in source.captions("train") for caption in record])
    assert any(np.array_equal(element["text"], one) for one in own)
    assert len(list(images.examples("test"))) == 4


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("captions/txt", r"'txt' is not among .*text.* \(did you mean 'text'\?\); set TFDS.captions"),
        ("words", "'words' is not among"),
        ("captions/id", "captions must be texts"),
        ("image/id", "captions must be texts"),
        ("captions", "captions must be texts"),
    ],
)
def test_a_feature_without_texts_is_refused(tmp_path: Path, captions: str, message: str) -> None:
    """By TFDS' own description of COCO, which needs no data."""
    with pytest.raises(UserError, match=message):
        TFDS("coco_captions", label=None, directory=str(tmp_path), captions=captions).check()
    TFDS("coco_captions", label=None, directory=str(tmp_path), captions="captions/text").check()


def test_a_picture_without_its_text_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (tmp_path / "train" / "1.txt").unlink()
    with pytest.raises(UserError, match=r"1\.txt"):
        ImageFolder(str(tmp_path), captions=".txt").captions("train")
    assert source.count("train") == 3
    for wrong in ("txt", ".png"):
        with pytest.raises(ValueError, match="captions must be the suffix of text files"):
            ImageFolder(str(tmp_path), captions=wrong)
