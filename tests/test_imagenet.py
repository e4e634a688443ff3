"""ImageNet from tar files, folders and TensorFlow Datasets: the same labels in all, or an error."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import (
    FIRST,
    LAST,
    SECOND,
    VALIDATION,
    devkit,
    imagenet_folders,
    imagenet_tars,
    picture,
    prepared_imagenet,
    tar,
    validation_pictures,
)

from zoo.console import UserError
from zoo.data import imagenet_classes, packed, summary
from zoo.data.crops import CenterCrop
from zoo.data.imagenet import ImageNet
from zoo.data.imagenet_classes import check_order, coverage, standard_ids, standard_labels, validation_labels
from zoo.data.images import Images
from zoo.data.sources import Source
from zoo.data.tars import members

SIZE = 8


@pytest.fixture(autouse=True)
def no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own datasets and caches is looked at."""
    monkeypatch.delenv("ZOO_IMAGENET", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images_of(source: Source) -> Images:
    return Images(source, SIZE, CenterCrop(), test="validation")


def found(source: Source, split: str) -> list[tuple[int, int]]:
    """Grey level and label of every picture in file order."""
    return [(int(x["image"][0, 0, 0]), int(x["label"])) for x in images_of(source).examples(split)]


def make(kind: str, root: Path) -> ImageNet:
    makers: dict[str, Callable[[Path], Path]] = {
        "tars": imagenet_tars,
        "folders": imagenet_folders,
        "validation": lambda path: imagenet_folders(path, "validation"),
        "flat": lambda path: imagenet_folders(path, flat=True),
    }
    return ImageNet(str(makers[kind](root / kind)))


# ---- what is read


@pytest.mark.parametrize("kind", ["tars", "folders", "validation", "flat"])
def test_every_form_has_the_same_pictures_at_the_same_positions(tmp_path: Path, kind: str) -> None:
    source = make(kind, tmp_path)
    source.check()
    assert source.splits() == ("train", "validation")
    assert (source.classes, source.count("train"), source.count("validation")) == (1000, 6, 5)
    # In the order of class and file name: 10 and 12 stand before 2.
    assert found(source, "train") == [(90, 0), (92, 0), (82, 0), (125, 7), (40, 999), (41, 999)]
    labels = {200 + number: standard_ids().index(name) for number, name in VALIDATION.items()}
    assert found(source, "test") == sorted(labels.items(), key=lambda pair: pair[1])
    assert source.fingerprint("train") == ImageNet(source.directory).fingerprint("train")
    assert source.fingerprint("train") != source.fingerprint("validation")
    assert f"{FIRST}_2.JPEG" in source.locate("train", 2)


def test_tar_files_and_folders_give_the_same_stream(tmp_path: Path) -> None:
    streams = [images_of(make(kind, tmp_path)).stream(seed=3) for kind in ("tars", "folders")]
    for one, other in zip(*(stream.take(20) for stream in streams), strict=True):
        assert int(one["label"]) == int(other["label"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_each_split_is_read_from_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_folders(imagenet_tars(tmp_path / "both"))
    (root / "ILSVRC2012_img_train.tar").unlink()
    monkeypatch.setenv("ZOO_IMAGENET", str(root))
    source = ImageNet()
    assert source.locate("train", 0) == str(root / "train" / FIRST / f"{FIRST}_10.JPEG")
    assert source.locate("validation", 0).startswith(str(root / "ILSVRC2012_img_val.tar"))


def test_what_tensorflow_datasets_prepared_is_read(tmp_path: Path) -> None:
    prepared_imagenet(tmp_path / "tfds", standard_ids())
    assert found(ImageNet(), "train") == found(ImageNet(str(tmp_path / "tfds")), "train") == [(9, 7)]
    assert ImageNet().splits() == ("train",)
    with pytest.raises(UserError, match=r"no split 'validation' here; splits that are here: train.*ZOO_IMAGENET"):
        ImageNet().count("validation")


def test_what_is_not_here_is_named_with_the_places(tmp_path: Path) -> None:
    source = ImageNet(str(tmp_path))
    source.check()
    assert source.classes == 1000
    assert source.splits() == ()
    message = source.missing() or ""
    for word in ("imagenet2012", "ILSVRC2012_img_train.tar", "train, validation, val", str(tmp_path), "ZOO_IMAGENET"):
        assert word in message
    with pytest.raises(UserError, match="is not here"):
        source.count("train")


# ---- classes


def test_the_ids_are_those_by_which_tensorflow_datasets_numbers_the_classes() -> None:
    listed = imagenet_classes._packaged_file().with_name("labels.txt")
    assert standard_ids() == tuple(listed.read_text().split())
    assert [standard_labels()[name] for name in (FIRST, SECOND, LAST)] == [0, 7, 999]


def test_an_order_that_is_not_the_standard_says_how_it_differs() -> None:
    ids = list(standard_ids())
    check_order(ids, "here")
    moved = [*ids[:100], *ids[101:171], ids[100], *ids[171:]]
    with pytest.raises(
        UserError, match=rf"here .*: 71 misplaced \({ids[101]} \(100 instead of 101\), .* of the papers"
    ):
        check_order(moved, "here")
    with pytest.raises(UserError, match=rf"1 missing \({LAST}\); 1 extra \(tench\)\. Its"):
        check_order([*ids[:-1], "tench"], "here")


def test_a_prepared_dataset_in_another_order_is_refused(tmp_path: Path) -> None:
    ids = standard_ids()
    prepared_imagenet(tmp_path / "tfds", (ids[1], ids[0], *ids[2:]))
    for use in (ImageNet().check, lambda: ImageNet().count("train")):
        with pytest.raises(UserError, match=rf"2 misplaced \({ids[1]} \(0 instead of 1\)"):
            use()


def test_a_subset_is_told_from_the_whole() -> None:
    assert coverage("validation", np.repeat(np.arange(1000), 50)) == "50,000 of 50,000 pictures, all 1,000 classes"
    few = coverage("train", np.array([7, 7, 0]))
    assert f"3 of 1,281,167 pictures, a subset of 2 of the 1,000 classes (only {FIRST}, {SECOND})" in few
    most = coverage("train", np.arange(1, 1000))
    assert f"999 of the 1,000 classes (lacking {FIRST})" in most


def test_unknown_classes_are_refused(tmp_path: Path) -> None:
    folders = imagenet_folders(tmp_path / "folders")
    (folders / "train" / FIRST).rename(folders / "train" / "tench")
    source = ImageNet(str(folders))
    for use in (source.check, lambda: source.count("train")):
        with pytest.raises(
            UserError, match=r"train has 1 classes that are none of ImageNet's 1,000: tench.*ImageFolder"
        ):
            use()
    tars = imagenet_tars(tmp_path / "tars")
    (tars / "ILSVRC2012_img_train.tar").write_bytes(tar({"n99999999.tar": tar({"n99999999_1.JPEG": picture(1)})}))
    with pytest.raises(UserError, match="none of ImageNet's 1,000: n99999999"):
        ImageNet(str(tars)).count("train")


def test_pictures_outside_of_the_layout_are_refused(tmp_path: Path) -> None:
    folders = imagenet_folders(tmp_path / "folders")
    (folders / "train" / "stray.JPEG").write_bytes(picture(1))
    with pytest.raises(UserError, match=r"stray\.JPEG lies in no folder by WordNet id"):
        ImageNet(str(folders)).count("train")
    (folders / "val" / "cat.JPEG").write_bytes(picture(1))
    with pytest.raises(UserError, match=r"cat\.JPEG lies in no folder"):
        ImageNet(str(folders)).count("validation")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no image files"):
        ImageNet(str(tmp_path / "empty")).count("train")
    tars = imagenet_tars(tmp_path / "tars")
    (tars / "ILSVRC2012_img_train.tar").write_bytes(tar({f"{FIRST}/{FIRST}_1.JPEG": picture(1)}))
    (tars / "ILSVRC2012_img_val.tar").write_bytes(tar({"cat.JPEG": picture(1)}))
    with pytest.raises(UserError, match=rf"a tar file for each class.*has {FIRST}/{FIRST}_1\.JPEG"):
        ImageNet(str(tars)).count("train")
    with pytest.raises(UserError, match=r"holds cat\.JPEG"):
        ImageNet(str(tars)).count("validation")


# ---- labels of the validation images


@pytest.mark.parametrize("packed", [False, True])
def test_the_development_kit_has_the_labels_that_tensorflow_datasets_has(tmp_path: Path, packed: bool) -> None:
    ours, origin = validation_labels(tmp_path)
    assert np.bincount(ours).tolist() == [50] * 1000
    assert "tensorflow_datasets" in origin
    kit = devkit(tmp_path / imagenet_classes.DEVKIT, standard_ids(), [standard_ids()[label] for label in ours])
    if packed:
        with tarfile.open(tmp_path / f"{imagenet_classes.DEVKIT}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(kit, kit.name)
        kit.rename(tmp_path / "elsewhere")
    labels, origin = validation_labels(tmp_path)
    assert imagenet_classes.DEVKIT in origin
    np.testing.assert_array_equal(labels, ours)


def test_labels_that_are_missing_or_wrong_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [standard_ids()[label] for label in validation_labels(tmp_path)[0]]
    kit = devkit(tmp_path / imagenet_classes.DEVKIT, standard_ids(), [ours[1], ours[0], *ours[2:]])
    with pytest.raises(UserError, match=r"does not have the labels .* as published"):
        validation_labels(tmp_path)
    (kit / "data" / "meta.mat").write_bytes(b"no such file")
    with pytest.raises(UserError, match="no development kit that can be read"):
        validation_labels(tmp_path)
    tars = imagenet_tars(tmp_path / "tars")
    monkeypatch.setattr(imagenet_classes, "_packaged_file", lambda: tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=r"no labels: .*ILSVRC2012_devkit_t12\.tar\.gz"):
        ImageNet(str(tars)).count("validation")
    assert ImageNet(str(tars)).count("train") == 6


# ---- damaged files


def test_a_cut_off_tar_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = imagenet_tars(tmp_path) / "ILSVRC2012_img_train.tar"
    whole = path.read_bytes()
    last = list(members(path))[-1]
    for size in (100, 700, len(whole) // 2, last.offset + 5, last.offset + last.size - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"img_train\.tar is cut off"):
            ImageNet(str(tmp_path)).count("train")
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match="cut off or damaged at byte 0"):
        ImageNet(str(tmp_path)).count("train")


def test_an_inner_file_cut_off_is_refused(tmp_path: Path) -> None:
    inner = tar({f"{FIRST}_{number}.JPEG": picture(number) for number in range(3)})
    path = imagenet_tars(tmp_path) / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar({f"{FIRST}.tar": inner[:2000], f"{SECOND}.tar": inner}))
    with pytest.raises(UserError, match=rf"cut off inside {FIRST}_1\.JPEG"):
        ImageNet(str(tmp_path)).count("train")


def test_a_corrupt_picture_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_tars(tmp_path)
    files = validation_pictures()
    files["ILSVRC2012_val_00000002.JPEG"] = picture(1)[:60]
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar(files))
    assert summary.describe(summary.find_source("imagenet", str(root)), None, None) == 1
    text = capsys.readouterr().out
    for line in (
        "SHA-256 70002b0ff5de60a3",
        "labels are in the standard order",
        f"train: 6 of 1,281,167 pictures, a subset of 3 of the 1,000 classes (only {FIRST}, {SECOND}, {LAST})",
        "validation labels from ",
        "not here: TensorFlow Datasets' folder",
        "not here: folders train",
        "validation: 4 images, 1 corrupt",
        "  0 to 3 images a class; 997 classes have none",
        "img_val.tar: ILSVRC2012_val_00000002.JPEG: ",
    ):
        assert line in text


# ---- the index that is kept


def test_a_slow_index_is_kept_and_made_anew_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = imagenet_tars(tmp_path) / "ILSVRC2012_img_val.tar"
    made = []

    def index() -> packed.Index:
        made.append(path)
        return packed.Index(np.array([512]), np.array([len(made)]), np.array([7], np.int32))

    def lengths() -> int:
        return int(packed.kept(path, "test", index).lengths[0])

    assert [lengths(), lengths()] == [1, 2]
    assert not packed.cache_folder().exists()
    monkeypatch.setattr(packed, "WORTH_KEEPING", -1.0)
    assert [lengths(), lengths()] == [3, 3]
    os.utime(path, (1, 1))
    assert [lengths(), lengths()] == [4, 4]
    for file in packed.cache_folder().iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert [lengths(), lengths()] == [5, 5]
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file, in which nothing can be kept
    assert [lengths(), lengths()] == [6, 7]
