"""Decoding, ADM's cropping and the resizing before Inception against the arrays of their reference programs."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from golden_arrays import Arrays, assert_near, channels_last

from harness.features.resizing import CleanBicubic, QuantisedBicubic, QuantisedLanczos, TF1Bilinear
from zoo.data.crops import CenterCrop
from zoo.data.sources import decode_image

GREY_LEVEL = 1  # another build of the JPEG library or of Pillow may round differently
FLOAT_ERROR = 1e-3  # of a filter in float32, on values up to 255


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
    """Sizes, hashes of the files, mean of the pixels, and of clean-fid's resize what is not in its arrays."""
    images = json.loads((folder / "images" / "images.json").read_text())["images"]
    assert {path.stem for path in (folder / "images").glob("*.JPEG")} == set(images)
    for image, facts in images.items():
        encoded = (folder / "images" / facts["file"]).read_bytes()
        assert hashlib.sha256(encoded).hexdigest() == facts["jpeg_sha256"], image
        pixels = decoded(folder, image).numpy()
        assert pixels.shape == (facts["height"], facts["width"], 3), image
        assert abs(pixels.mean() - facts["decoded_mean"]) < 0.05, image
        resized = CleanBicubic()(pixels[None], (299, 299))[0].astype(np.float64)
        clean = facts["clean_fid_bicubic299"]
        for name in ("mean", "std"):
            assert abs(getattr(resized, name)() - clean[name]) < 0.05, (image, name)
        for name in ("min", "max"):
            assert_near(getattr(resized, name)(), np.array(clean[name]), GREY_LEVEL, f"{image}: {name}")
        assert_near(resized.mean(axis=(1, 2))[:5], np.array(clean["row_means_first5"]), 0.1, f"{image}: row means")


def check_cleanfid_resize(folder: Path) -> None:
    """To rounding where the JPEG library decodes as the reference's did; within a grey level elsewhere."""
    facts = json.loads((folder / "images" / "images.json").read_text())["images"]
    arrays = Arrays(folder / "images" / "cleanfid_resize.npz")
    for name in arrays.names():
        image, part = name.rsplit("/", 1)
        pixels = decoded(folder, image).numpy()
        same = hashlib.sha256(pixels.tobytes()).hexdigest() == facts[image]["decoded_rgb_uint8_sha256"]
        clean = part.startswith("clean")
        tolerance = GREY_LEVEL if not same else FLOAT_ERROR if clean else 0
        assert_near(RESIZED[part](pixels[None])[0], arrays[name].astype(np.float64), tolerance, name)
    arrays.close()


RESIZED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "clean_bicubic299_float32_stride3": lambda images: CleanBicubic()(images, (299, 299))[:, ::3, ::3],
    "clean_bicubic299_float32_rows100to131": lambda images: CleanBicubic()(images, (299, 299))[:, 100:132],
    "quantized_bicubic299_uint8_stride3": lambda images: QuantisedBicubic()(images, (299, 299))[:, ::3, ::3],
    "quantized_lanczos_w96_h64_uint8": lambda images: QuantisedLanczos()(images, (64, 96)),
}


def check_tf1_resize(folder: Path) -> None:
    """To the bit."""
    arrays = Arrays(folder / "images" / "tf1_bilinear_resize.npz")
    for name in [name for name in arrays.names() if name.endswith("/input")]:
        case = name.removesuffix("/input")
        resized = np.moveaxis(TF1Bilinear()(channels_last(arrays[name]), (299, 299)), -1, 1)
        np.testing.assert_array_equal(resized[:, :, ::4, ::4], arrays[f"{case}/output_stride4"])
        np.testing.assert_array_equal(resized[:, :, -8:, -8:], arrays[f"{case}/output_last8x8"])
        statistics = [resized.mean(dtype=np.float64), resized.std(dtype=np.float64)]
        np.testing.assert_allclose(statistics, arrays[f"{case}/output_mean_std"], rtol=1e-9)
    arrays.close()


COVERS: set[str] = {
    "images/center_crop.npz",
    "images/cleanfid_resize.npz",
    "images/images.json",
    "images/n02093428_American_Staffordshire_terrier.JPEG",
    "images/n02115913_dhole.JPEG",
    "images/n02356798_fox_squirrel.JPEG",
    "images/n02977058_cash_machine.JPEG",
    "images/tf1_bilinear_resize.npz",
}

CHECKS: dict[str, Callable[[Path], None]] = {
    "images/center_crop": check_center_crop,
    "images/cleanfid_resize": check_cleanfid_resize,
    "images/decoding": check_decoding,
    "images/tf1_bilinear_resize": check_tf1_resize,
}
