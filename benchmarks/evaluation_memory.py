"""Peak memory of an evaluation over the number of samples: FID and inception score through the dataset classifier.

    python benchmarks/evaluation_memory.py [--counts 5000 50000] [--json FILE]

Each count is scored by `python -m harness.evaluate` in a process of its own, from one npz file, after a first run that
leaves the trained classifier and the reference's features in the cache: what is left is what grows with the samples.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from yardsticks import write_figures

from zoo.console import say

CLASSES = 10
SIDE = 32


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose colour tells its class: uint8 [count, 32, 32, 3] and labels [count]."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    found = generator.integers(0, 128, (count, SIDE, SIDE, 3), dtype=np.uint8)
    found[..., 0] += (labels * 12).astype(np.uint8)[:, None, None]
    return found, labels


def write(path: Path, count: int, seed: int) -> Path:
    pixels, labels = images(count, seed)
    np.savez(path, arr_0=pixels, arr_1=labels)
    return path


def peak_of(reference: Path, samples: Path, cache: Path) -> tuple[int, float]:
    """Bytes and seconds of one evaluation."""
    program = [sys.executable, "-m", "harness.evaluate", str(reference), str(samples), "--metrics", "fid,is"]
    program += ["--epochs", "1", "--cache", str(cache)]
    began = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(program)} ended with exit code {process.returncode}")
    return used.ru_maxrss * 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 50_000], help="numbers of samples")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = write(folder / "reference.npz", 5000, 0)
        peak_of(reference, write(folder / "first.npz", 500, 1), folder / "cache")
        first = None
        for count in arguments.counts:
            peak, seconds = peak_of(reference, write(folder / f"{count}.npz", count, 2), folder / "cache")
            first = first or peak
            figures[f"{count:,} samples"] = {
                "peak_bytes": peak,
                "seconds": seconds,
                f"ratio_to_{arguments.counts[0]}_samples": peak / first,
            }
            say(f"{count:,} samples: peak {peak / 2**20:,.0f} MiB, {peak / first:.2f} of the first; {seconds:.0f} s")
    if arguments.json:
        write_figures(arguments.json, "evaluation memory", figures)


if __name__ == "__main__":
    main()
