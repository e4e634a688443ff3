"""Random squares of a picture that depend on (seed, element number) alone, against overfitting of classifiers."""

import math

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo.data.crops import resized, scaled
from zoo.data.keyed import uniforms

STREAM = 0x63726F70  # "crop": apart from what else is drawn for an element


class RandomCrop:
    """ADM's random crops (guided-diffusion, `image_datasets.random_crop_arr`; paper, section 4.3).

    The shorter side is brought to a length drawn from size / largest .. size / smallest, by halving with boxes while
    the picture is at least twice too large and then bicubically, and a square is taken anywhere in it: so its side is
    `smallest` to `largest` of the shorter side.
    """

    def __init__(self, smallest: float = 0.8, largest: float = 1.0) -> None:
        if not 0 < smallest <= largest <= 1:
            raise ValueError(
                f"smallest and largest must satisfy 0 < smallest <= largest <= 1, got smallest = {smallest}, largest = "
                f"{largest}"
            )
        self.smallest, self.largest = smallest, largest

    def __call__(self, image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
        """uint8 [h, w, 3] -> uint8 [size, size, 3] inside a tf.data graph; `key` int64 [2] of seed and number."""
        crop = tf.numpy_function(lambda array, key: self.reduce(array, size, self.draw(key)), [image, key], tf.uint8)
        return tf.ensure_shape(crop, [size, size, 3])

    @staticmethod
    def draw(key: np.ndarray) -> np.ndarray:
        """float64 [3] in [0, 1) of an element: for the length, from above, from the left."""
        seed, number = (int(part) for part in key)
        return uniforms((seed, STREAM), np.array([number]), 3)[0]

    def cut(self, picture: Image.Image, size: int, drawn: np.ndarray) -> Image.Image:
        """Resizes and crops with Pillow, which defines the pixels; `drawn` [3] in [0, 1)."""
        length = self._length(size, drawn[0])
        while min(picture.size) >= 2 * length:
            picture = resized(picture, (picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        width, height = scaled(picture.width, picture.height, length)
        picture = resized(picture, (width, height), Image.Resampling.BICUBIC)
        top, left = _place(height, size, drawn[1]), _place(width, size, drawn[2])
        return picture.crop((left, top, left + size, top + size))

    def reduce(self, image: np.ndarray, size: int, drawn: np.ndarray) -> np.ndarray:
        """The same pixels for a NumPy image, uint8 [h, w, 3] to uint8 [size, size, 3], in less time."""
        from zoo.data.resampling import bicubic_weights, box_weights, resample  # half a second, and few need it

        length = self._length(size, drawn[0])
        height, width = image.shape[:2]
        while min(height, width) >= 2 * length:
            across = box_weights(width, width // 2, 0, width // 2)
            down = box_weights(height, height // 2, 0, height // 2)
            image = resample(np.ascontiguousarray(image), across, down)
            height, width = image.shape[:2]
        wide, high = scaled(width, height, length)
        top, left = _place(high, size, drawn[1]), _place(wide, size, drawn[2])
        if (wide, high) == (width, height):
            return image[top : top + size, left : left + size]
        # Of the resized picture only the square is made.
        across, down = bicubic_weights(width, wide, left, left + size), bicubic_weights(height, high, top, top + size)
        return resample(np.ascontiguousarray(image), across, down)

    def _length(self, size: int, uniform: float) -> int:
        """Of the shorter side, before the square is taken."""
        least, most = math.ceil(size / self.largest), math.ceil(size / self.smallest)
        return least + int(uniform * (most - least + 1))


def _place(length: int, size: int, uniform: float) -> int:
    """Where a window of `size` begins in `length`, every place as likely as the others."""
    return int(uniform * (length - size + 1))
