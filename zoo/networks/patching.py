"""How a network brings an image to a lower resolution in its first layer and back in its last.

simple diffusion, section 3.3: "avoiding high resolution feature maps".
"""

import abc
from typing import Any

import keras
from keras import ops

from zoo.networks import wavelet
from zoo.networks.layers import convolution, dense


def space_to_depth(x: Any, size: int) -> Any:
    """[B, H, W, C] -> [B, H / size, W / size, size^2 C]: pixels of a block row by row, each with its channels."""
    if size == 1:
        return x
    height, width, channels = x.shape[1] // size, x.shape[2] // size, x.shape[3]
    blocks = ops.transpose(ops.reshape(x, (-1, height, size, width, size, channels)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(blocks, (-1, height, width, size * size * channels))


def depth_to_space(x: Any, size: int) -> Any:
    """The inverse of `space_to_depth`."""
    if size == 1:
        return x
    height, width, channels = x.shape[1], x.shape[2], x.shape[3] // size**2
    blocks = ops.transpose(ops.reshape(x, (-1, height, width, size, size, channels)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(blocks, (-1, height * size, width * size, channels))


class Patching(abc.ABC):
    """Contract of the family: the first and the last layer of a network that works at 1 / factor of the resolution.

    No patching is the absence of one: `UViT.patching = None`.
    """

    factor: int
    """Height and width of an image over those of the feature maps."""

    @abc.abstractmethod
    def embed(self, channels: int, name: str) -> keras.layers.Layer:
        """A layer [B, H, W, C] -> [B, H / factor, W / factor, channels]."""

    @abc.abstractmethod
    def project(self, channels: int, name: str) -> keras.layers.Layer:
        """A layer [B, h, w, features] -> [B, factor h, factor w, channels] that gives zeros at first."""


class InvertiblePatching(Patching):
    """Contract: a fixed map between images and patches, beside which the first and last convolution stand."""

    @abc.abstractmethod
    def split(self, images: Any) -> Any:
        """[B, H, W, C] -> [B, H / factor, W / factor, factor^2 C]."""

    @abc.abstractmethod
    def join(self, patches: Any) -> Any:
        """The inverse of `split`."""

    def embed(self, channels: int, name: str) -> keras.layers.Layer:
        return _Splitting(self, convolution(channels, name="convolution"), name=name)

    def project(self, channels: int, name: str) -> keras.layers.Layer:
        return _Joining(self, convolution(self.factor**2 * channels, zero=True, name="convolution"), name=name)


class WaveletPatching(InvertiblePatching):
    """The 5/3 wavelet of one or more levels (simple diffusion, "dwt_1", "dwt_2"); figure 6.

    The bands of all levels are brought to the lowest resolution by space-to-depth.
    """

    def __init__(self, levels: int = 1) -> None:
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}; no patching is None")
        self.levels, self.factor = levels, 2**levels

    def split(self, images: Any) -> Any:
        _check_size(images, self.factor, f"levels of the wavelet ({self.levels})")
        bands: list[Any] = []
        for level in reversed(range(self.levels)):
            images, details = wavelet.decompose(images)
            bands.insert(0, space_to_depth(details, 2**level))
        return ops.concatenate([images, *bands], axis=-1)

    def join(self, patches: Any) -> Any:
        channels = patches.shape[-1] // self.factor**2
        # the low band, then the three others of each level, coarse to fine, as `split` laid them
        images, at = patches[..., :channels], channels
        for level in range(self.levels):
            width = 3 * channels * 4**level
            images = wavelet.compose(images, depth_to_space(patches[..., at : at + width], 2**level))
            at += width
        return images


class SpaceToDepthPatching(InvertiblePatching):
    """The pixels of every size x size block as channels of one."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        self.factor = size

    def split(self, images: Any) -> Any:
        _check_size(images, self.factor, f"size of the patches ({self.factor})")
        return space_to_depth(images, self.factor)

    def join(self, patches: Any) -> Any:
        return depth_to_space(patches, self.factor)


class ConvolutionPatching(Patching):
    """A size x size convolution with stride `size`, and a transposed one ("conv_2x2", "conv_4x4")."""

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"size must be at least 2 pixels, got {size}; no patching is None")
        self.factor = size

    def embed(self, channels: int, name: str) -> keras.layers.Layer:
        # on blocks that do not overlap a convolution is one linear map of each block
        return _Splitting(SpaceToDepthPatching(self.factor), dense(channels, name="convolution"), name=name)

    def project(self, channels: int, name: str) -> keras.layers.Layer:
        return _TransposedConvolution(self.factor, channels, name=name)


class _Splitting(keras.layers.Layer):
    """Images in full precision -> patches -> a learned map."""

    def __init__(self, patching: InvertiblePatching, learned: keras.layers.Layer, name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.patching, self.learned = patching, learned

    def call(self, images: Any) -> Any:
        return self.learned(self.patching.split(ops.cast(images, self.variable_dtype)))


class _Joining(keras.layers.Layer):
    """A learned map -> patches -> images, in full precision."""

    def __init__(self, patching: InvertiblePatching, learned: keras.layers.Layer, name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.patching, self.learned = patching, learned

    def call(self, features: Any) -> Any:
        return self.patching.join(ops.cast(self.learned(features), self.variable_dtype))


class _TransposedConvolution(keras.layers.Layer):
    """A size x size transposed convolution with stride `size`, as a linear map to the pixels of each block."""

    def __init__(self, size: int, channels: int, name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.size, self.channels = size, channels
        self.kernel = keras.layers.Dense(
            size * size * channels, use_bias=False, kernel_initializer="zeros", name="convolution"
        )

    def build(self, shape: tuple[int | None, ...]) -> None:
        # one for all pixels of a channel, added in full precision
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias", autocast=False)

    def call(self, features: Any) -> Any:
        pixels = ops.cast(self.kernel(features), self.variable_dtype)
        return depth_to_space(pixels, self.size) + self.bias


def _check_size(images: Any, factor: int, what: str) -> None:
    height, width = images.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(f"{what}: images must be divisible by {factor} pixels, got {height} x {width}")
