"""The U-Net of DDPM, Improved DDPM, CDM and ADM: one network with slots."""

import abc
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.networks.attention import SelfAttention
from zoo.networks.blocks import Modulation, ResidualBlock
from zoo.networks.embeddings import KeyedSeeds, TimeEmbedding
from zoo.networks.layers import GroupNormalisation, SiLU, convolution, dense, full_precision
from zoo.networks.resampling import Resampling, enlarge2, halve

Recompute = Callable[..., Any]


class Enlarging(abc.ABC):
    """Contract of the family: how the low-resolution image is brought to the size of the image."""

    method: str

    def __call__(self, images: Any, size: tuple[int, int]) -> Any:
        """[B, h, w, C] -> [B, *size, C], half-pixel centres, without antialiasing."""
        return ops.image.resize(images, size, interpolation=self.method, antialias=False)


class BilinearEnlarging(Enlarging):
    """Bilinear (ADM)."""

    method = "bilinear"


class BicubicEnlarging(Enlarging):
    """Bicubic (SR3)."""

    method = "bicubic"


class LowResolutionInput:
    """A low-resolution image, enlarged and concatenated to the input (CDM, section 3; ADM's upsamplers).

    `time` embeds the augmentation level s where the model is amortised over it (CDM, section 3.2).
    """

    def __init__(self, enlarging: Enlarging, time: TimeEmbedding | None = None) -> None:
        self.enlarging, self.time = enlarging, time


class UNet(keras.Model):
    """U-Net denoiser: residual blocks with attention, skips by concatenation, embeddings of time and class.

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`; the first level has the full resolution.
        blocks: residual blocks a level on the way down (one more on the way up).
        out_channels: 3 for an RGB image, 6 with a learned variance.
        time: embedding of the noise level.
        modulation: how embeddings enter the residual blocks.
        resampling: how the resolution changes between levels.
        attention: where and how it attends; the middle block always does.
        normalisation: of the blocks.
        low_resolution: the input of super-resolution models.
        classes: number of classes; None for a network that is not told the class.
        dropout: rate inside the residual blocks.

    Attributes:
        recompute: called with a function and its tensors instead of the function, for every residual block with its
            attention: what forgets their insides and computes them again for the gradient (zoo/training/gradients.py).
    """

    recompute: Recompute | None = None

    def __init__(
        self,
        channels: int,
        multipliers: tuple[float, ...],
        blocks: int,
        out_channels: int,
        time: TimeEmbedding,
        modulation: Modulation,
        resampling: Resampling,
        attention: SelfAttention,
        normalisation: GroupNormalisation,
        low_resolution: LowResolutionInput | None = None,
        classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(autocast=False)  # a time of 700 is not a number of half precision
        _check(channels=channels, blocks=blocks, out_channels=out_channels, classes=1 if classes is None else classes)
        if not multipliers or any(multiplier <= 0 for multiplier in multipliers):
            raise ValueError(f"multipliers must be positive numbers, one a level, got {multipliers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.channels, self.multipliers, self.blocks = channels, tuple(multipliers), blocks
        self.out_channels, self.classes, self.rate = out_channels, classes, dropout
        self.time, self.modulation, self.resampling = time, modulation, resampling
        self.attention, self.normalisation, self.low_resolution = attention, normalisation, low_resolution

    def build(self, shapes: dict[str, Any]) -> None:
        """Makes the layers; `shapes` of the inputs give the size of the image."""
        size = shapes["image"][1]
        if size % 2 ** (len(self.multipliers) - 1):
            raise ValueError(
                f"multipliers: {len(self.multipliers)} levels need an image size divisible by "
                f"{2 ** (len(self.multipliers) - 1)}, got {size}"
            )
        sizes = [size // 2**level for level in range(len(self.multipliers))]
        unused = [wanted for wanted in self.attention.resolutions if wanted not in sizes]
        if unused:
            raise ValueError(f"resolutions {unused} of attention are at no level: feature maps have {sizes} pixels")
        self._build_embeddings()
        self._build_down(size)
        self._build_middle()
        self._build_up(size)
        self.norm_out = self.normalisation.make("norm_out", SiLU())
        self.convolution_out = convolution(self.out_channels, zero=True, name="convolution_out")
        super().build(shapes)

    def _build_embeddings(self) -> None:
        width, dtype = 4 * self.channels, full_precision()
        self.time_in = dense(width, name="time_in", dtype=dtype)
        self.time_out = dense(width, name="time_out", dtype=dtype)
        if self.classes is not None:
            normal = keras.initializers.RandomNormal(stddev=1.0)
            self.label = keras.layers.Embedding(
                self.classes, width, embeddings_initializer=normal, name="label", dtype=dtype
            )
        if self.low_resolution is not None and self.low_resolution.time is not None:
            self.augmentation_in = dense(width, name="augmentation_in", dtype=dtype)
            self.augmentation_out = dense(width, name="augmentation_out", dtype=dtype)

    def _residual(self, channels: int, name: str, resample: Any = None) -> ResidualBlock:
        return ResidualBlock(channels, self.rate, self.normalisation, self.modulation, resample, name=name)

    def _attend(self, channels: int, size: int, name: str, decoder: bool = False) -> list[keras.layers.Layer]:
        if size not in self.attention.resolutions:
            return []
        return [self.attention.make(channels, self.normalisation, decoder, name)]

    def _build_down(self, size: int) -> None:
        widths = [int(multiplier * self.channels) for multiplier in self.multipliers]
        self.down = [[convolution(widths[0], name="convolution_in")]]
        self.skips = [widths[0]]
        for level, width in enumerate(widths):
            for block in range(self.blocks):
                name = f"down_{level}_{block}"
                self.down.append([self._residual(width, name), *self._attend(width, size, f"{name}_attention")])
                self.skips.append(width)
            if level < len(widths) - 1:
                name = f"down_{level}_resample"
                layer = self.resampling.down(width, name) or self._residual(width, name, halve)
                self.down.append([layer])
                self.skips.append(width)
                size //= 2

    def _build_middle(self) -> None:
        width = self.skips[-1]
        attention = self.attention.make(width, self.normalisation, False, "middle_attention")
        self.middle = [self._residual(width, "middle_0"), attention, self._residual(width, "middle_1")]

    def _build_up(self, size: int) -> None:
        self.up = []
        last = len(self.multipliers) - 1
        for level in reversed(range(last + 1)):
            width = int(self.multipliers[level] * self.channels)
            at = size // 2**level
            for block in range(self.blocks + 1):
                name = f"up_{level}_{block}"
                layers = [self._residual(width, name), *self._attend(width, at, f"{name}_attention", decoder=True)]
                if level > 0 and block == self.blocks:
                    name = f"up_{level}_resample"
                    layers.append(self.resampling.up(width, name) or self._residual(width, name, enlarge2))
                self.up.append(layers)

    def embed(self, inputs: dict[str, Any]) -> Any:
        """The embedding of time, class and augmentation level [B, 4 channels], before its activation."""
        value = ops.cast(inputs[self.time.source], self.variable_dtype)
        embedding = self.time_out(ops.silu(self.time_in(self.time.embed(value, self.channels))))
        if self.classes is not None:
            embedding = embedding + self.label(inputs["label"])
        if self.low_resolution is not None and self.low_resolution.time is not None:
            s = ops.cast(inputs["low_resolution_time"], self.variable_dtype)
            s = self.low_resolution.time.embed(s, self.channels)
            embedding = embedding + self.augmentation_out(ops.silu(self.augmentation_in(s)))
        return embedding

    def call(self, inputs: dict[str, Any]) -> Any:
        """Inputs as docs/design.md says -> [B, H, W, out_channels]."""
        embedding = ops.silu(self.embed(inputs))
        key = inputs.get("seed")  # given in training only
        h = ops.cast(inputs["image"], self.compute_dtype)
        if self.low_resolution is not None:
            low = ops.cast(inputs["low_resolution"], self.compute_dtype)
            h = ops.concatenate([h, self.low_resolution.enlarging(low, h.shape[1:3])], axis=-1)
        skips = []
        for part, layers in enumerate(self.down):
            h = self._apply(part, layers, embedding, key, h)
            skips.append(h)
        h = self._apply(len(self.down), self.middle, embedding, key, h)
        for part, layers in enumerate(self.up, len(self.down) + 1):
            h = self._apply(part, layers, embedding, key, h, skips.pop())
        return self.convolution_out(self.norm_out(h))

    def _apply(self, part: int, layers: list[keras.layers.Layer], embedding: Any, key: Any, *images: Any) -> Any:
        """Calls the layers of one part of the network in turn, the first on the concatenated images."""

        def function(embedding: Any, *images: Any) -> Any:
            seeds = None if key is None else KeyedSeeds(key, part)
            h = images[0] if len(images) == 1 else ops.concatenate(images, axis=-1)
            for layer in layers:
                h = layer(h, embedding, seeds=seeds) if isinstance(layer, ResidualBlock) else layer(h)
            return h

        if self.recompute is None or not isinstance(layers[0], ResidualBlock):
            return function(embedding, *images)
        return self.recompute(function, embedding, *images)


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
