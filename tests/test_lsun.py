"""LSUN from LMDB files that the LMDB library wrote, and from folders; files that are cut or damaged."""

import os
import random
from pathlib import Path

import lmdb
import pytest
from tiny_datasets import database, lsun_databases, picture

from zoo.console import UserError
from zoo.data import lmdb_file, summary
from zoo.data.crops import CenterCrop
from zoo.data.images import Images
from zoo.data.lmdb_file import LMDBFile, value_places
from zoo.data.lsun import LSUN


@pytest.fixture(autouse=True)
def no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own datasets is looked at."""
    monkeypatch.delenv("ZOO_LSUN", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def levels(source: LSUN, split: str) -> list[int]:
    images = Images(source, 8, CenterCrop(), test="validation")
    return [int(example["image"][0, 0, 0]) for example in images.examples(split)]


def values_at(path: Path) -> list[bytes]:
    offsets, lengths = value_places(path)
    data = path.read_bytes()
    return [data[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)]


def some_values(count: int, sizes: tuple[int, ...], key_bytes: int = 20) -> dict[bytes, bytes]:
    draw = random.Random(count)
    return {draw.randbytes(key_bytes).hex().encode(): draw.randbytes(draw.choice(sizes)) for _ in range(count)}


# ---- the reader


@pytest.mark.parametrize(
    ("count", "sizes", "key_bytes", "depth"),
    [
        (0, (1,), 20, 0),
        (1, (0,), 20, 1),
        (30, (10, 50), 20, 1),
        (400, (0, 17, 1500, 2000), 20, 2),  # in leaves, and around the size from which values have their own pages
        (150, (4080, 4081, 30_000), 20, 2),
        (900, (30,), 200, 4),
    ],
)
def test_values_are_found_as_the_library_wrote_them(
    tmp_path: Path, count: int, sizes: tuple[int, ...], key_bytes: int, depth: int
) -> None:
    values = some_values(count, sizes, key_bytes)
    path = database(tmp_path / "db", values)
    assert values_at(path) == [values[key] for key in sorted(values)]
    with path.open("rb") as file:
        assert LMDBFile(path, file.fileno()).tree.depth == depth


def test_the_last_transaction_counts(tmp_path: Path) -> None:
    values = some_values(300, (10, 5000))
    path = database(tmp_path / "db", values)
    kept = sorted(values)[::3]
    for part in (sorted(values)[1::3], sorted(values)[2::3]):
        with lmdb.open(str(tmp_path / "db"), map_size=2**26) as environment, environment.begin(write=True) as change:
            for key in part:
                change.delete(key)
    assert values_at(path) == [values[key] for key in kept]


def test_no_value_is_read_for_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path / "db", some_values(200, (20_000,)))
    real, read = os.pread, []

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        read.append(length)
        return real(descriptor, length, offset)

    monkeypatch.setattr(lmdb_file.os, "pread", counted)
    assert len(value_places(path)[0]) == 200
    assert sum(read) < path.stat().st_size / 100


def test_damage_is_told_and_never_fatal(tmp_path: Path) -> None:
    """Bytes of the index pages changed at random give an error for people, or another index."""
    path = database(tmp_path / "db", some_values(300, (10, 3000)))
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    pages = [place for place in range(0, len(whole), 4096) if whole[place + 10] & 0b1011]
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[draw.choice(pages) + draw.randrange(400)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            value_places(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


def test_databases_inside_a_database_are_refused(tmp_path: Path) -> None:
    database(tmp_path / "db", {})
    with lmdb.open(str(tmp_path / "db"), map_size=2**20, max_dbs=1) as environment:
        inner = environment.open_db(b"named")
        with environment.begin(write=True) as transaction:
            transaction.put(b"a", b"1", db=inner)
    with pytest.raises(UserError, match="no dataset of pictures has"):
        value_places(tmp_path / "db" / "data.mdb")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.mdb"
    path.write_bytes(b"PK\3\4" + bytes(9000))
    with pytest.raises(UserError, match=r"no LMDB file of version 1 .*0xbeefc0de"):
        value_places(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cut short at byte 0"):
        value_places(path)


# ---- the source


def test_two_splits_are_read_in_the_order_of_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_LSUN", str(lsun_databases(tmp_path)))
    source = LSUN("bedroom")
    source.check()
    assert source.splits() == ("train", "validation")
    assert (source.name, source.classes, source.count("train")) == ("lsun/bedroom", 0, 7)
    assert levels(source, "train") == list(range(7))
    assert levels(source, "test") == [100, 101]
    assert source.locate("train", 3).startswith(f"{tmp_path / 'bedroom_train_lmdb' / 'data.mdb'}: picture 3 at byte ")
    assert source.fingerprint("train") != source.fingerprint("validation")
    stream = Images(source, 8, CenterCrop()).stream(seed=0).take(14)
    order = [round((float(element["image"][0, 0, 0]) + 1) * 127.5) for element in stream]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7))
    assert order[:7] != order[7:]


def test_objects_have_one_split_in_a_folder_of_their_name(tmp_path: Path) -> None:
    database(tmp_path / "cat", {b"1": picture(50)})
    source = LSUN("cat", str(tmp_path))
    assert source.splits() == ("train",)
    assert levels(source, "train") == [50]
    with pytest.raises(UserError, match="no split 'validation' here; splits that are here: train"):
        source.count("validation")


@pytest.mark.parametrize(
    "places", [("tower_train", "tower_val"), ("tower/train", "tower/validation"), ("tower_train/0/3", "tower/val/1/2")]
)
def test_folders_of_pictures_are_read_however_deep(tmp_path: Path, places: tuple[str, str]) -> None:
    for place, level in zip(places, (10, 20), strict=True):
        (tmp_path / place).mkdir(parents=True)
        for number in range(2):
            (tmp_path / place / f"{number}.webp").write_bytes(picture(level + number, "WEBP"))
    source = LSUN("tower", str(tmp_path))
    assert levels(source, "train") == [10, 11]
    assert levels(source, "test") == [20, 21]
    assert "label" not in next(iter(Images(source, 8, CenterCrop()).examples("train")))


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    root = lsun_databases(tmp_path)
    path = database(root / "bedroom_train_lmdb", {bytes([key]): picture(key) * 12 for key in range(60, 90)})
    whole = path.read_bytes()
    used = int((value_places(path)[0] + value_places(path)[1]).max())
    for size in (50, 4096, 5000, 8192, len(whole) // 2, used - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"bedroom_train_lmdb/data\.mdb is cut short"):
            LSUN("bedroom", str(root)).count("train")
    assert LSUN("bedroom", str(root)).count("validation") == 2


def test_an_empty_database_is_told(tmp_path: Path) -> None:
    database(tmp_path / "bedroom_train_lmdb", {})
    with pytest.raises(UserError, match=r"no image of split 'train' of lsun/bedroom \(0 records\)"):
        Images(LSUN("bedroom", str(tmp_path)), 8, CenterCrop()).stream(seed=0)
    (tmp_path / "tower_train").mkdir()
    with pytest.raises(UserError, match="tower_train holds no image files"):
        LSUN("tower", str(tmp_path)).count("train")


def test_wrong_names_and_places_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"category .*church_outdoor.* got 'church' \(did you mean"):
        LSUN("church")
    with pytest.raises(UserError, match="did you mean 'bedroom'"):
        summary.find_source("lsun/bedrom")
    source = LSUN("bedroom", str(tmp_path))
    source.check()
    message = source.missing() or ""
    for word in (str(tmp_path / "bedroom_train_lmdb" / "data.mdb"), "bedroom_val", "TensorFlow Datasets", "ZOO_LSUN"):
        assert word in message


def test_the_command_names_a_corrupt_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database(tmp_path / "tower_train_lmdb", {b"1": picture(1), b"2": picture(2)[:50]})
    assert summary.describe(summary.find_source("lsun/tower", str(tmp_path)), None, None) == 1
    text = capsys.readouterr().out
    for line in ("lsun/tower: unlabelled", "train: 2 pictures, in ", "validation: not here", "picture 1 at byte "):
        assert line in text
