"""Arrays of images as pictures for a person."""

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.whole_files import writing


def to_bytes(images: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """uint8 [N, H, W, C] -> one picture, in rows of `columns` (by default as square as it can be)."""
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    picture = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def write_grid(path: Path, images: np.ndarray, columns: int | None = None, scale: int = 1) -> None:
    """Writes a grid as PNG, each pixel enlarged `scale` times; the file is replaced whole."""
    picture = grid(images, columns).repeat(scale, axis=0).repeat(scale, axis=1)
    with writing(path) as file:
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            file, format="PNG", optimize=True
        )
