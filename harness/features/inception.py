"""FID's own feature network: the Inception-v3 of 2015, its weights from a local file."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.assets import INCEPTION_WEIGHTS, find_any
from harness.cache import Cache, digest
from harness.features.devices import ForwardPass, on_one_device
from harness.features.inception_network import SIZE, build_network, load, shapes
from harness.features.inception_weights import Weights, read_weights
from harness.features.network import Extractor, FeatureNetwork
from harness.features.resizing import Resizing, TF1Bilinear
from harness.images import RealImages
from zoo.console import UserError

VERSION = 1  # of the network and its input processing; a change makes cached features stale
BATCH = 50  # images a forward pass on one device: 1 GB of activations
CHANNELS = (1, 3)
OUTPUTS = ("pooled", "logits", "spatial")


class Inception(FeatureNetwork):
    """The network behind the published FID, sFID, IS, precision and recall.

    'pooled' has 2,048 numbers, 'logits' 1,008 (without the final bias, as ADM's evaluator takes them), 'spatial' 2,023.
    Weights are never fetched in the middle of a run: `python -m harness.assets --fetch inception-2015-graph` does.

    Args:
        weights: file of the weights, in any form that `inception_weights` reads; by default the first of these forms
            in the asset folder.
        resize: filter that brings images to 299 x 299; by default TensorFlow 1's bilinear one, as published numbers
            have it.
    """

    gives = frozenset(OUTPUTS)

    def __init__(self, weights: str | None = None, resize: Resizing | None = None):
        self.weights, self.resize = weights, TF1Bilinear() if resize is None else resize

    def check(self, real: RealImages) -> None:
        self._path()
        channels = real.reference.shape[2]
        if real.reference.has_images and channels not in CHANNELS:
            raise UserError(
                f"the Inception network takes images of 3 channels, or of 1 (repeated), and {real.reference.name} has "
                f"{channels}"
            )

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        self.check(real)
        return self.extractor()

    def extractor(self, batch: int = BATCH) -> Extractor:
        """The network with its weights, `batch` images at a time on one device."""
        network = _network()
        weights = read_weights(self._path(), shapes(network))
        load(network, weights.tensors)
        return _InceptionExtractor(network, weights, self.resize, batch)

    def _path(self) -> Path:
        if self.weights is None:
            return find_any(INCEPTION_WEIGHTS)
        path = Path(self.weights).expanduser()
        if not path.exists():
            raise UserError(f"the weights of the Inception network are not at {path}")
        return path


@on_one_device
def _network() -> keras.Model:
    return build_network()


class _InceptionExtractor(Extractor):
    """The network with its weights and the resize before it."""

    title = "Inception"

    def __init__(self, network: keras.Model, weights: Weights, resize: Resizing, batch: int):
        self.resize, self.batch = resize, batch
        processing = f"uint8, one channel repeated to three, {resize.name} to 299 x 299, (x - 128) / 128"
        self.identity = digest({"version": VERSION, "weights": weights.hash, "input": processing})
        self.facts: dict[str, Any] = {
            "title": self.title,
            "identity": self.identity,
            "dimensions": int(network.output["pooled"].shape[1]),
            "parameters": int(network.count_params()),
            "input": processing,
            "resize": resize.name,
            "weights": weights.hash,
            "weights_form": weights.form,
            "logits": "without the final bias",
        }
        self._forward = ForwardPass(_with_resize(network, resize), batch)
        self.at_once = self._forward.at_once

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        outputs = self._forward(self.resize.before(images, SIZE))
        return dict(zip(OUTPUTS, outputs, strict=True))


class ResizeInGraph(keras.layers.Layer):
    """The part of a resize that belongs to the graph."""

    def __init__(self, resize: Resizing):
        super().__init__()
        self.resize = resize

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return self.resize.inside(images, SIZE)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (shape[0], *SIZE, shape[3])


@on_one_device
def _with_resize(network: keras.Model, resize: Resizing) -> keras.Model:
    """Images of any size [B, H, W, 3] -> pooled, logits, spatial."""
    image = keras.Input((None, None, 3))
    outputs = network(ResizeInGraph(resize)(image))
    return keras.Model(image, tuple(outputs[name] for name in OUTPUTS))
