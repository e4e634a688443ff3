"""A small classifier trained on the dataset itself: the feature network that needs no download."""

import hashlib
from typing import Any

import numpy as np

from harness.cache import Cache
from harness.features.devices import ForwardPass
from harness.features.network import BATCH, Extractor, FeatureNetwork
from harness.features.small_network import SMALLEST, Plan, accuracies, build_network, train_network
from harness.images import RealImages
from zoo.console import UserError, say

VERSION = 1  # of the network and its training; a change makes cached networks stale


class DatasetClassifier(FeatureNetwork):
    """Trains a small residual network on the train images, once: it is cached by the hash of all that it depends on.

    Its pooled features have 4 width dimensions. Images go in at their own size, without a resize.

    Args:
        width: channels of the first convolution.
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: peak of the schedule.
        shift: largest random shift, in pixels.
        mirror: probability of mirroring; 0 where a mirror image is of another class.
        limit: largest number of training images, drawn at random: they are held in memory.
        seed: of everything random.
    """

    def __init__(
        self,
        width: int = 32,
        epochs: int = 3,
        batch: int = 128,
        learning_rate: float = 0.3,
        shift: int = 2,
        mirror: float = 0.5,
        limit: int = 50_000,
        seed: int = 0,
    ):
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        if limit < 2:
            raise ValueError(f"limit must be at least 2, got {limit}")
        self.width, self.limit = width, limit
        self.plan = Plan(epochs, batch, learning_rate, shift, mirror, seed)

    def check(self, real: RealImages) -> None:
        train = real.train
        if train.classes < 2:
            raise UserError(
                f"the classifier learns from labels, and {train.name} has {train.classes} classes: give at least two "
                "(arr_1 in an .npz file, sub-folders in an image folder), other images with labels (--train of "
                "harness.evaluate), or another feature network (--features inception)"
            )
        if min(train.shape[:2]) < SMALLEST:
            raise UserError(f"the classifier needs images of at least {SMALLEST} pixels a side, got {train.shape}")
        if self.plan.shift >= min(train.shape[:2]):
            raise UserError(f"shift = {self.plan.shift} pixels is not less than the size of the images {train.shape}")

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        self.check(real)
        key = {
            "version": VERSION,
            "width": self.width,
            "limit": self.limit,
            "plan": vars(self.plan),
            "train": real.train.fingerprint(),
            "held_out": real.held_out.fingerprint(),
        }
        found = cache.arrays("classifier", key, lambda: self._train(real))
        network = build_network(real.train.shape, real.train.classes, self.width, self.plan.seed)
        count = len(network.weights)
        network.set_weights([found[f"weight{index:03d}"] for index in range(count)])
        return _Classifier(network, real.train.dataset, float(found["accuracy"]), self.width)

    def _train(self, real: RealImages) -> dict[str, np.ndarray]:
        """Weights by position, and the accuracy on held-out images."""
        train = real.train
        chosen = train if train.count <= self.limit else train.split(self.limit, self.plan.seed)[0]
        images, labels = chosen.arrays()
        if labels is None:
            raise ValueError(f"{train.name} has no labels")
        title = f"classifier of {train.name}"
        network = train_network(train.shape, train.classes, self.width, self.plan, images, labels, title)
        accuracy, _ = accuracies(network, real.held_out)
        say(f"{title}: trained on {len(images)} images, {accuracy:.1%} right on {real.held_out.count} held-out ones")
        weights = {f"weight{index:03d}": weight for index, weight in enumerate(network.get_weights())}
        return weights | {"accuracy": np.array(accuracy)}


class _Classifier(Extractor):
    """A trained network [images] -> pooled, logits."""

    def __init__(self, network: Any, dataset: str, accuracy: float, width: int):
        self.title = f"{dataset} classifier"
        content = hashlib.sha256()
        for weight in network.get_weights():
            content.update(np.ascontiguousarray(weight).tobytes())
        self.identity = content.hexdigest()[:20]
        self.facts = {
            "title": self.title,
            "identity": self.identity,
            "accuracy": accuracy,
            "dimensions": 4 * width,
            "parameters": int(network.count_params()),
            "input": "uint8 at its own size; no resize",
            "resize": "none",
            "weights": self.identity,
        }
        self._forward = ForwardPass(network, BATCH)
        self.at_once = self._forward.at_once

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pooled, logits = self._forward(images)
        return {"pooled": pooled, "logits": logits}
