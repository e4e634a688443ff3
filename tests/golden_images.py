"""Decoding and ADM's cropping against guided-diffusion's arrays and Pillow's pixels."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from golden_arrays import Arrays, assert_near

from zoo.data.crops import CenterCrop
from zoo.data.sources import decode_image

GREY_LEVEL = 1  # another build of the JPEG library or of Pillow may round differently


def decoded(folder: Path, image: str) -> tf.Tensor:
    """uint8 [h, w, 3]: one of the JPEG files, decoded as training decodes it."""
    return decode_image(tf.io.read_file(str(folder / "images" / f"{image}.JPEG")))


def check_center_crop(folder: Path) -> None:
    arrays = Arrays(folder / "images" / "center_crop.npz")
    for name in arrays.names():
        image, part = name.rsplit("/", 1)
        pixels = decoded(folder, image)
        found = pixels[::16, ::16] if part == "decoded_stride16" else CenterCrop()(pixels, int(part))
        assert_near(found, arrays[name].astype(np.float64), GREY_LEVEL, name)
    arrays.close()


def check_decoding(folder: Path) -> None:
    """Sizes, hashes of the files and mean of the pixels; what else the file says of resizing is the harness's."""
    images = json.loads((folder / "images" / "images.json").read_text())["images"]
    assert {path.stem for path in (folder / "images").glob("*.JPEG")} == set(images)
    for image, facts in images.items():
        encoded = (folder / "images" / facts["file"]).read_bytes()
        assert hashlib.sha256(encoded).hexdigest() == facts["jpeg_sha256"], image
        pixels = decoded(folder, image).numpy()
        assert pixels.shape == (facts["height"], facts["width"], 3), image
        assert abs(pixels.mean() - facts["decoded_mean"]) < 0.05, image


COVERS: set[str] = {
    "images/center_crop.npz",
    "images/images.json",
    "images/n02093428_American_Staffordshire_terrier.JPEG",
    "images/n02115913_dhole.JPEG",
    "images/n02356798_fox_squirrel.JPEG",
    "images/n02977058_cash_machine.JPEG",
}

CHECKS: dict[str, Callable[[Path], None]] = {
    "images/center_crop": check_center_crop,
    "images/decoding": check_decoding,
}
