"""The way down of a U-Net and its middle, which the denoiser and the noisy classifier share."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.networks.attention import SelfAttention
from zoo.networks.blocks import Modulation, ResidualBlock
from zoo.networks.embeddings import KeyedSeeds, TimeEmbedding
from zoo.networks.layers import GroupNormalisation, convolution, dense, full_precision
from zoo.networks.resampling import Resampling, halve
from zoo.networks.residual_sums import ResidualSum

Recompute = Callable[..., Any]
Parts = list[list[keras.layers.Layer]]


class Encoder(keras.Model):
    """Residual blocks with attention from the full resolution to the lowest, told the noise level.

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`; the first level has the full resolution.
        blocks: residual blocks a level on the way down.
        time: embedding of the noise level.
        modulation: how embeddings enter the residual blocks.
        resampling: how the resolution changes between levels.
        attention: where and how it attends; the middle block always does.
        normalisation: of the blocks.
        dropout: rate inside the residual blocks.
        residual_sum: how residual and attention blocks join their branches; None adds them.

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
        time: TimeEmbedding,
        modulation: Modulation,
        resampling: Resampling,
        attention: SelfAttention,
        normalisation: GroupNormalisation,
        dropout: float,
        residual_sum: ResidualSum | None,
    ) -> None:
        super().__init__(autocast=False)  # a time of 700 is not a number of half precision
        check_positive(channels=channels, blocks=blocks)
        if not multipliers or any(multiplier <= 0 for multiplier in multipliers):
            raise ValueError(f"multipliers must be positive numbers, one a level, got {multipliers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.channels, self.multipliers, self.blocks, self.rate = channels, tuple(multipliers), blocks, dropout
        self.time, self.modulation, self.resampling = time, modulation, resampling
        self.attention, self.normalisation, self.residual_sum = attention, normalisation, residual_sum

    # ---- layers

    def _check_size(self, size: int) -> None:
        """Whether an image of `size` pixels has the levels and the feature maps that were asked for."""
        if size % 2 ** (len(self.multipliers) - 1):
            raise ValueError(
                f"multipliers: {len(self.multipliers)} levels need an image size divisible by "
                f"{2 ** (len(self.multipliers) - 1)}, got {size}"
            )
        sizes = [size // 2**level for level in range(len(self.multipliers))]
        unused = [wanted for wanted in self.attention.resolutions if wanted not in sizes]
        if unused:
            raise ValueError(f"resolutions {unused} of attention are at no level: feature maps have {sizes} pixels")

    def _build_time(self) -> None:
        width, dtype = 4 * self.channels, full_precision()
        self.time_in = dense(width, name="time_in", dtype=dtype)
        self.time_out = dense(width, name="time_out", dtype=dtype)

    def _residual(self, channels: int, name: str, resample: Any = None) -> ResidualBlock:
        return ResidualBlock(
            channels, self.rate, self.normalisation, self.modulation, resample, self.residual_sum, name=name
        )

    def _attend(self, channels: int, size: int, name: str, decoder: bool = False) -> list[keras.layers.Layer]:
        if size not in self.attention.resolutions:
            return []
        return [self.attention.make(channels, self.normalisation, decoder, name, self.residual_sum)]

    def _build_down(self, size: int) -> None:
        widths = [int(multiplier * self.channels) for multiplier in self.multipliers]
        self.down: Parts = [[convolution(widths[0], name="convolution_in")]]
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
        attention = self.attention.make(width, self.normalisation, False, "middle_attention", self.residual_sum)
        self.middle = [self._residual(width, "middle_0"), attention, self._residual(width, "middle_1")]

    # ---- calling them

    def embed(self, inputs: dict[str, Any]) -> Any:
        """The embedding of the noise level [B, 4 channels], before its activation."""
        value = ops.cast(inputs[self.time.source], self.variable_dtype)
        return self.time_out(ops.silu(self.time_in(self.time.embed(value, self.channels))))

    def _encode(self, h: Any, embedding: Any, key: Any) -> list[Any]:
        """The feature maps of every part of the way down, and of the middle."""
        features = []
        for part, layers in enumerate([*self.down, self.middle]):
            h = self._apply(part, layers, embedding, key, h)
            features.append(h)
        return features

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


def check_positive(**counts: int) -> None:
    """Raises ValueError for the first that is below one."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
