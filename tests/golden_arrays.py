"""Reference arrays that know which of them were compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np


class Arrays:
    """The arrays of one npz file; `close` fails on those that no comparison has touched."""

    def __init__(self, path: Path) -> None:
        self.path, self.arrays = path, dict(np.load(path))
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.arrays[name]

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self.arrays if name.startswith(prefix)]

    def close(self) -> None:
        unused = sorted(set(self.arrays) - self.used)
        assert not unused, f"{self.path.name}: not covered: {unused[:20]}"


class Tolerances:
    """The rounding error that a float32 implementation may show: five times the observed one."""

    def __init__(self, folder: Path) -> None:
        self.table = json.loads((folder / "tolerances.json").read_text())

    def __call__(self, name: str) -> float:
        return 5 * max(self.table[name]["max_abs_err"], 1e-7 * self.table[name]["max_abs_value"], 1e-9)


def channels_last(x: np.ndarray) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(x, -3, -1)


def assert_near(actual: Any, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Absolute comparison that names the array."""
    difference = float(np.max(np.abs(np.asarray(actual, np.float64) - expected))) if expected.size else 0.0
    assert np.shape(actual) == expected.shape, f"{name}: shape {np.shape(actual)}, expected {expected.shape}"
    assert difference <= tolerance, f"{name}: off by {difference:.3g}, allowed {tolerance:.3g}"
