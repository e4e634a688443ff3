"""ImageNet and LSUN in little: a few pictures in the layouts in which the datasets come."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.io import savemat

SIZE = 16
FIRST, SECOND, LAST = "n01440764", "n01514668", "n15075141"  # labels 0, 7 and 999
TRAIN = {LAST: (0, 1), FIRST: (12, 2, 10), SECOND: (5,)}  # WordNet id -> numbers in the names of its pictures
VALIDATION = {1: "n01751748", 2: "n09193705", 3: "n02105855", 4: "n04263257", 12: "n02125311"}  # as published


def picture(level: int, kind: str = "JPEG") -> bytes:
    """A grey picture of one level."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (level,) * 3).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def train_pictures() -> dict[str, dict[str, bytes]]:
    """WordNet id -> name of the file -> picture, of a level of its own."""
    return {
        name: {f"{name}_{number}.JPEG": picture(40 * place + number) for number in numbers}
        for place, (name, numbers) in enumerate(TRAIN.items(), start=1)
    }


def validation_pictures() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{number:08d}.JPEG": picture(200 + number) for number in VALIDATION}


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def imagenet_tars(root: Path) -> Path:
    """The official tar files."""
    root.mkdir(parents=True, exist_ok=True)
    inner = {f"{name}.tar": tar(files) for name, files in train_pictures().items()}
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar(validation_pictures()))
    return root


def imagenet_folders(root: Path, validation: str = "val", flat: bool = False) -> Path:
    """Folders by WordNet id; the validation images may lie in none."""
    for name, files in train_pictures().items():
        (root / "train" / name).mkdir(parents=True)
        for file, data in files.items():
            (root / "train" / name / file).write_bytes(data)
    for (file, data), name in zip(validation_pictures().items(), VALIDATION.values(), strict=True):
        place = root / validation if flat else root / validation / name
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(data)
    return root


def devkit(root: Path, ids: tuple[str, ...], truth: list[str]) -> Path:
    """The development kit, unpacked: class numbers of its own, the inner nodes of the hierarchy after the 1,000."""
    numbered = [*ids[::-1], "n00001740"]
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(number, name, "a word", float(number > len(ids))) for number, name in enumerate(numbered, start=1)]
    (root / "data").mkdir(parents=True)
    savemat(root / "data" / "meta.mat", {"synsets": np.array(rows, kinds)[:, None]})
    numbers = {name: number for number, name in enumerate(numbered, start=1)}
    (root / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{numbers[name]}\n" for name in truth)
    )
    return root


def prepared_imagenet(root: Path, ids: tuple[str, ...]) -> Path:
    """As TensorFlow Datasets prepares imagenet2012, with the classes in the order of `ids`; one picture of class 7."""
    folder = root / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture(9)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[7])),
    }
    with tf.io.TFRecordWriter(str(folder / "imagenet2012-train.tfrecord-00000-of-00001")) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"filepathTemplate": template, "name": "train", "numBytes": "100", "shardLengths": ["1"]}
    info = {"name": "imagenet2012", "version": "5.1.0", "fileFormat": "tfrecord", "moduleName": "__main__"}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": [split]}))
    core = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "jpeg"}
    described = {
        "image": {"image": image, "pythonClassName": f"{core}.image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": str(len(ids))},
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
        },
    }
    (folder / "features.json").write_text(
        json.dumps({"featuresDict": {"features": described}, "pythonClassName": f"{core}.features_dict.FeaturesDict"})
    )
    (folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in ids))
    return root


def database(folder: Path, values: Mapping[bytes, bytes]) -> Path:
    """An LMDB database as the library writes it; its data file."""
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return folder / "data.mdb"


def lsun_databases(root: Path, category: str = "bedroom") -> Path:
    """Seven pictures to train on and two others, JPEG and WebP, in the order of their keys by level."""
    train = {f"{key:04x}".encode(): picture(key, "WEBP" if key % 2 else "JPEG") for key in (6, 3, 1, 0, 2, 5, 4)}
    database(root / f"{category}_train_lmdb", train)
    database(root / f"{category}_val_lmdb", {b"b": picture(101), b"a": picture(100)})
    return root
