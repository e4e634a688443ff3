"""Inception score: exp of the mean KL(p(y|x) || p(y)), arXiv:1606.03498, in both conventions of splitting."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from harness.cache import Cache
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from zoo.console import UserError


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[N, classes] -> log p(y|x), float64."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def inception_score(logits: np.ndarray) -> float:
    """The score of one part: logits [N, classes]."""
    log_conditional = log_softmax(logits)
    conditional = np.exp(log_conditional)
    marginal = conditional.mean(axis=0)
    # x log x -> 0: a class of no probability anywhere adds nothing.
    log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
    return float(np.exp((conditional * (log_conditional - log_marginal)).sum(axis=1).mean()))


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


class InceptionScore(Metric):
    """The score over equal splits, as CDM reports it: mean and deviation.

    Args:
        splits: number of parts.
        seed: shuffles first, since samples often come sorted by class; None keeps their order.
    """

    needs = frozenset({"logits"})

    def __init__(self, splits: int = 10, seed: int | None = 0):
        if splits < 1:
            raise ValueError(f"splits must be positive, got {splits}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.splits, self.seed = splits, seed

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < self.splits:
            raise UserError(
                f"the inception score has {self.splits} splits but there are {samples.count} samples: "
                "make more, or lower InceptionScore.splits"
            )

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        mean, deviation = mean_and_deviation(scores_of_equal_splits(_logits(samples), self.splits, self.seed))
        return {"is_mean": mean, "is_std": deviation}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        order = "in order" if self.seed is None else "shuffled"
        return {"is_mean": f"IS-{thousands(samples)} ({network}), {self.splits} splits {order}"}


class ADMInceptionScore(Metric):
    """The score as ADM's evaluator takes it: consecutive parts of a fixed size, without shuffling.

    Args:
        split_size: images a part; 5,000 in ADM.
    """

    needs = frozenset({"logits"})

    def __init__(self, split_size: int = 5000):
        if split_size < 1:
            raise ValueError(f"split_size must be positive, got {split_size}")
        self.split_size = split_size

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        if samples.count < 2:
            raise UserError(f"the inception score needs at least 2 samples, got {samples.count}")

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        return {"is_adm": float(np.mean(scores_of_split_size(_logits(samples), self.split_size)))}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        return {"is_adm": f"IS-{thousands(samples)} ({network}), splits of {self.split_size}"}


def _logits(evidence: Evidence) -> np.ndarray:
    if evidence.features.logits is None:
        raise ValueError(f"the logits of {evidence.images.name} were not kept")
    return evidence.features.logits
