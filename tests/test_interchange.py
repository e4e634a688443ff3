"""Samples in the layouts of other projects: read, written, and refused where they cannot be compared."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from channel_means import (
    RANDOM,
    Means,
    MeansAndDeviations,
    compared,
    means_of,
    names,
    pictures,
)
from PIL import Image

from harness import choices, evaluate, npz
from harness.cache import write_arrays, write_json
from harness.metrics.frechet import FID, frechet_distance
from harness.metrics.statistics import Moments
from harness.samples import open_images, open_set, write_samples
from harness.statistics_files import clean_fid_name, write_statistics
from zoo.console import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def means(monkeypatch) -> None:
    """The command lines take the stand-in for every feature network."""
    monkeypatch.setattr(choices, "feature_network", lambda spelling, resize=None, epochs=3: Means())


# ---- written here, read elsewhere


def test_samples_written_here_are_scored_by_a_reader_of_the_adm_layout(tmp_path):
    """The reader is numpy alone: arr_0, uint8 NHWC; its score of the file is the score of the images."""
    images, real = pictures(40), pictures(50)
    write_samples(tmp_path / "samples.npz", images, np.arange(40) % 4)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as arrays:
        found, labels = arrays["arr_0"], arrays["arr_1"]
    assert (found.dtype, found.shape) == (np.uint8, (40, 8, 8, 3))
    np.testing.assert_array_equal(labels, np.arange(40) % 4)
    theirs = MeansAndDeviations()(found)["pooled"].astype(np.float64)
    mean, covariance = theirs.mean(axis=0), np.cov(theirs, rowvar=False)
    write_samples(tmp_path / "real.npz", real)
    ours = compared(tmp_path / "real.npz", tmp_path / "samples.npz", tmp_path / "cache", FID())["metrics"]["fid"]
    reference = means_of(real)
    assert ours == pytest.approx(frechet_distance(reference.mean, reference.covariance, mean, covariance), rel=1e-9)


def test_statistics_written_here_load_as_those_of_clean_fid_and_pytorch_fid_do(tmp_path):
    moments = means_of(pictures(30))
    facts = {"title": "Inception", "identity": "x", "resize": "clean-fid bicubic"}
    name = clean_fid_name("My_Faces", facts, "custom", "na")
    assert name == "my_faces_clean_custom_na.npz"
    write_statistics(tmp_path / name, moments, facts)
    stats = np.load(tmp_path / name)  # as clean-fid's get_reference_statistics and pytorch-fid read them
    mu, sigma = stats["mu"], stats["sigma"]
    assert (mu.dtype, sigma.dtype) == (np.float64, np.float64)
    np.testing.assert_array_equal(mu, moments.mean)
    np.testing.assert_array_equal(sigma, moments.covariance)
    with pytest.raises(UserError, match="clean-fid has no statistics of"):
        clean_fid_name("faces", facts | {"resize": "Pillow Lanczos, 8 bits"}, "custom", "na")


# ---- folders


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    parts = {number: pictures(3) for number in (0, 2, 10)}
    for number, images in parts.items():
        write_samples(tmp_path / f"shard-{number}.npz", images)
    write_samples(tmp_path / "other.npz", pictures(3, size=4))  # beside the shards: not one of them
    found = open_images(tmp_path)
    np.testing.assert_array_equal(found.arrays()[0], np.concatenate(list(parts.values())))
    assert [len(images) for images, _ in found.batches(2)] == [2, 2, 2, 2, 1]


def test_image_folders_have_classes_by_sub_folder(tmp_path):
    for name, count in (("cat", 2), ("dog", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(pictures(1)[0]).save(tmp_path / name / f"{i}.png")
    found = open_images(tmp_path)
    assert (found.count, found.classes) == (5, 2)
    np.testing.assert_array_equal(found.arrays()[1], [0, 0, 1, 1, 1])
    part = found.section(1, 3)
    np.testing.assert_array_equal(part.arrays()[0], found.arrays()[0][1:4])
    np.testing.assert_array_equal(part.all_labels(), [0, 1, 1])
    assert part.fingerprint() != found.fingerprint()
    assert not found.notes
    flat = open_images(tmp_path / "dog")
    assert (flat.count, flat.classes, flat.arrays()[1]) == (3, 0, None)


# ---- datasets and TFRecord files


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    import io

    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


def write_records(path: Path, images: list[bytes], labels: list[int] | None = None, key: str = "image/encoded") -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, content in enumerate(images):
            features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
            if labels is not None:
                features["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[i]]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path


def test_tfrecords_are_image_sets(tmp_path):
    images = pictures(7)
    for i, part in enumerate((images[:4], images[4:])):
        write_records(tmp_path / f"s.tfrecord-0000{i}-of-00002", [encoded(image) for image in part], [3] * len(part))
    for spelling in (f"tfrecord:{tmp_path}/s.tfrecord-*", str(tmp_path)):
        found = open_set(spelling)
        assert (found.count, found.shape, found.classes) == (7, (8, 8, 3), 4)
        np.testing.assert_array_equal(found.arrays()[0], images)
        np.testing.assert_array_equal(found.all_labels(), [3] * 7)
        np.testing.assert_array_equal(found.section(2, 3).arrays()[0], images[2:5])
    one = open_set(tmp_path / "s.tfrecord-00001-of-00002")
    np.testing.assert_array_equal(one.arrays()[0], images[4:])
    cropped = open_set(f"tfrecord:{tmp_path}/s.tfrecord-*:4")
    assert cropped.arrays()[0].shape == (7, 4, 4, 3)


def test_grey_tfrecords_have_one_channel(tmp_path):
    images = pictures(3, channels=1)
    write_records(tmp_path / "a.tfrecord", [encoded(image[..., 0]) for image in images])
    found = open_set(tmp_path / "a.tfrecord")
    assert (found.shape, found.classes) == ((8, 8, 1), 0)
    np.testing.assert_array_equal(found.arrays()[0], images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([encoded(pictures(1)[0]), encoded(pictures(1, size=9)[0])], "mixes image sizes"),
        ([encoded(pictures(1)[0], "JPEG")], "--allow-lossy"),
        ([encoded(pictures(1, channels=4)[0])], "mode RGBA"),
        ([encoded(pictures(1)[0]), b"nothing"], "record 1 of .*cannot be read"),
        ([b"nothing"], "must have one encoded picture"),
        ([], "holds no images"),
    ],
)
def test_bad_tfrecords_give_one_clear_message(tmp_path, images, message):
    write_records(tmp_path / "a.tfrecord", images)
    with pytest.raises(UserError, match=message):
        open_set(tmp_path / "a.tfrecord")


def test_truncated_tfrecords_are_named(tmp_path):
    path = write_records(tmp_path / "a.tfrecord", [encoded(image) for image in pictures(4)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.tfrecord is cut short or damaged"):
        open_set(path)


def test_a_dataset_is_an_image_set(tmp_path, monkeypatch):
    from test_data import make_prepared

    make_prepared(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = open_set("tfds:toy:train:8")
    assert (found.count, found.classes, found.shape) == (9, 3, (8, 8, 3))
    images, labels = found.arrays()
    np.testing.assert_array_equal(found.all_labels(), labels)
    np.testing.assert_array_equal(open_set("tfds:toy:1.0.0:train[2:5]:8").arrays()[0], images[2:5])
    for spelling, message in (
        ("tfds:toy:valid:8", "no split 'valid'"),
        ("tfds:nothing:train", "nothing"),
        ("tfds:toy", "write tfds:NAME:SPLIT"),
    ):
        with pytest.raises(UserError, match=message):
            open_set(spelling)


# ---- bad images


def broken_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is not there"),
        ("float", "must be uint8 from 0 to 255, got float32"),
        ("channel_first", "channel-first"),
        ("pickled", "pickled object"),
        ("statistics", "reference statistics"),
        ("labels", "one integer label per image"),
        ("truncated", "cut short"),
        ("flat", "shape \\[N, H, W, C\\]"),
        ("mixed", "mixes image shapes"),
        ("half_labelled", "labels"),
        ("empty", "holds no images"),
        ("text", "not an image file"),
        ("transparent", "mode RGBA"),
        ("inks", "mode CMYK"),
        ("palette", "mode P"),
        ("grey_and_colour", "all images of a set have one size and kind"),
        ("folders_and_files", "both files and sub-folders"),
        ("deep", "mode I;16"),
        ("mixed_folder", "all images of a set have one size"),
        ("damaged_image", "cannot be read as an image"),
        ("empty_folder", "holds no images"),
    ],
)
def test_bad_samples_give_one_clear_message(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        open_images(BAD[name](tmp_path))


def folder_of(path: Path, *images: Image.Image, suffix: str = "png") -> Path:
    for i, image in enumerate(images):
        image.save(path / f"{i}.{suffix}")
    return path


def truncated(path: Path) -> Path:
    broken_npz(path / "a.npz", arr_0=pictures(50))
    (path / "a.npz").write_bytes((path / "a.npz").read_bytes()[:3000])
    return path / "a.npz"


def shards(path: Path, *arrays: dict[str, np.ndarray]) -> Path:
    for i, each in enumerate(arrays):
        np.savez(path / f"shard-{i}.npz", **each)
    return path


def with_text(path: Path) -> Path:
    (path / "readme.txt").write_text("hello")
    return folder_of(path, Image.fromarray(pictures(1)[0]))


def damaged(path: Path) -> Path:
    (path / "0.png").write_bytes(b"\x89PNG, and then nothing")
    return path


BAD = {
    "nothing": lambda path: path / "nothing.npz",
    "float": lambda path: broken_npz(path / "a.npz", arr_0=pictures(3).astype(np.float32)),
    "channel_first": lambda path: broken_npz(path / "a.npz", arr_0=np.zeros((4, 3, 8, 8), np.uint8)),
    "pickled": lambda path: broken_npz(path / "a.npz", arr_0=pictures(3), extra=np.array([{}], dtype=object)),
    "statistics": lambda path: broken_npz(path / "a.npz", mu=np.zeros(4), sigma=np.eye(4)),
    "labels": lambda path: broken_npz(path / "a.npz", arr_0=pictures(3), arr_1=np.zeros((3, 10))),
    "truncated": truncated,
    "flat": lambda path: broken_npz(path / "a.npz", arr_0=np.zeros((4, 192), np.uint8)),
    "mixed": lambda path: shards(path, {"arr_0": pictures(2)}, {"arr_0": pictures(2, size=4)}),
    "half_labelled": lambda path: shards(path, {"arr_0": pictures(2)}, {"arr_0": pictures(2), "arr_1": np.arange(2)}),
    "empty": lambda path: broken_npz(path / "a.npz", arr_0=pictures(0)),
    "text": with_text,
    "transparent": lambda path: folder_of(path, Image.new("RGBA", (8, 8))),
    "deep": lambda path: folder_of(path, Image.new("I;16", (8, 8))),
    "inks": lambda path: folder_of(path, Image.new("CMYK", (8, 8)), suffix="tif"),
    "palette": lambda path: folder_of(path, Image.new("P", (8, 8))),
    "grey_and_colour": lambda path: folder_of(path, Image.new("RGB", (8, 8)), Image.new("L", (8, 8))),
    "folders_and_files": lambda path: (path / "cat").mkdir() or folder_of(path, Image.new("RGB", (8, 8))),
    "mixed_folder": lambda path: folder_of(path, Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))),
    "damaged_image": damaged,
    "empty_folder": lambda path: path,
}


def test_a_reader_that_meets_a_cut_array_says_so(tmp_path):
    """The header is whole, the pixels are not: found when they are read, after the headers were taken for good."""
    path = broken_npz(tmp_path / "a.npz", arr_0=pictures(50))
    content = bytearray(path.read_bytes())
    content[3000] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="cut short or not an npz file"):
        open_images(path).arrays()


def test_an_image_whose_pixels_are_cut_off_is_named(tmp_path):
    folder_of(tmp_path, *(Image.fromarray(image) for image in pictures(3, size=32)))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:1500])
    with pytest.raises(UserError, match=r"1\.png is damaged"):
        open_images(tmp_path).arrays()


def test_lossy_images_are_refused_without_a_flag_and_stamped_with_it(tmp_path, means, capsys):
    for kind in ("jpg", "webp"):
        folder = tmp_path / kind
        folder.mkdir()
        for i, image in enumerate(pictures(12)):
            Image.fromarray(image).save(folder / f"{i}.{kind}")
        with pytest.raises(UserError, match="--allow-lossy"):
            open_images(folder)
        assert "JPEG" in open_images(folder, allow_lossy=True).notes[0]
    write_samples(tmp_path / "real.npz", pictures(30))
    arguments = [str(tmp_path / "real.npz"), str(tmp_path / "jpg"), "--cache", str(tmp_path / "cache"), "--json"]
    with pytest.raises(UserError, match="--allow-lossy"):
        evaluate.main([*arguments, "--metrics", "fid"])
    evaluate.main([*arguments, "--metrics", "fid", "--allow-lossy"])
    result = json.loads(capsys.readouterr().out)
    assert result["allowed"] == ["lossy"]
    assert "lossy-images" in names(result)


def test_parts_of_a_file_are_read_row_by_row(tmp_path, monkeypatch):
    """Compressed or not, in either order of storage."""
    images = pictures(23)
    monkeypatch.setattr(npz, "PART_BYTES", 5 * images[0].nbytes)
    np.savez(tmp_path / "plain.npz", arr_0=images)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=images)
    np.savez(tmp_path / "columns.npz", arr_0=np.asfortranarray(images))
    for name in ("plain", "packed", "columns"):
        parts = [part for part, _ in open_images(tmp_path / f"{name}.npz").parts()]
        assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
        np.testing.assert_array_equal(np.concatenate(parts), images)


# ---- a full disk, and the exit code


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json cannot be written \(No space left on device\): make room"):
        write_arrays(tmp_path / "a.json", {"x": np.zeros(3)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from zoo.console import command
from harness import reference
command(lambda: reference.main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_message_and_exit_code_2(tmp_path):
    """A process that may write 20 kB a file merges shards into a file of more: their files stay."""
    from harness import shards

    facts = {"title": "Inception", "identity": "x"}
    files = []
    for index in range(2):
        origin = shards.Origin(index, 2, "images", facts, (8, 8, 3))
        files.append(tmp_path / f"part-{index}.npz")
        shards.write(files[-1], Moments.of(RANDOM.normal(size=(90, 60))), None, origin)
    command = [sys.executable, "-c", FULL_DISK, "merge", *map(str, files), "--out", str(tmp_path / "out.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "out.npz cannot be written (File too large)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-0.npz", "part-1.npz"]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    write_samples(tmp_path / "real.npz", pictures(20))
    command = [sys.executable, "-m", "harness.evaluate", str(tmp_path / "real.npz"), str(tmp_path / "missing.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert "missing.npz is not there" in done.stderr
