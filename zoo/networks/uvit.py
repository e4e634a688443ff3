"""U-ViT: a convolutional U-Net around a transformer (simple diffusion, appendix B.2, from its pseudo-code)."""

from typing import Any

import keras
from keras import ops

from zoo.networks.embeddings import TimeEmbedding
from zoo.networks.layers import GroupNormalisation, dense, full_precision
from zoo.networks.patching import Patching
from zoo.networks.resampling import ConvolutionResampling
from zoo.networks.simple_diffusion import Calls, SimpleDiffusionNetwork, check_resolutions
from zoo.networks.skip_blocks import SkipBlock
from zoo.networks.transformer import TextInput, Transformer


class UViT(SimpleDiffusionNetwork):
    """U-ViT denoiser: residual blocks with skips down to the lowest resolution, and a transformer there without.

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`, and at the end that of the transformer.
        blocks: residual blocks a level, on the way down and again on the way up; the transformer has its own.
        transformer: at the lowest resolution; the paper's is 16x16.
        out_channels: 3 for an RGB image.
        embedding_channels: width of the embedding of noise level and class.
        time: embedding of the noise level.
        normalisation: of the residual blocks and of the output.
        patching: how the image is brought to the first level; None takes its pixels.
        classes: number of classes; None for a network that is not told the class. The label -1 is no class.
        text: embeddings of a text that the transformer attends to; None for a network that is not told any.
        attention_resolutions: levels with blocks of the transformer in place of residual blocks (32 for text to image).
    """

    def __init__(
        self,
        channels: int,
        multipliers: tuple[float, ...],
        blocks: tuple[int, ...],
        transformer: Transformer,
        out_channels: int,
        embedding_channels: int,
        time: TimeEmbedding,
        normalisation: GroupNormalisation,
        patching: Patching | None = None,
        classes: int | None = None,
        text: TextInput | None = None,
        attention_resolutions: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            channels, multipliers, blocks, out_channels, embedding_channels, time, normalisation, patching, classes
        )
        if len(blocks) != len(multipliers) - 1:
            raise ValueError(
                f"blocks must have one number a level and multipliers one more, that of the transformer; got "
                f"{len(blocks)} and {len(multipliers)}"
            )
        self.transformer, self.text = transformer, text
        self.attention_resolutions = tuple(attention_resolutions)

    def build(self, shapes: dict[str, Any]) -> None:
        if self.text is not None:
            self.text.check(shapes["text"])
        super().build(shapes)

    def _build_embeddings(self) -> None:
        super()._build_embeddings()
        if self.text is not None and self.text.portrait:
            self.portrait = dense(self.embedding_channels, name="portrait", dtype=full_precision())

    def embed(self, inputs: dict[str, Any]) -> Any:
        embedding = super().embed(inputs)
        if self.text is None or not self.text.portrait:
            return embedding
        return embedding + self.portrait(ops.one_hot(inputs["portrait"], 2, dtype=self.variable_dtype))

    def _build_levels(self, sizes: list[tuple[int, int]]) -> None:
        check_resolutions("attention_resolutions", self.attention_resolutions, sizes[:-1])
        self.skips = [min(size) not in self.attention_resolutions for size in sizes[:-1]]
        resampling, width = ConvolutionResampling(), self.widths[-1]
        self.down, self.up, self.downsample, self.upsample = [], [], [], []
        for level, below in enumerate(self.widths[1:]):
            self.down.append(self._blocks(level, "down"))
            self.downsample.append(resampling.down(below, f"down_{level}_resample"))
            self.upsample.append(resampling.up(self.widths[level], f"up_{level}_resample"))
            self.up.append(self._blocks(level, "up"))
        normal = keras.initializers.RandomNormal(stddev=0.01)
        self.positions = self.add_weight(shape=(*sizes[-1], width), initializer=normal, name="positions")
        self.middle = [self.transformer.make(width, f"middle_{block}") for block in range(self.transformer.blocks)]

    def _blocks(self, level: int, way: str) -> list[keras.layers.Layer]:
        names = [f"{way}_{level}_{block}" for block in range(self.blocks[level])]
        if self.skips[level]:
            return [SkipBlock(0.0, self.normalisation, name=name) for name in names]
        return [self.transformer.make(self.widths[level], name) for name in names]

    def _walk(self, h: Any, apply: Calls, inputs: dict[str, Any]) -> Any:
        # down
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = apply(block, h)
                if self.skips[level]:
                    skips.append(h)
            h = self.downsample[level](h)
        # the transformer
        h = h + ops.cast(self.positions, h.dtype)
        text = () if self.text is None else (ops.cast(inputs["text"], self.variable_dtype),)
        for block in self.middle:
            h = apply(block, h, *text)
        # up
        for level in reversed(range(len(self.up))):
            h = self.upsample[level](h)
            for block in self.up[level]:
                h = apply(block, h, skips.pop()) if self.skips[level] else apply(block, h)
        return h
