"""The U-Net of DDPM, Improved DDPM, CDM and ADM: one network with slots."""

import abc
from typing import Any

import keras
from keras import ops

from zoo.networks.attention import SelfAttention
from zoo.networks.blocks import Modulation
from zoo.networks.embeddings import TimeEmbedding, class_embedding
from zoo.networks.encoder import Encoder, Parts, check_positive
from zoo.networks.layers import GroupNormalisation, SiLU, convolution, dense, full_precision
from zoo.networks.resampling import Resampling, enlarge2
from zoo.networks.residual_sums import ResidualSum


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


class UNet(Encoder):
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
        classes: number of classes; None for a network that is not told the class. The label -1 is no class.
        dropout: rate inside the residual blocks.
        residual_sum: how residual and attention blocks join their branches; None adds them.
    """

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
        residual_sum: ResidualSum | None = None,
    ) -> None:
        super().__init__(
            channels,
            multipliers,
            blocks,
            time,
            modulation,
            resampling,
            attention,
            normalisation,
            dropout,
            residual_sum,
        )
        check_positive(out_channels=out_channels, classes=1 if classes is None else classes)
        self.out_channels, self.classes, self.low_resolution = out_channels, classes, low_resolution

    def build(self, shapes: dict[str, Any]) -> None:
        """Makes the layers; `shapes` of the inputs give the size of the image."""
        size = shapes["image"][1]
        self._check_size(size)
        self._build_embeddings()
        self._build_down(size)
        self._build_middle()
        self._build_up(size)
        self.norm_out = self.normalisation.make("norm_out", SiLU())
        self.convolution_out = convolution(self.out_channels, zero=True, name="convolution_out")
        super().build(shapes)

    def _build_embeddings(self) -> None:
        self._build_time()
        width, dtype = 4 * self.channels, full_precision()
        if self.classes is not None:
            normal = keras.initializers.RandomNormal(stddev=1.0)
            self.label = keras.layers.Embedding(
                self.classes, width, embeddings_initializer=normal, name="label", dtype=dtype
            )
        if self.low_resolution is not None and self.low_resolution.time is not None:
            self.augmentation_in = dense(width, name="augmentation_in", dtype=dtype)
            self.augmentation_out = dense(width, name="augmentation_out", dtype=dtype)

    def _build_up(self, size: int) -> None:
        self.up: Parts = []
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
        embedding = super().embed(inputs)
        if self.classes is not None:
            embedding = embedding + class_embedding(self._embed_label, inputs)
        if self.low_resolution is not None and self.low_resolution.time is not None:
            s = ops.cast(inputs[f"low_resolution_{self.low_resolution.time.source}"], self.variable_dtype)
            s = self.low_resolution.time.embed(s, self.channels)
            embedding = embedding + self.augmentation_out(ops.silu(self.augmentation_in(s)))
        return embedding

    def _embed_label(self, label: Any) -> Any:
        known = ops.expand_dims(label >= 0, -1)
        embedded = self.label(ops.maximum(label, 0))
        return ops.where(known, embedded, ops.zeros_like(embedded))  # -1 is no class

    def call(self, inputs: dict[str, Any]) -> Any:
        """Inputs as docs/design.md says -> [B, H, W, out_channels]."""
        embedding = ops.silu(self.embed(inputs))
        key = inputs.get("seed")  # given in training only
        h = ops.cast(inputs["image"], self.compute_dtype)
        if self.low_resolution is not None:
            low = ops.cast(inputs["low_resolution"], self.compute_dtype)
            h = ops.concatenate([h, self.low_resolution.enlarging(low, h.shape[1:3])], axis=-1)
        *skips, h = self._encode(h, embedding, key)
        for part, layers in enumerate(self.up, len(self.down) + 1):
            h = self._apply(part, layers, embedding, key, h, skips.pop())
        return self.convolution_out(self.norm_out(h))
