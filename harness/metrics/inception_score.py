"""Inception score: exp of the mean KL(p(y|x) || p(y)), arXiv:1606.03498, in both conventions of splitting."""

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from harness.metrics.order import come_sorted
from zoo.console import UserError

BLOCK = 2000  # images whose probabilities are in memory at a time


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[N, classes] -> log p(y|x), float64."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def inception_score(logits: np.ndarray) -> float:
    """The score of one part: logits [N, classes].

    As the mean of sum_y p(y|x) log p(y|x), less sum_y p(y) log p(y): so a block of images in memory suffices.
    """
    marginal, certainty = np.zeros(logits.shape[1]), 0.0
    for start in range(0, len(logits), BLOCK):
        log_conditional = log_softmax(logits[start : start + BLOCK])
        conditional = np.exp(log_conditional)
        marginal += conditional.sum(axis=0)
        certainty += float((conditional * log_conditional).sum())
    marginal /= len(logits)
    # x log x -> 0: a class of no probability anywhere adds nothing.
    diversity = marginal @ np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
    return float(np.exp(certainty / len(logits) - diversity))


def scores_of_equal_splits(logits: np.ndarray, splits: int, seed: int | None = None) -> list[float]:
    """The scores of `splits` parts i N // splits, in the given order or after the permutation of `seed`.

    The permutation is that of the legacy generator, `numpy.random.RandomState(seed)`, as torch-fidelity draws it.
    """
    count = len(logits)
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(count)]
    bounds = [count * part // splits for part in range(splits + 1)]
    return [inception_score(logits[low:high]) for low, high in itertools.pairwise(bounds)]


def scores_of_split_size(logits: np.ndarray, size: int) -> list[float]:
    """The scores of consecutive parts of `size` in the given order, the last one shorter: ADM's convention."""
    return [inception_score(logits[start : start + size]) for start in range(0, len(logits), size)]


def mean_and_deviation(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation over the splits."""
    return float(np.mean(scores)), float(np.std(scores))


class _Score(Metric):
    """What both conventions share: one score over all samples, and care for samples that come sorted by class.

    Parts of sorted samples have few classes each, and their score is far below that of the same samples in another
    order. The order as given is the convention, so that number stays; beside it stands that of a seeded permutation.

    Args:
        seed: of the permutation.
    """

    needs = frozenset({"logits"})
    named: ClassVar[str]
    """The number that depends on the order."""
    shuffled: ClassVar[str]
    """The same number after the permutation."""

    def __init__(self, seed: int):
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = seed

    def warnings(self, *, reference: Evidence, samples: Evidence) -> list[str]:
        by = _sorted_by(samples)
        if by is None or not self.is_split(samples.images.count):
            return []
        return [
            f"sorted-by-class: {samples.images.name} comes sorted by {by}, so that a split has few classes: "
            f"{self.named} is too low; {self.shuffled} is that of the order of seed {self.seed}, is_one_split has none"
        ]

    @abc.abstractmethod
    def is_split(self, count: int) -> bool:
        """Whether so many samples fall into more than one part."""

    def shuffle(self, logits: np.ndarray) -> np.ndarray:
        """The logits in the order of the seed, as torch-fidelity draws it."""
        return logits[np.random.RandomState(self.seed).permutation(len(logits))]


class InceptionScore(_Score):
    """The score over equal splits in the given order, as CDM reports it: mean and deviation over the splits.

    Args:
        splits: number of parts.
        seed: of the order that is taken beside the given one where samples come sorted by class.
    """

    named, shuffled = "is_mean", "is_shuffled"

    def __init__(self, splits: int = 10, seed: int = 0):
        super().__init__(seed)
        if splits < 1:
            raise ValueError(f"splits must be positive, got {splits}")
        self.splits = splits

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < self.splits:
            raise UserError(
                f"the inception score has {self.splits} splits but there are {samples.count} samples: "
                "make more, or lower InceptionScore.splits"
            )

    def is_split(self, count: int) -> bool:
        return self.splits > 1

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        logits = _logits(samples)
        mean, deviation = mean_and_deviation(scores_of_equal_splits(logits, self.splits))
        found = {"is_mean": mean, "is_std": deviation, "is_one_split": inception_score(logits)}
        if self.is_split(len(logits)) and _sorted_by(samples) is not None:
            found["is_shuffled"] = float(np.mean(scores_of_equal_splits(self.shuffle(logits), self.splits)))
        return found

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        score = f"IS-{thousands(samples)} ({network})"
        parts = f"{self.splits} splits"
        return {
            "is_mean": f"{score}, {parts} in order",
            "is_std": f"{score}, deviation over {parts} in order",
            "is_one_split": f"{score}, one split",
            "is_shuffled": f"{score}, {parts} shuffled",
        }


class ADMInceptionScore(_Score):
    """The score as ADM's evaluator takes it: consecutive parts of a fixed size, without shuffling.

    Args:
        split_size: images a part; 5,000 in ADM.
        seed: of the order that is taken beside the given one where samples come sorted by class.
    """

    named, shuffled = "is_adm", "is_adm_shuffled"

    def __init__(self, split_size: int = 5000, seed: int = 0):
        super().__init__(seed)
        if split_size < 1:
            raise ValueError(f"split_size must be positive, got {split_size}")
        self.split_size = split_size

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < 2:
            raise UserError(f"the inception score needs at least 2 samples, got {samples.count}")

    def is_split(self, count: int) -> bool:
        return count > self.split_size

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        logits = _logits(samples)
        score = float(np.mean(scores_of_split_size(logits, self.split_size)))
        found = {"is_adm": score, "is_one_split": inception_score(logits)}
        if self.is_split(len(logits)) and _sorted_by(samples) is not None:
            found["is_adm_shuffled"] = float(np.mean(scores_of_split_size(self.shuffle(logits), self.split_size)))
        return found

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        score = f"IS-{thousands(samples)} ({network})"
        return {
            "is_adm": f"{score}, splits of {self.split_size} in order",
            "is_one_split": f"{score}, one split",
            "is_adm_shuffled": f"{score}, splits of {self.split_size} shuffled",
        }


def _sorted_by(samples: Evidence) -> str | None:
    """What the samples come sorted by: their labels where there are any, else the class that the logits say."""
    labels = samples.images.all_labels()
    if labels is not None:
        return "label" if come_sorted(labels) else None
    return "the class that the network sees" if come_sorted(_logits(samples).argmax(axis=1)) else None


def _logits(evidence: Evidence) -> np.ndarray:
    if evidence.features.logits is None:
        raise ValueError(f"the logits of {evidence.images.name} were not kept")
    return evidence.features.logits
