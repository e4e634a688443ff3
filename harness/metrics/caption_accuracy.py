"""Whether images show what their captions say, by classifiers that the dataset itself has taught."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.cache import Cache
from harness.captions import read_captions
from harness.features import judges
from harness.features.judges import Judge
from harness.features.small_network import SMALLEST, Plan
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from harness.splits import SplitImages
from zoo.console import UserError
from zoo.data.sources import Attribute

if TYPE_CHECKING:
    from zoo.data.images import Images

ENOUGH = 0.98  # accuracy on real images below which a judge is named as a weak one
PARTS = {"caption_accuracy": "", "caption_accuracy_seen": ", seen pairs", "caption_accuracy_unseen": ", unseen pairs"}


class CaptionAccuracy(Metric):
    """The share of samples that have all that their captions say of the dataset's attributes, such as shape and colour.

    A combination is seen if the images that the model was trained on have it, and unseen else: then the model must
    put together words that it knows from other captions. The floor is the same of real images.

    Args:
        images: what the classifiers learn from (train) and are tested on (test), at the size of the samples; they must
            have every combination that is to be judged, `mixed_train` and `mixed_test` of CaptionedShapes.
        captions: file with a caption for each sample; by default the samples bring them along (see
            `harness.captions`).
        width: channels of the first convolution of a classifier.
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: peak of the schedule.
        shift: largest random shift, in pixels.
        mirror: probability of mirroring.
        seed: of everything random.
    """

    def __init__(
        self,
        images: "Images",
        captions: str | None = None,
        width: int = 32,
        epochs: int = 6,
        batch: int = 128,
        learning_rate: float = 0.2,
        shift: int = 2,
        mirror: float = 0.5,
        seed: int = 0,
    ):
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.images, self.captions, self.width = images, captions, width
        self.plan = Plan(epochs, batch, learning_rate, shift, mirror, seed)
        self._weak: list[str] = []

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        name = self.images.source.name
        if not self._attributes:
            raise UserError(
                f"CaptionAccuracy.images are of {name}, which does not say what its captions are about: take a dataset "
                "with attributes, such as CaptionedShapes, or the CLIP score"
            )
        shape = self.images.shape
        if samples.shape != shape or min(shape[:2]) < SMALLEST:
            raise UserError(
                f"the samples are {samples.shape}, and CaptionAccuracy.images {shape}: both must have one size, of at "
                f"least {SMALLEST} pixels"
            )
        self._wanted(samples)

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        found = self._judges(cache)
        wanted = self._wanted(samples.images)
        seen = np.stack([judge.see(samples.images) for judge in found], axis=1)
        right = np.equal(seen, wanted)
        both = np.mean([judge.right for judge in found], axis=0) == 1
        self._weak = [] if both.mean() >= ENOUGH else [f"{both.mean():.1%}"]
        singly = {
            f"{judge.attribute.name}_accuracy": float(part.mean()) for judge, part in zip(found, right.T, strict=True)
        }
        return {**self._shares(np.all(right, axis=1), wanted, real), **singly}

    def floor(
        self, *, pair: tuple[Evidence, Evidence] | None, count: int, real: RealImages, cache: Cache
    ) -> dict[str, float]:
        # Real images are those that the judges are tested on, whatever the pair is: they must know every combination.
        found = self._judges(cache)
        right = np.stack([judge.right for judge in found], axis=1)
        labels = SplitImages(self.images, "test").all_labels()
        shown = np.stack([np.array(attribute.of_class)[labels] for attribute in self._attributes], axis=1)
        singly = {f"{judge.attribute.name}_accuracy": float(judge.right.mean()) for judge in found}
        return {**self._shares(np.all(right, axis=1), shown, real), **singly}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        title = f"captions right-{thousands(samples)} ({self.images.source.name} judge)"
        titles = {key: f"{title}{words}" for key, words in PARTS.items()}
        return titles | {f"{one.name}_accuracy": f"{title}, {one.name} alone" for one in self._attributes}

    def details(self, *, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, Any]:
        seen = self._seen(self._wanted(samples.images), real)
        facts = [
            {"attribute": judge.attribute.name, "accuracy": float(judge.right.mean()), "weights": judge.weights}
            for judge in self._judges(cache)
        ]
        return {"judges": facts, "captions_judged": {"seen": int(seen.sum()), "unseen": int((~seen).sum())}}

    def warnings(self, *, reference: Evidence, samples: Evidence) -> list[str]:
        return [
            f"weak-judge: the classifiers have all right on {share} of real images; below {ENOUGH:.0%} they say little"
            for share in self._weak
        ]

    @property
    def _attributes(self) -> Sequence[Attribute]:
        return self.images.source.attributes

    def _judges(self, cache: Cache) -> list[Judge]:
        return judges.prepare(self.images, self.width, self.plan, cache)

    def _wanted(self, samples: ImageSet) -> np.ndarray:
        """What the caption of every sample says of each attribute, int [N, attributes]."""
        captions = read_captions(samples, None if self.captions is None else Path(self.captions))
        return np.stack([judges.wanted(captions, attribute) for attribute in self._attributes], axis=1)

    def _seen(self, values: np.ndarray, real: RealImages) -> np.ndarray:
        """Which combinations [N, attributes] the training images have, bool [N]."""
        found = real.train.all_labels()
        labels = np.zeros(0, np.int64) if found is None else np.unique(found)
        trained = np.stack([np.array(attribute.of_class)[labels] for attribute in self._attributes], axis=1)
        return (values[:, None] == trained).all(axis=2).any(axis=1)

    def _shares(self, right: np.ndarray, values: np.ndarray, real: RealImages) -> dict[str, float]:
        """The share that is right [N] of all, and of seen and unseen combinations where there are any."""
        seen = self._seen(values, real)
        kinds = {
            "caption_accuracy": np.ones_like(seen),
            "caption_accuracy_seen": seen,
            "caption_accuracy_unseen": ~seen,
        }
        return {key: float(right[chosen].mean()) for key, chosen in kinds.items() if chosen.any()}
