"""The noisy classifier of classifier guidance (ADM, section 4): the way down of the U-Net, and a pooling."""

from typing import Any

from keras import ops

from zoo.networks.attention import SelfAttention
from zoo.networks.blocks import Modulation
from zoo.networks.embeddings import TimeEmbedding
from zoo.networks.encoder import Encoder, check_positive
from zoo.networks.layers import GroupNormalisation
from zoo.networks.pooling import Pooling
from zoo.networks.resampling import Resampling
from zoo.networks.residual_sums import ResidualSum


class NoisyClassifier(Encoder):
    """Logits of the class of a noised image, at any noise level.

    Args:
        channels: base width.
        multipliers: width of each level as a multiple of `channels`; the first level has the full resolution.
        blocks: residual blocks a level.
        out_classes: classes that it tells apart.
        time: embedding of the noise level.
        modulation: how it enters the residual blocks.
        resampling: how the resolution changes between levels.
        attention: where and how it attends; the middle block always does.
        normalisation: of the blocks, and of the pooling.
        pooling: feature maps to logits.
        dropout: rate inside the residual blocks.
        residual_sum: how residual and attention blocks join their branches; None adds them.
    """

    def __init__(
        self,
        channels: int,
        multipliers: tuple[float, ...],
        blocks: int,
        out_classes: int,
        time: TimeEmbedding,
        modulation: Modulation,
        resampling: Resampling,
        attention: SelfAttention,
        normalisation: GroupNormalisation,
        pooling: Pooling,
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
        check_positive(out_classes=out_classes)
        self.out_classes, self.pooling = out_classes, pooling

    def build(self, shapes: dict[str, Any]) -> None:
        """Makes the layers; `shapes` of the inputs give the size of the image."""
        size = shapes["image"][1]
        self._check_size(size)
        self._build_time()
        self._build_down(size)
        self._build_middle()
        self.head = self.pooling.make(self.out_classes, self.normalisation)
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        """`image` [B, H, W, C] and `time` or `logsnr` [B], in training `seed` -> logits [B, out_classes]."""
        embedding = ops.silu(self.embed(inputs))
        image = ops.cast(inputs["image"], self.compute_dtype)
        return self.head(self._encode(image, embedding, inputs.get("seed")))
