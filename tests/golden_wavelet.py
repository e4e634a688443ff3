"""The 5/3 wavelet against lifting as in JPEG 2000 and against PyWavelets' `bior2.2`, in float64 and in float32."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from golden_arrays import Arrays, assert_near

from zoo.networks import wavelet

BANDS = ("LL", "LH", "HL", "HH")
# PyWavelets' name and scale of each band.
PYWT = {"LL": ("cA", 2.0), "LH": ("cH", -1.0), "HL": ("cV", -1.0), "HH": ("cD", 0.5)}
# How it lays the bands: their offset against those here, and how many entries at each border follow another rule.
RULES = {"reflect": (1, 0), "symmetric": (1, 1), "periodization": (0, 1)}
TOLERANCES = {"float64": 1e-13, "float32": 3e-6}


def bands(x: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The four bands of x [H, W, C]."""
    ll, details = wavelet.decompose(x[None].astype(dtype))
    found = dict(zip(BANDS, [ll, *np.split(np.asarray(details), 3, axis=-1)], strict=True))
    assert np.asarray(ll).dtype == dtype
    return {name: np.asarray(value)[0] for name, value in found.items()}


def check_lifting(arrays: Arrays) -> None:
    """Both levels at mirrored borders; with a periodic continuation what no border reaches."""
    for dtype, tolerance in TOLERANCES.items():
        for rule, inside in {"whole_sample_symmetric": slice(None), "periodic": slice(1, -1)}.items():
            x = arrays["x"]
            for level in ("level1", "level2"):
                stored = {band: arrays[f"lifting53/{rule}/{level}/{band}"] for band in BANDS}
                for band, value in bands(x, dtype).items():
                    assert_near(
                        value[inside, inside],
                        stored[band][inside, inside],
                        tolerance,
                        f"{rule}/{level}/{band}, {dtype}",
                    )
                x = stored["LL"]


def check_pywavelets(arrays: Arrays) -> None:
    """The relation that README.md and wavelet.json state; of other border rules what no border reaches."""
    for dtype, tolerance in TOLERANCES.items():
        for rule, (offset, border) in RULES.items():
            x = arrays["x"]
            for level in ("level1", "level2"):
                stored = {band: arrays[f"pywt/{rule}/{level}/{name}"] for band, (name, _) in PYWT.items()}
                for band, value in bands(x, dtype).items():
                    scaled = PYWT[band][1] * value[border : len(value) - border, border : len(value) - border]
                    start, end = offset + border, offset + len(value) - border
                    assert_near(scaled, stored[band][start:end, start:end], 2 * tolerance, f"{rule}/{level}/{band}")
                x = stored["LL"]


def check_filters(arrays: Arrays) -> None:
    """The responses to impulses are the package's filters, up to the scales of the bands."""
    impulses = np.broadcast_to(
        np.eye(16)[:, None, :, None], (16, 16, 16, 1)
    ).copy()  # at each column, alike in all rows
    ll, details = wavelet.decompose(impulses)
    low, high = np.asarray(ll)[:, 0, :, 0], np.split(np.asarray(details), 3, axis=-1)[1][:, 0, :, 0]
    # centred on the even sample 8 and the odd sample 9
    assert_near(np.sqrt(2) * low[6:11, 4], nonzero(arrays["filters/dec_lo"]), 1e-12, "dec_lo")
    assert_near(-np.sqrt(0.5) * high[8:11, 4], nonzero(arrays["filters/dec_hi"]), 1e-12, "dec_hi")
    unit = np.zeros((1, 8, 8, 1))
    unit[:, :, 4] = 1
    nothing = np.zeros((1, 8, 8, 3))
    back_low = np.asarray(wavelet.compose(unit, nothing))[0, 4, :, 0]
    back_high = np.asarray(wavelet.compose(0 * unit, np.concatenate([0 * unit, unit, 0 * unit], axis=-1)))[0, 4, :, 0]
    assert_near(np.sqrt(0.5) * back_low[7:10], nonzero(arrays["filters/rec_lo"]), 1e-12, "rec_lo")
    assert_near(-np.sqrt(2) * back_high[7:12], nonzero(arrays["filters/rec_hi"]), 1e-12, "rec_hi")


def nonzero(values: np.ndarray) -> np.ndarray:
    return values[np.abs(values) > 1e-12]


def check_arrays(golden: Path) -> None:
    arrays = Arrays(golden / "wavelet" / "wavelet.npz")
    for check in (check_lifting, check_pywavelets, check_filters):
        check(arrays)
    arrays.close()


def check_relation(golden: Path) -> None:
    """What is taken here for the package's scales and offsets is what the file states."""
    facts = json.loads((golden / "wavelet" / "wavelet.json").read_text())
    for relation, stated in facts["relation_to_lifting53_level1"].items():
        name, scale = PYWT[relation.rpartition("/")[2]]
        assert f"/{name} vs " in relation
        assert stated["scale"] == scale, relation
        assert stated["offset"] == [RULES[relation.split("/")[0]][0]] * 2, relation


CHECKS: dict[str, Callable[[Path], None]] = {"wavelet/arrays": check_arrays, "wavelet/relation": check_relation}
COVERS = {"wavelet/wavelet.npz", "wavelet/wavelet.json"}
