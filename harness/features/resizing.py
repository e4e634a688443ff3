"""Resize filters: how an image comes to the size that a feature network takes. They move every score that follows.

FID differs by whole points between filters (Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN
Evaluation"), so the filter is part of an extractor's identity and stands in every result.
"""

import abc
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import tensorflow as tf
from PIL import Image

Size = tuple[int, int]  # height, width


class Resizing(abc.ABC):
    """A filter, in two halves, one of which does the work: before the network, or in its graph.

    Attributes:
        name: what results call it.
    """

    name: ClassVar[str]

    def before(self, images: np.ndarray, size: Size) -> np.ndarray:
        """On the host: uint8 [B, h, w, C] -> [B, H, W, C] in 0..255, or the images as they are."""
        return images

    def inside(self, images: tf.Tensor, size: Size) -> tf.Tensor:
        """In the network's graph: float32 [B, h, w, C] -> [B, H, W, C] in 0..255, or the images as they are."""
        return images

    def __call__(self, images: np.ndarray, size: Size) -> np.ndarray:
        """uint8 [B, h, w, C] -> float32 [B, H, W, C] in 0..255."""
        return self.inside(tf.constant(self.before(images, size), tf.float32), size).numpy()


class TF1Bilinear(Resizing):
    """TensorFlow 1's bilinear resize, that of the original FID and of ADM's evaluator.

    The source coordinate is index * (in / out), without a half-pixel shift and without antialiasing.
    """

    name = "TF1 bilinear"

    def inside(self, images: tf.Tensor, size: Size) -> tf.Tensor:
        if tuple(images.shape[1:3]) == size:
            return images
        return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=False, half_pixel_centers=False)


class PillowResizing(Resizing):
    """Resizes by Pillow, whose filters are stretched when shrinking (antialiasing), an image at a time."""

    def before(self, images: np.ndarray, size: Size) -> np.ndarray:
        if images.shape[1:3] == size:
            return images
        with ThreadPoolExecutor() as threads:  # Pillow lets other threads run while it filters
            return np.stack(list(threads.map(lambda image: self.resize(image, size), images)))

    @abc.abstractmethod
    def resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        """uint8 [h, w, C] -> [H, W, C]."""


class CleanBicubic(PillowResizing):
    """The resize of clean-fid's mode "clean": bicubic in float32, channel by channel, clipped, not rounded."""

    name = "clean-fid bicubic"

    def resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        channels = [
            np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC))
            for channel in np.moveaxis(image.astype(np.float32), -1, 0)
        ]
        return np.clip(np.stack(channels, axis=-1), 0, 255)


class QuantisedResizing(PillowResizing):
    """Resizes 8-bit images to 8-bit images, as image files are written.

    Attributes:
        resampling: Pillow's filter.
    """

    resampling: ClassVar[Image.Resampling]

    def resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        grey = image.shape[-1] == 1
        resized = np.asarray(Image.fromarray(image[..., 0] if grey else image).resize(size[::-1], self.resampling))
        return resized[..., None] if grey else resized


class QuantisedBicubic(QuantisedResizing):
    """Pillow's bicubic filter, rounded to 8 bits."""

    name, resampling = "Pillow bicubic, 8 bits", Image.Resampling.BICUBIC


class QuantisedLanczos(QuantisedResizing):
    """Pillow's Lanczos filter, rounded to 8 bits."""

    name, resampling = "Pillow Lanczos, 8 bits", Image.Resampling.LANCZOS
