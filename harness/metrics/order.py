"""Whether samples come in an order that tells of their classes: the runs test for several kinds (Mood 1940)."""

import numpy as np

FEWER = -6.0  # standard deviations: a random order has so few runs once in a thousand million times


def runs_score(labels: np.ndarray) -> float:
    """How many standard deviations there are more runs of equal labels [N] than in a random order; 0 without choice.

    A run is a stretch of equal labels. With n_c labels of class c, s = sum n_c^2 and q = sum n_c^3, random orders have
    1 + (N^2 - s) / N runs on average, with the variance (s (s + N (N + 1)) - 2 N q - N^3) / (N^2 (N - 1)).
    """
    count = len(labels)
    if count < 2:
        return 0.0
    sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
    squares, cubes = float((sizes**2).sum()), float((sizes**3).sum())
    variance = (squares * (squares + count * (count + 1)) - 2 * count * cubes - count**3) / (count**2 * (count - 1))
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    return float((runs - 1 - (count**2 - squares) / count) / np.sqrt(variance)) if variance > 1e-9 else 0.0


def come_sorted(labels: np.ndarray) -> bool:
    """Whether equal labels stand together more than chance puts them."""
    return runs_score(labels) < FEWER
