"""The mathematics of the metrics at the size of Inception features, each beside a yardstick of the same run.

    python benchmarks/harness_metrics.py [--dimensions 2048] [--count 10000] [--skip-scipy] [--json FILE]

Frechet distance beside scipy.linalg.sqrtm of the same matrices, each once; statistics, kernel distance, precision and
recall as FLOP/s over NumPy's float64 matrix product, feature extraction over TensorFlow's float32 matrix product, both
measured before and after each.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.console import import_tensorflow, say

import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from scipy import linalg  # noqa: E402
from yardsticks import matrix_rate, median_seconds, write_figures  # noqa: E402

from harness.features.devices import ForwardPass  # noqa: E402
from harness.features.network import BATCH  # noqa: E402
from harness.features.small_network import build_network  # noqa: E402
from harness.metrics.frechet import frechet_distance  # noqa: E402
from harness.metrics.kernel import kernel_distances  # noqa: E402
from harness.metrics.precision_recall import precision_recall  # noqa: E402
from harness.metrics.statistics import Moments  # noqa: E402

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


def frechet(title: str, one: Moments, other: Moments, skip_scipy: bool) -> Figures:
    ours, value = seconds_of(lambda: frechet_distance(one.mean, one.covariance, other.mean, other.covariance))
    found = {"seconds": ours, "value": value}
    text = f"Frechet distance, {one.dimensions} dimensions, {title}: {ours:.2f} s"
    if not skip_scipy:
        theirs, expected = seconds_of(lambda: sqrtm_distance(one, other))
        found |= {"sqrtm_seconds": theirs, "sqrtm_value": expected, "ratio_of_sqrtm": theirs / ours}
        text += f"; scipy's sqrtm {theirs:.2f} s, {theirs / ours:.1f} times that; values {value:.10g}, {expected:.10g}"
    say(text)
    return found


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


def neighbours(one: np.ndarray, other: np.ndarray) -> Figures:
    seconds, rate = seconds_and_rate(lambda: precision_recall(one, other), numpy_rate)
    fraction = 3 * 2 * len(one) ** 2 * one.shape[1] / seconds / rate
    share = f"{fraction:.2f} of {rate / 1e9:.0f} GFLOP/s"
    say(f"precision and recall, {len(one):,} x {len(one):,}: {seconds:.1f} s, {share}")
    return {"count": len(one), "seconds": seconds, "fraction_of_matrix_rate": fraction, "matrix_rate": rate}


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
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    one, other = (vectors(arguments.count, arguments.dimensions, seed) for seed in (0, 1))
    half = arguments.dimensions // 2
    figures = {
        "frechet_full_rank": frechet("full rank", Moments.of(one), Moments.of(other), arguments.skip_scipy),
        "frechet_half_rank": frechet(
            "half rank", Moments.of(one[: half + 1]), Moments.of(other[: half + 1]), arguments.skip_scipy
        ),
    }
    figures |= {
        "statistics": statistics(one),
        "kernel": kernel(one, other),
        "precision_recall": neighbours(one, other),
        "extraction": extraction(),
    }
    if arguments.json:
        write_figures(arguments.json, "harness metrics", figures)


if __name__ == "__main__":
    main()
