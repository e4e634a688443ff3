"""What a dataset holds and what is wrong with it: read once, without cropping, every record decoded."""

import collections
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.console import UserError, say
from zoo.data import pictures
from zoo.data.crops import CenterCrop
from zoo.data.folder import ImageFolder
from zoo.data.imagenet import ImageNet
from zoo.data.images import Images
from zoo.data.lsun import LSUN
from zoo.data.reading import Reader
from zoo.data.shapes import Shapes
from zoo.data.sources import Example, Record, Source, class_order
from zoo.data.tfds import TFDS
from zoo.data.tfrecords import TFRecords

NAMES_SHOWN = 12  # classes listed in full; of more, the first and the last
SHAPES_SIZE = 32  # Shapes has no size of its own


def find_source(name: str, directory: str | None = None) -> Source:
    """The source that a person means: `shapes`, `imagenet`, `lsun/bedroom`, a folder, TFRecord files, or a TFDS name.

    Args:
        directory: where the dataset lies; None for the usual places.
    """
    if name == "imagenet":
        return ImageNet(directory)
    if name.startswith("lsun/"):
        try:
            return LSUN(name.removeprefix("lsun/"), directory)
        except ValueError as error:
            raise UserError(str(error)) from None
    if directory is not None:
        return TFDS(name, directory=directory)
    if name == "shapes":
        return Shapes()
    if "{split}" in name:
        return TFRecords(name, label=None)
    path = Path(name).expanduser()
    prepared = [info for level in range(3) for info in path.glob("*/" * level + "dataset_info.json")]
    if prepared:
        return _prepared_source(max(prepared))
    return ImageFolder(name) if path.is_dir() or name.startswith(("/", "./", "../", "~")) else TFDS(name)


def _prepared_source(info: Path) -> TFDS:
    """The dataset that TFDS prepared as ROOT/NAME/[CONFIG/]VERSION/dataset_info.json."""
    facts = json.loads(info.read_text(encoding="utf-8"))
    config = facts.get("configName")
    name = f"{facts['name']}/{config}" if config else facts["name"]
    root = info.resolve().parents[3 if config else 2]
    return TFDS(f"{name}:{facts['version']}", directory=str(root))


def describe(source: Source, split: str | None, size: int | None) -> int:
    """Prints splits, classes, image sizes and corrupt records; returns how many records are corrupt."""
    source.check()
    message = source.missing()
    if message:
        raise UserError(message)
    names = source.class_names
    say(f"{source.name}: {len(names)} classes" if names else f"{source.name}: unlabelled")
    if names:
        say(f"class order: {names[0]} to {names[-1]}, SHA-256 {class_order(names)}")
    for line in source.notes():
        say(line)
    say("splits: " + ", ".join(f"{name} ({source.count(name):,})" for name in source.splits()))
    return sum(_describe_split(source, name, size) for name in ([split] if split else source.splits()))


def _describe_split(source: Source, split: str, size: int | None) -> int:
    """Decodes a split once, counting classes and sizes."""
    reader = Reader(source, lambda record, split, _: _facts(source, record, size or SHAPES_SIZE, split))
    labels: collections.Counter[int] = collections.Counter()
    shapes: collections.Counter[tuple[int, int]] = collections.Counter()
    for block in reader.finite(split, None, 0, 256):
        shapes.update(map(tuple, block["shape"].numpy().tolist()))
        if "label" in block:
            labels.update(block["label"].numpy().tolist())
    sound, problems = sum(shapes.values()), reader.problems
    say(f"\n{split}: {sound:,} images, {len(problems):,} corrupt")
    if shapes:
        heights, widths = (np.repeat([shape[axis] for shape in shapes], list(shapes.values())) for axis in (0, 1))
        for word, values in (("height", heights), ("width", widths)):
            say(f"  {word} {values.min()} to {values.max()}, median {int(np.median(values))} pixels")
    _print_classes(source.class_names, labels)
    for problem in problems:
        say(f"  corrupt: {problem}")
    return len(problems)


def _print_classes(names: tuple[str, ...], labels: collections.Counter[int]) -> None:
    """Images of each class; of many classes the spread and the ends of the list."""
    if not names:
        return
    counts = [labels[number] for number in range(len(names))]
    strange = {number: count for number, count in labels.items() if not 0 <= number < len(names)}
    if strange:
        say(f"  {sum(strange.values()):,} images have labels outside 0 to {len(names) - 1}: {sorted(strange)[:5]}")
    if len(names) > NAMES_SHOWN:
        say(f"  {min(counts)} to {max(counts)} images a class; {counts.count(0)} classes have none")
    shown = list(enumerate(names))
    if len(names) > NAMES_SHOWN:
        shown = shown[: NAMES_SHOWN - 2] + shown[-2:]
    for number, name in shown:
        say(f"  {number:5d}  {name:40s} {counts[number]:9,}")


def write_grid(source: Source, split: str, size: int, path: Path, side: int = 10) -> None:
    """Writes side x side images of a split, drawn at random but always the same, as one PNG file."""
    images = Images(source, size, CenterCrop(), train=split, test=split)
    shown = [example["image"].numpy() for example in images.examples("test", count=side * side, seed=0)]
    if not shown:
        raise UserError(f"split '{split}' of {source.name} holds no image that can be read")
    pictures.write_grid(path, np.stack(shown), columns=side)


def common_size(source: Source, split: str) -> int:
    """Shorter side of the first sound image, for a grid whose size nobody gave."""
    reader = Reader(source, lambda record, split, _: _facts(source, record, SHAPES_SIZE, split))
    for block in reader.finite(split, None, 0, 1).take(1):
        return int(tf.reduce_min(block["shape"]))
    raise UserError(f"split '{split}' of {source.name} holds no image that can be read")


def _facts(source: Source, record: Record, size: int, split: str) -> Example:
    """Height and width int32 [2] of a decoded record, and its label."""
    example = source.decode(record, size, split)
    return {"shape": tf.shape(example["image"])[:2]} | {key: example[key] for key in example if key == "label"}
