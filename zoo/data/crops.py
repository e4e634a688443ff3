"""From a picture of any shape to a given size: the croppings of the papers."""

import abc

import numpy as np
import tensorflow as tf
from PIL import Image


class Crop(abc.ABC):
    """Maps uint8 [h, w, 3] to uint8 [size, size, 3]; an image that has the size already passes unchanged.

    Attributes:
        turns: whether pictures that are taller than wide are turned by a quarter.
    """

    turns: bool = False

    def shape(self, size: int) -> tuple[int, int]:
        """Height and width of what it makes; members that make no squares say so."""
        return size, size

    @abc.abstractmethod
    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        """Crops and resizes a picture of any size to size x size pixels with Pillow, which defines the pixels."""

    @abc.abstractmethod
    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        """The same pixels for a NumPy image, uint8 [h, w, 3] to uint8 [size, size, 3], at a third of the time."""

    def __call__(self, image: tf.Tensor, size: int) -> tf.Tensor:
        """Crops inside a tf.data graph; an image of the size, or known to be of twice the size, does not leave it."""
        image = tf.convert_to_tensor(image)
        ways = {1: lambda: image, 2: lambda: self.half(image, size)}

        def outside() -> tf.Tensor:
            return self._outside(image, size)

        if image.shape[:2].is_fully_defined():  # decided once, not for every image
            height, width = image.shape[:2]
            way = ways.get(height // size, outside) if height == width and height % size == 0 else outside
            return tf.ensure_shape(way(), [size, size, 3])

        fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], size))
        result = tf.cond(fits, ways[1], outside)
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
            picture = resized(picture, (picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        width, height = scaled(picture.width, picture.height, size)
        picture = resized(picture, (width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        return picture.crop((left, top, left + size, top + size))

    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        from zoo.data.resampling import bicubic_weights, box_weights, resample  # half a second, and few need it

        height, width = image.shape[:2]
        while min(height, width) >= 2 * size:
            across, down = (
                box_weights(width, width // 2, 0, width // 2),
                box_weights(height, height // 2, 0, height // 2),
            )
            image = resample(image, across, down)
            height, width = image.shape[:2]
        wide, high = scaled(width, height, size)
        left, top = (wide - size) // 2, (high - size) // 2
        if (wide, high) == (width, height):
            return image[top : top + size, left : left + size]
        # Of the resized picture only the square is made.
        across, down = bicubic_weights(width, wide, left, left + size), bicubic_weights(height, high, top, top + size)
        return resample(image, across, down)

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
        return square.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC)

    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        from zoo.data.resampling import bicubic_weights, box_weights, resample  # half a second, and few need it

        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        weights = box_weights(side, size, 0, size) if side > size else bicubic_weights(side, size, 0, size)
        return resample(square, weights, weights)


class LandscapeCrop(Crop):
    """Images of `size` x `width` pixels, wider than tall: a picture that is taller than wide is turned by a quarter.

    simple diffusion, section 3.6: 384x640, with a flag for what was turned. The paper prints no filter; here the
    picture is resized as `CenterCrop` does it, to the smallest size that covers the image, and its middle is taken.

    Args:
        width: of the images, in pixels.
    """

    turns = True

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.width = width

    def shape(self, size: int) -> tuple[int, int]:
        if self.width < size:
            raise ValueError(f"width must be at least the size of the images, {size}, got {self.width}")
        return size, self.width

    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        if picture.height > picture.width:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        while picture.height >= 2 * size and picture.width >= 2 * self.width:
            picture = resized(picture, (picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        wide, high = self._covering(picture.width, picture.height, size)
        left, top = (wide - self.width) // 2, (high - size) // 2
        picture = resized(picture, (wide, high), Image.Resampling.BICUBIC)
        return picture.crop((left, top, left + self.width, top + size))

    def reduce(self, image: np.ndarray, size: int) -> np.ndarray:
        from zoo.data.resampling import bicubic_weights, box_weights, resample  # half a second, and few need it

        image = np.ascontiguousarray(np.rot90(image) if image.shape[0] > image.shape[1] else image)
        height, width = image.shape[:2]
        while height >= 2 * size and width >= 2 * self.width:
            image = resample(
                image, box_weights(width, width // 2, 0, width // 2), box_weights(height, height // 2, 0, height // 2)
            )
            height, width = image.shape[:2]
        wide, high = self._covering(width, height, size)
        left, top = (wide - self.width) // 2, (high - size) // 2
        if (wide, high) == (width, height):
            return image[top : top + size, left : left + self.width]
        across = bicubic_weights(width, wide, left, left + self.width)
        return resample(image, across, bicubic_weights(height, high, top, top + size))

    def __call__(self, image: tf.Tensor, size: int) -> tf.Tensor:
        return tf.ensure_shape(self._outside(tf.convert_to_tensor(image), size), [size, self.width, 3])

    def _covering(self, width: int, height: int, size: int) -> tuple[int, int]:
        """Width and height with one side brought to that of the image, and the other to no less."""
        scale = max(self.width / width, size / height)
        return max(self.width, round(width * scale)), max(size, round(height * scale))


def scaled(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height with the shorter side brought to `size`."""
    scale = size / min(width, height)
    return round(width * scale), round(height * scale)


def resized(picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Across and then down, as Pillow did when ADM was written.

    From 13 on it begins with the columns of a picture more than twice as tall as wide, and rounds elsewhere.
    """
    return picture.resize((size[0], picture.height), resampling).resize(size, resampling)
