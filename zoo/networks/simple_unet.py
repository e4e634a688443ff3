"""The U-Net of simple diffusion (section 3 and appendix B.1): most blocks and all dropout at low resolutions."""

from typing import Any

import keras

from zoo.networks.attention import Heads
from zoo.networks.embeddings import TimeEmbedding
from zoo.networks.layers import GroupNormalisation
from zoo.networks.patching import Patching
from zoo.networks.resampling import ConvolutionResampling
from zoo.networks.simple_diffusion import Calls, SimpleDiffusionNetwork, check_resolutions
from zoo.networks.skip_blocks import AttendingBlock, SkipBlock


class DropoutFromResolution:
    """Dropout in the blocks of feature maps of `resolution` pixels and fewer (simple diffusion, section 3.4)."""

    def __init__(self, rate: float, resolution: int) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate}")
        if resolution < 1:
            raise ValueError(f"resolution must be the size of a feature map in pixels, got {resolution}")
        self.rate, self.resolution = rate, resolution

    def at(self, size: tuple[int, int]) -> float:
        """The rate at feature maps of a height and width; one that is not square goes by its shorter side."""
        return self.rate if min(size) <= self.resolution else 0.0


class SimpleDiffusionUNet(SimpleDiffusionNetwork):
    """U-Net denoiser whose skips join as normalised sums: a number of blocks a level, one more on the way up.

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`; the first level has the resolution of the patches.
        blocks: residual blocks of each level on the way down ("12 + 13" of table 4 is 12).
        out_channels: 3 for an RGB image.
        embedding_channels: width of the embedding of noise level and class.
        time: embedding of the noise level.
        heads: of the attention.
        normalisation: of the blocks and of the output.
        attention_resolutions: sizes of the feature maps whose blocks attend; the middle always does.
        patching: how the image is brought to the first level; None takes its pixels.
        classes: number of classes; None for a network that is not told the class. The label -1 is no class.
        dropout: where and how much; None for none.
    """

    def __init__(
        self,
        channels: int,
        multipliers: tuple[float, ...],
        blocks: tuple[int, ...],
        out_channels: int,
        embedding_channels: int,
        time: TimeEmbedding,
        heads: Heads,
        normalisation: GroupNormalisation,
        attention_resolutions: tuple[int, ...] = (),
        patching: Patching | None = None,
        classes: int | None = None,
        dropout: DropoutFromResolution | None = None,
    ) -> None:
        super().__init__(
            channels, multipliers, blocks, out_channels, embedding_channels, time, normalisation, patching, classes
        )
        if len(blocks) != len(multipliers):
            raise ValueError(
                f"blocks and multipliers must have one number a level, got {len(blocks)} and {len(multipliers)}"
            )
        self.heads, self.attention_resolutions, self.dropout = heads, tuple(attention_resolutions), dropout

    def _build_levels(self, sizes: list[tuple[int, int]]) -> None:
        check_resolutions("attention_resolutions", self.attention_resolutions, sizes)
        resampling, last = ConvolutionResampling(), len(sizes) - 1
        self.down, self.up, self.downsample, self.upsample = [], [], [], []
        for level, size in enumerate(sizes):
            self.down.append([self._block(level, size, f"down_{level}_{i}") for i in range(self.blocks[level])])
            self.up.append([self._block(level, size, f"up_{level}_{i}") for i in range(self.blocks[level] + 1)])
            if level < last:
                self.downsample.append(resampling.down(self.widths[level + 1], f"down_{level}_resample"))
                self.upsample.append(resampling.up(self.widths[level], f"up_{level}_resample"))
        rate = self._rate(sizes[-1])
        heads = self.heads.heads(self.widths[-1], decoder=False)
        self.middle = [
            AttendingBlock(rate, heads, self.normalisation, name="middle_0"),
            SkipBlock(rate, self.normalisation, name="middle_1"),
        ]

    def _rate(self, size: tuple[int, int]) -> float:
        return 0.0 if self.dropout is None else self.dropout.at(size)

    def _block(self, level: int, size: tuple[int, int], name: str) -> keras.layers.Layer:
        if min(size) not in self.attention_resolutions:
            return SkipBlock(self._rate(size), self.normalisation, name=name)
        heads = self.heads.heads(self.widths[level], decoder=name.startswith("up"))
        return AttendingBlock(self._rate(size), heads, self.normalisation, name=name)

    def _walk(self, h: Any, apply: Calls, inputs: dict[str, Any]) -> Any:
        # down: the skips of a level are its input and what its blocks give, all of one width
        skips = [h]
        for level, blocks in enumerate(self.down):
            if level:
                h = self.downsample[level - 1](h)
                skips.append(h)
            for block in blocks:
                h = apply(block, h)
                skips.append(h)
        for block in self.middle:
            h = apply(block, h)
        # up
        for level in reversed(range(len(self.up))):
            for block in self.up[level]:
                h = apply(block, h, skips.pop())
            if level:
                h = self.upsample[level - 1](h)
        return h
