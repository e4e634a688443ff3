"""From a picture of any shape to a square of a given size: the two croppings of the papers."""

import abc

import numpy as np
import tensorflow as tf
from PIL import Image


class Crop(abc.ABC):
    """Maps uint8 [h, w, 3] to uint8 [size, size, 3]; an image that has the size already passes unchanged."""

    @abc.abstractmethod
    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        """Crops and resizes a picture of any size to size x size pixels."""

    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        """Crops and resizes a NumPy image, uint8 [h, w, 3] to uint8 [size, size, 3]."""
        return np.asarray(self.cut(Image.fromarray(image), size))

    def __call__(self, image: tf.Tensor, size: int) -> tf.Tensor:
        """Crops inside a tf.data graph; only images that are neither of the size nor of twice the size leave it."""
        image = tf.convert_to_tensor(image)
        ways = {1: lambda: image, 2: lambda: self.half(image, size)}

        def outside() -> tf.Tensor:
            return self._outside(image, size)

        if image.shape[:2].is_fully_defined():  # decided once, not for every image
            height, width = image.shape[:2]
            way = ways.get(height // size, outside) if height == width and height % size == 0 else outside
            return tf.ensure_shape(way(), [size, size, 3])

        def is_square(side: int) -> tf.Tensor:
            return tf.reduce_all(tf.equal(tf.shape(image)[:2], side))

        result = tf.cond(is_square(size), ways[1], lambda: tf.cond(is_square(2 * size), ways[2], outside))
        return tf.ensure_shape(result, [size, size, 3])

    def half(self, image: tf.Tensor, size: int) -> tf.Tensor:
        """Reduces a square of exactly twice the size."""
        return self._outside(image, size)

    def _outside(self, image: tf.Tensor, size: int) -> tf.Tensor:
        return tf.numpy_function(lambda array: self.reduce(array, size), [image], tf.uint8)


class CenterCrop(Crop):
    """ADM's cropping: halve by boxes while at least twice too large, then bicubic, then the central square.

    guided-diffusion, `image_datasets.center_crop_arr`; Pillow's 8-bit resampling throughout.
    """

    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        while min(picture.size) >= 2 * size:
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        scale = size / min(picture.size)
        shape = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        return picture.crop((left, top, left + size, top + size))

    def half(self, image: tf.Tensor, size: int) -> tf.Tensor:
        """One halving as Pillow rounds it: the means of pairs along the width, then along the height, halves up."""
        wide = tf.cast(image, tf.int32)
        rows = tf.bitwise.right_shift(wide[:, 0::2] + wide[:, 1::2] + 1, 1)
        return tf.cast(tf.bitwise.right_shift(rows[0::2] + rows[1::2] + 1, 1), tf.uint8)


class BigGANCrop(Crop):
    """BigGAN's cropping: the central square of the shorter side, resized by area (bicubically where it must grow).

    The paper speaks of area resampling. google/compare_gan resizes the same square bilinearly without antialiasing.
    """

    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        resampling = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
        return square.resize((size, size), resampling)
