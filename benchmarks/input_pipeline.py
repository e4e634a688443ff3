"""Images a second of the training batches, and of JPEG crops over Pillow's rate in one process, in the same run.

    python benchmarks/input_pipeline.py [--seconds 3] [--repeats 3] [--photos DIRECTORY] [--json FILE]

CIFAR-10 (TFDS_DATA_DIR; left out where it is not): shuffled, flipped, batches of 128, held in memory and decoded anew.
256-pixel crops: from a folder of photos (--photos), and from JPEG files of 500 x 375 that are drawn here; decoded anew
in every epoch, and, as sets as small as these really are read, from memory. `ratio_to_pillow_per_core` is the rate a
core over that of one Pillow process which decodes, crops and resizes; the median of ratios, each to the Pillow rate
measured around it. `ratio_to_pillow_in_processor_time` compares images a second of processor time, which other work on
the machine does not disturb.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.console import import_tensorflow, say

import_tensorflow()

import numpy as np
import tensorflow as tf
from PIL import Image
from yardsticks import disk_rates, pillow_rates, write_figures

from zoo.data import held
from zoo.data.crops import BigGANCrop, CenterCrop, Crop
from zoo.data.flips import RandomFlip
from zoo.data.folder import ImageFolder
from zoo.data.images import Images
from zoo.data.sources import Source
from zoo.data.tfds import TFDS

CORES = os.cpu_count() or 1
JPEG_SIZE, JPEG_BATCH = 256, 16
Figures = dict[str, float]


def rates_of(dataset: tf.data.Dataset, seconds: float) -> tuple[float, float]:
    """Images/s, and images a second of processor time, of a dataset of batches, after a few that are not counted."""
    batches = iter(dataset)
    for _ in range(4):
        next(batches)
    images, began, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        images += int(next(batches)["image"].shape[0])
    return images / (time.perf_counter() - began), images / (time.process_time() - worked)


@contextmanager
def nothing_held() -> Iterator[None]:
    """Pictures are decoded anew in every epoch, however small the dataset."""
    limit, held.DECODED_BYTES = held.DECODED_BYTES, 0
    try:
        yield
    finally:
        held.DECODED_BYTES = limit


def cifar10(seconds: float, repeats: int, low_resolution: int | None) -> Figures:
    """Training batches of CIFAR-10, with the pairs of a super-resolution stage or without."""

    def images() -> Images:
        return Images(TFDS("cifar10"), 32, CenterCrop(), RandomFlip(), low_resolution)

    began = time.perf_counter()
    kept = images().batches(0, 0, None, 128)
    fill = time.perf_counter() - began
    with nothing_held():
        anew = images().batches(0, 0, None, 128)
    rates = [(rates_of(kept, seconds)[0], rates_of(anew, seconds)[0]) for _ in range(repeats)]
    in_memory, decoded = (float(np.median(column)) for column in zip(*rates, strict=True))
    return {"images_per_second": in_memory, "decoded_images_per_second": decoded, "first_epoch_read_seconds": fill}


def crops(source: Source, split: str, crop: Crop, seconds: float, repeats: int) -> Figures:
    """Training batches of square crops from JPEG files, beside Pillow's rate before and after."""
    files = [source.locate(split, position) for position in range(min(source.count(split), 200))]
    encoded = [Path(file).read_bytes() for file in files]
    with nothing_held():
        images = Images(source, JPEG_SIZE, crop, RandomFlip(), train=split)
        batches = images.batches(0, 0, None, JPEG_BATCH)
    pillow = [pillow_rates(encoded, crop.cut, JPEG_SIZE)]
    rates = []
    for _ in range(repeats):
        rates.append(rates_of(batches, seconds))
        pillow.append(pillow_rates(encoded, crop.cut, JPEG_SIZE))
    kept = Images(source, JPEG_SIZE, crop, RandomFlip(), train=split).batches(0, 0, None, JPEG_BATCH)
    around = (np.array(pillow[1:]) + np.array(pillow[:-1])) / 2
    wall, processor = np.median(np.array(rates) / around, axis=0)
    return {
        "images_per_second": float(np.median(rates, axis=0)[0]),
        "pillow_images_per_second": float(np.median(pillow, axis=0)[0]),
        "ratio_to_pillow_per_core": float(wall) / CORES,
        "ratio_to_pillow_in_processor_time": float(processor),
        "small_set_from_memory_images_per_second": rates_of(kept, seconds)[0],
        "encoded_bytes_an_image": float(np.mean([len(data) for data in encoded])),
    }


def write_photos(folder: Path, count: int = 200, width: int = 500, height: int = 375) -> None:
    """JPEG files of the usual size in ImageNet: smooth shapes with the detail of a photo, quality 90."""
    generator = np.random.default_rng(0)
    for number in range(count):
        layers = [generator.integers(0, 256, (height // step, width // step, 3), np.uint8) for step in (75, 12, 3)]
        grown = [Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC) for layer in layers]
        mixed = Image.blend(Image.blend(grown[0], grown[1], 0.35), grown[2], 0.25)
        split = folder / ("test" if number == 0 else "train") / "photos"
        split.mkdir(parents=True, exist_ok=True)
        mixed.save(split / f"{number:03d}.jpg", quality=90)


def measure_crops(title: str, source: Source, split: str, arguments: argparse.Namespace) -> dict[str, Figures]:
    """Both crops of one source."""
    figures = {}
    for crop in (CenterCrop(), BigGANCrop()):
        name = f"{title}, {type(crop).__name__}"
        figures[name] = found = crops(source, split, crop, arguments.seconds, arguments.repeats)
        say(
            f"{name}: {found['images_per_second']:.0f} images/s on {CORES} cores, "
            f"Pillow {found['pillow_images_per_second']:.0f} on one: "
            f"{found['ratio_to_pillow_per_core']:.2f} of it a core, "
            f"{found['ratio_to_pillow_in_processor_time']:.2f} in processor time; "
            f"small enough to be held: {found['small_set_from_memory_images_per_second']:,.0f} images/s"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement; the median is shown")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files, the larger the better")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, Figures] = {}
    missing = TFDS("cifar10").missing()
    if missing:
        say(f"CIFAR-10 left out: {missing}")
    else:
        for title, low in (("CIFAR-10", None), ("CIFAR-10 with 16-pixel pairs", 16)):
            figures[title] = found = cifar10(arguments.seconds, arguments.repeats, low)
            say(
                f"{title}: {found['images_per_second']:,.0f} images/s on {CORES} cores from memory, "
                f"{found['decoded_images_per_second']:,.0f} decoded anew; "
                f"read into memory in {found['first_epoch_read_seconds']:.1f} s"
            )
    if arguments.photos is None:
        say("photos left out: no --photos")
    else:
        source = ImageFolder(str(arguments.photos))
        largest = max(source.splits(), key=source.count)
        figures |= measure_crops(f"{JPEG_SIZE}-pixel crops of photos", source, largest, arguments)
    with TemporaryDirectory() as folder:
        write_photos(Path(folder))
        title = f"{JPEG_SIZE}-pixel crops of 500 x 375 JPEG"
        figures |= measure_crops(title, ImageFolder(folder), "train", arguments)
    write, read = disk_rates()
    figures["disk"] = {"disk_write_bytes_per_second": write, "disk_read_bytes_per_second": read}
    say(f"disk: {write / 1e6:,.0f} MB/s written, {read / 1e6:,.0f} MB/s read")
    if arguments.json:
        write_figures(arguments.json, "input pipeline", figures)


if __name__ == "__main__":
    main()
