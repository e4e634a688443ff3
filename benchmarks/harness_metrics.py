"""The mathematics of the metrics at the size of Inception features, each beside a yardstick of the same run.

    python benchmarks/harness_metrics.py [--dimensions 2048] [--count 10000] [--skip-scipy] [--json FILE]

Frechet distance (median of some) beside scipy.linalg.sqrtm of the same matrices (once); statistics and kernel distance
as FLOP/s over NumPy's float64 matrix product; precision and recall, each size in a process of its own, and feature
extraction as FLOP/s over TensorFlow's float32 matrix product, measured before and after each.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.console import import_tensorflow, say

import_tensorflow()

import keras
import numpy as np
from scipy import linalg
from yardsticks import matrix_rate, median_seconds, write_figures

from harness.features.devices import ForwardPass
from harness.features.network import BATCH
from harness.features.small_network import build_network
from harness.metrics.frechet import frechet_distance
from harness.metrics.kernel import kernel_distances
from harness.metrics.precision_recall import precision_recall, squared_radii
from harness.metrics.statistics import Moments

SIZES = ((10_000, 10_000), (10_000, 50_000), (50_000, 50_000))  # of precision and recall: reference, samples
MODES = 1000  # clusters of the features for precision and recall

Figures = dict[str, float]


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def seconds_and_rate(call: Callable[[], Any], rate: Callable[[], float]) -> tuple[float, float]:
    """Of one call, and of the matrix products around it: a shared machine changes under the measurement."""
    before = rate()
    seconds, _ = seconds_of(call)
    return seconds, (before + rate()) / 2


def numpy_rate(size: int = 2048) -> float:
    """FLOP/s of NumPy's float64 matrix product."""
    a = np.random.default_rng(0).standard_normal((size, size))
    return 2 * size**3 / median_seconds(lambda: a @ a, repeats=5)


def vectors(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Features with a spectrum that falls off, as networks give them; float32 [count, dimensions]."""
    generator = np.random.default_rng(seed)
    scales = 1 / np.sqrt(1 + np.arange(dimensions))
    mixing = generator.standard_normal((dimensions, dimensions)) / math.sqrt(dimensions)
    return ((generator.standard_normal((count, dimensions)) * scales) @ mixing + 0.4).astype(np.float32)


def sqrtm_distance(one: Moments, other: Moments) -> float:
    """As most public programs compute it."""
    root = linalg.sqrtm(one.covariance @ other.covariance)
    difference = one.mean - other.mean
    return float(difference @ difference + np.trace(one.covariance + other.covariance) - 2 * np.trace(root).real)


def frechet(title: str, one: Moments, other: Moments, exact: float, skip_scipy: bool) -> Figures:
    """Args: exact: the value by the singular values of a product of factors of both covariances."""

    def ours() -> float:
        return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)

    seconds, value = median_seconds(ours, repeats=5), ours()
    traces = float(np.trace(one.covariance + other.covariance))
    error = abs(value - exact) / traces
    found = {"seconds": seconds, "value": value, "error_of_traces": error}
    text = f"Frechet distance, {one.dimensions} dimensions, {title}: {seconds:.2f} s, wrong by {error:.0e}"
    if not skip_scipy:
        theirs, expected = seconds_of(lambda: sqrtm_distance(one, other))
        ratio, error = theirs / seconds, abs(expected - exact) / traces
        found |= {"sqrtm_seconds": theirs, "ratio_of_sqrtm": ratio, "sqrtm_error_of_traces": error}
        text += f"; scipy's sqrtm {theirs:.2f} s, {ratio:.1f} times that, wrong by {error:.0e}"
    say(text)
    return found


def frechet_cases(dimensions: int, count: int, skip_scipy: bool) -> dict[str, Figures]:
    """Features with a falling spectrum, all directions alike, and fewer vectors than dimensions."""
    half = dimensions // 2 + 1
    generator = np.random.default_rng(2)
    alike = [generator.standard_normal((count, dimensions), np.float32) for _ in range(2)]
    falling = [vectors(count, dimensions, seed) for seed in (0, 1)]
    found = {}
    for title, pair in (
        ("full rank", falling),
        ("full rank, all directions alike", alike),
        ("half rank", [features[:half] for features in falling]),
    ):
        one, other = (Moments.of(features) for features in pair)
        factors = [_factor(features, moments) for features, moments in zip(pair, (one, other), strict=True)]
        root = linalg.svdvals(factors[0].T @ factors[1]).sum()
        difference = one.mean - other.mean
        exact = float(difference @ difference + np.trace(one.covariance + other.covariance) - 2 * root)
        found[f"frechet, {title}"] = frechet(title, one, other, exact, skip_scipy)
    return found


def _factor(features: np.ndarray, moments: Moments) -> np.ndarray:
    """A [D, r] with A A^T = covariance: of few vectors themselves, else of Cholesky."""
    if moments.count > moments.dimensions:
        return np.linalg.cholesky(moments.covariance)
    return (features - moments.mean).T / math.sqrt(moments.count - 1)


def statistics(features: np.ndarray) -> Figures:
    count, dimensions = features.shape

    def stream() -> Moments:
        return Moments.merged(Moments.of(features[start : start + BATCH]) for start in range(0, count, BATCH))

    seconds, rate = seconds_and_rate(stream, numpy_rate)
    fraction = 2 * count * dimensions**2 / seconds / rate
    share = f"{fraction:.2f} of {rate / 1e9:.0f} GFLOP/s"
    say(f"streaming statistics, batches of {BATCH}: {count / seconds:,.0f} vectors/s, {share}")
    return {"vectors_per_second": count / seconds, "fraction_of_matrix_rate": fraction, "matrix_rate": rate}


def kernel(one: np.ndarray, other: np.ndarray) -> Figures:
    subsets, size = 100, min(1000, len(one))
    seconds, rate = seconds_and_rate(lambda: kernel_distances(one, other, subsets, size, seed=0), numpy_rate)
    fraction = subsets * 3 * 2 * size**2 * one.shape[1] / seconds / rate
    say(f"kernel distance, {subsets} subsets of {size}: {seconds:.2f} s, {fraction:.2f} of {rate / 1e9:.0f} GFLOP/s")
    return {"seconds": seconds, "fraction_of_matrix_rate": fraction, "matrix_rate": rate}


def clustered(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Features as a network gives them: not negative, with heavy tails, in clusters; float32 [count, dimensions]."""
    shared, generator = np.random.default_rng(7), np.random.default_rng(seed)
    centres = shared.standard_normal((MODES, 64), np.float32)
    mixing = shared.standard_normal((64, dimensions), np.float32) / 8
    found = np.empty((count, dimensions), np.float32)
    for start in range(0, count, BATCH):
        part = found[start : start + BATCH]
        near = centres[generator.integers(0, MODES, len(part))]
        hidden = near + 0.5 * generator.standard_normal((len(part), 64), np.float32)
        values = hidden @ mixing + 0.3 * generator.standard_normal(part.shape, np.float32)
        part[:] = np.maximum(np.exp(0.7 * values - 0.7) - 0.1, 0)
    return found


def neighbours(reference: int, samples: int, dimensions: int) -> Figures:
    """Precision and recall of this process. Distances within a set are symmetric: half of them are computed."""
    one, other = clustered(reference, dimensions, 0), clustered(samples, dimensions, 1)
    squared_radii(one[:100], 3)  # what a first call costs once
    found: list[tuple[float, float]] = []
    seconds, rate = seconds_and_rate(lambda: found.append(precision_recall(one, other)), matrix_rate)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    distances = reference**2 + samples**2 + reference * samples
    computed = (reference**2 + samples**2) / 2 + reference * samples
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "precision": found[0][0],
        "recall": found[0][1],
        "matrix_rate": rate,
        "fraction_of_matrix_rate_by_all_distances": 2 * distances * dimensions / seconds / rate,
        "fraction_of_matrix_rate_by_3_2_N_M_d": 3 * 2 * reference * samples * dimensions / seconds / rate,
        "fraction_of_matrix_rate_by_computed_distances": 2 * computed * dimensions / seconds / rate,
    }


def neighbours_alone(reference: int, samples: int, dimensions: int) -> Figures:
    """The same in a new process, whose peak memory is its own."""
    program = [sys.executable, __file__, "--neighbours", str(reference), str(samples), "--dimensions", str(dimensions)]
    output = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: Figures = json.loads(output.splitlines()[-1])
    say(
        f"precision and recall, {reference:,} x {samples:,}: {found['seconds']:.1f} s, "
        f"{found['fraction_of_matrix_rate_by_all_distances']:.2f} of {found['matrix_rate'] / 1e9:.0f} GFLOP/s, "
        f"peak {found['peak_bytes'] / 2**30:.2f} GiB"
    )
    return found


def extraction(size: int = 32, width: int = 32, count: int = 5000) -> Figures:
    network = build_network((size, size, 3), 10, width, seed=0)
    forward = ForwardPass(network, BATCH)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    forward(images)
    seconds, rate = seconds_and_rate(lambda: [forward(images) for _ in range(count // BATCH)], matrix_rate)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    flops = sum(2 * math.prod(each.output.shape[1:]) * math.prod(each.kernel.shape[:3]) for each in convolutions)
    per_second = count / seconds
    fraction = flops * per_second / rate
    say(
        f"features of the dataset classifier, {size}x{size}, width {width}: {per_second:,.0f} images/s of "
        f"{flops / 1e6:.0f} MFLOP, {fraction:.2f} of {rate / 1e9:.0f} GFLOP/s"
    )
    return {
        "images_per_second": per_second,
        "flop_count": flops,
        "fraction_of_matrix_rate": fraction,
        "matrix_rate": rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--count", type=int, default=10_000, help="vectors on each side")
    parser.add_argument("--skip-scipy", action="store_true", help="leave out sqrtm, which takes most of the time")
    parser.add_argument("--sizes", nargs="*", default=[f"{a}x{b}" for a, b in SIZES], help="of precision and recall")
    parser.add_argument("--neighbours", nargs=2, type=int, help="precision and recall of these sizes alone, as JSON")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    dimensions = arguments.dimensions
    if arguments.neighbours:
        say(json.dumps(neighbours(*arguments.neighbours, dimensions)))
        return
    figures: dict[str, Figures] = {}
    for size in arguments.sizes:
        counts = [int(count) for count in size.split("x")]
        figures[f"precision and recall, {counts[0]:,} x {counts[1]:,}"] = neighbours_alone(*counts, dimensions)
    figures |= frechet_cases(dimensions, arguments.count, arguments.skip_scipy)
    one, other = (vectors(arguments.count, dimensions, seed) for seed in (0, 1))
    figures |= {"statistics": statistics(one), "kernel": kernel(one, other), "extraction": extraction()}
    if arguments.json:
        write_figures(arguments.json, "harness metrics", figures)


if __name__ == "__main__":
    main()
