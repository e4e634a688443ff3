"""Classification accuracy score, small: a classifier trained on samples, tested on real images (arXiv:1905.10887)."""

from collections.abc import Mapping

from harness.cache import Cache
from harness.features.small_network import Plan, accuracies, train_network
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from zoo.console import UserError

VERSION = 1  # of the network and its training; a change makes cached scores stale


class ClassificationAccuracy(Metric):
    """Top-1 and top-5 accuracy on real held-out images of a small classifier trained on samples and their labels.

    Its floor is the same classifier trained on as many real images. Ravuri and Vinyals train a ResNet-50 on as many
    samples as there are training images; this is the experiment at the size of small images and few samples.

    Args:
        width: channels of the first convolution.
        epochs: passes over the samples; few samples need many.
        batch: images a step.
        learning_rate: peak of the schedule.
        shift: largest random shift, in pixels.
        mirror: probability of mirroring; 0 where a mirror image is of another class.
        seed: of everything random.
    """

    def __init__(
        self,
        width: int = 32,
        epochs: int = 20,
        batch: int = 64,
        learning_rate: float = 0.1,
        shift: int = 2,
        mirror: float = 0.5,
        seed: int = 0,
    ):
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.width = width
        self.plan = Plan(epochs, batch, learning_rate, shift, mirror, seed)

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        for images in (samples, real.held_out):
            if not images.classes:
                raise UserError(f"the classification accuracy score needs labels, and {images.name} has none (arr_1)")
        if samples.classes > real.train.classes:
            raise UserError(
                f"{samples.name} has labels up to {samples.classes - 1}, but {real.train.name} has only "
                f"{real.train.classes} classes: are these samples of another dataset?"
            )

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        return self._score(samples.images, real, cache, f"CAS of {samples.images.name}")

    def floor(
        self, *, pair: tuple[Evidence, Evidence] | None, count: int, real: RealImages, cache: Cache
    ) -> dict[str, float]:
        # Real images for training come from train, whatever the pair is: the test images are what it is tested on.
        chosen = real.train.split(count, self.plan.seed)[0] if real.train.count > count else real.train
        return self._score(chosen, real, cache, f"CAS of {chosen.count} real images")

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        setting = f"CAS-{thousands(samples)} (small CNN, {self.plan.epochs} epochs)"
        return {"cas_top1": f"{setting}, top 1", "cas_top5": f"{setting}, top 5"}

    def _score(self, train: ImageSet, real: RealImages, cache: Cache, title: str) -> dict[str, float]:
        key = {
            "version": VERSION,
            "width": self.width,
            "plan": vars(self.plan),
            "train": train.fingerprint(),
            "held_out": real.held_out.fingerprint(),
        }

        def make() -> dict[str, float]:
            images, labels = train.arrays()
            if labels is None:
                raise ValueError(f"{train.name} has no labels")
            network = train_network(train.shape, real.train.classes, self.width, self.plan, images, labels, title)
            first, among_five = accuracies(network, real.held_out)
            return {"cas_top1": first, "cas_top5": among_five}

        return cache.numbers("accuracy", key, make)
