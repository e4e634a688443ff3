"""What the U-ViT and the U-Net of simple diffusion share: patching, embeddings, widths, and how blocks are called."""

import abc
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.networks.embeddings import KeyedSeeds, TimeEmbedding, class_embedding
from zoo.networks.layers import GroupNormalisation, SiLU, dense, full_precision
from zoo.networks.patching import Patching, SpaceToDepthPatching

Recompute = Callable[..., Any]


class SimpleDiffusionNetwork(keras.Model):
    """Patching, levels that `_build_levels` and `_walk` of a subclass know, and the way back (appendix B).

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`; the first level has the resolution of the patches.
        blocks: residual blocks of each level on the way down.
        out_channels: 3 for an RGB image.
        embedding_channels: width of the embedding of noise level and class.
        time: embedding of the noise level.
        normalisation: of the residual blocks and of the output.
        patching: how the image is brought to the first level; None takes its pixels.
        classes: number of classes; None for a network that is not told the class. The label -1 is no class.

    Attributes:
        recompute: as of UNet, for every block.
    """

    recompute: Recompute | None = None

    def __init__(
        self,
        channels: int,
        multipliers: tuple[float, ...],
        blocks: tuple[int, ...],
        out_channels: int,
        embedding_channels: int,
        time: TimeEmbedding,
        normalisation: GroupNormalisation,
        patching: Patching | None,
        classes: int | None,
    ) -> None:
        super().__init__(autocast=False)  # images and noise levels are not rounded before their first layer
        counts = {"channels": channels, "out_channels": out_channels, "embedding_channels": embedding_channels}
        for name, value in {**counts, "classes": 1 if classes is None else classes}.items():
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if not multipliers or any(multiplier <= 0 for multiplier in multipliers):
            raise ValueError(f"multipliers must be positive numbers, one a level, got {multipliers}")
        if any(count < 0 for count in blocks):
            raise ValueError(f"blocks must be numbers of residual blocks, one a level, got {blocks}")
        self.widths = [int(multiplier * channels) for multiplier in multipliers]
        self.channels, self.blocks, self.out_channels = channels, tuple(blocks), out_channels
        self.embedding_channels, self.classes = embedding_channels, classes
        self.time, self.normalisation = time, normalisation
        self.patching = SpaceToDepthPatching(1) if patching is None else patching

    # ---- building

    def build(self, shapes: dict[str, Any]) -> None:
        """Makes the layers; `shapes` of the inputs give the size of the image."""
        _, height, width, _ = shapes["image"]
        step = self.patching.factor * 2 ** (len(self.widths) - 1)
        if height % step or width % step:
            raise ValueError(
                f"multipliers: {len(self.widths)} levels after a patching by {self.patching.factor} need an image size "
                f"divisible by {step}, got {height} x {width}"
            )
        self._build_embeddings()
        self.embed_input = self.patching.embed(self.widths[0], name="embed_input")
        first = height // self.patching.factor, width // self.patching.factor
        self._build_levels([(first[0] // 2**level, first[1] // 2**level) for level in range(len(self.widths))])
        self.norm_out = self.normalisation.make("norm_out", SiLU())
        self.project_output = self.patching.project(self.out_channels, name="project_output")
        super().build(shapes)

    def _build_embeddings(self) -> None:
        width, dtype = self.embedding_channels, full_precision()
        self.time_in = dense(width, name="time_in", dtype=dtype)
        self.time_out = dense(width, name="time_out", dtype=dtype)
        if self.classes is not None:
            self.label = dense(width, name="label", dtype=dtype)

    @abc.abstractmethod
    def _build_levels(self, sizes: list[tuple[int, int]]) -> None:
        """Makes the blocks of all levels, given the height and width of their feature maps."""

    # ---- calling

    def embed(self, inputs: dict[str, Any]) -> Any:
        """The embedding of noise level and class [B, embedding_channels], before its activation."""
        value = ops.cast(inputs[self.time.source], self.variable_dtype)
        embedding = self.time_out(ops.silu(self.time_in(self.time.embed(value, self.channels))))
        if self.classes is not None:
            embedding = embedding + class_embedding(self._embed_label, inputs)
        return embedding

    def _embed_label(self, label: Any) -> Any:
        # the row of -1, no class, is zero
        return self.label(ops.one_hot(label, self.classes, dtype=self.variable_dtype))

    def call(self, inputs: dict[str, Any]) -> Any:
        """Inputs as docs/design.md says -> [B, H, W, out_channels], in full precision."""
        h = self.embed_input(inputs["image"])
        h = self._walk(h, Calls(self.recompute, ops.silu(self.embed(inputs)), inputs.get("seed")), inputs)
        return self.project_output(self.norm_out(h))

    @abc.abstractmethod
    def _walk(self, h: Any, apply: "Calls", inputs: dict[str, Any]) -> Any:
        """Through all levels, down and up again: [B, h, w, C] -> the same shape."""


class Calls:
    """Calls the blocks of one forward pass: each with dropout masks of its own, recomputed where that is asked for."""

    def __init__(self, recompute: Recompute | None, embedding: Any, key: Any) -> None:
        self.recompute, self.embedding, self.key, self.part = recompute, embedding, key, 0

    def __call__(self, block: keras.layers.Layer, h: Any, *other: Any) -> Any:
        """block(h, embedding, *other); `other` is a skip or a text."""
        part = self.part
        self.part += 1

        def function(embedding: Any, h: Any, *other: Any) -> Any:
            seeds = None if self.key is None else KeyedSeeds(self.key, part)  # given in training only
            return block(h, embedding, *other, seeds=seeds)

        if self.recompute is None:
            return function(self.embedding, h, *other)
        return self.recompute(function, self.embedding, h, *other)


def check_resolutions(name: str, wanted: tuple[int, ...], sizes: list[tuple[int, int]]) -> None:
    """Raises ValueError where a resolution is that of no feature map, which goes by its shorter side."""
    there = [min(size) for size in sizes]
    absent = [resolution for resolution in wanted if resolution not in there]
    if absent:
        raise ValueError(f"{name} {absent} are at no level: feature maps have {there} pixels")
