"""The metrics against the numbers of torch-fidelity, clean-fid and ADM's evaluator on the same features."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from golden_arrays import Arrays

from harness.metrics.frechet import frechet_distance
from harness.metrics.inception_score import mean_and_deviation, scores_of_equal_splits, scores_of_split_size
from harness.metrics.kernel import kernel_distance_of_all, kernel_distances
from harness.metrics.precision_recall import half_precision_recall, precision_recall, squared_radii
from harness.metrics.statistics import Moments

TORCH_FIDELITY = "toshas/torch-fidelity 0.4.0 metric_"
CLEAN_FID = "GaParmar/clean-fid "
ADM = "openai/guided-diffusion evaluations/evaluator.py "
DEFINITION = "definition evaluated in float64 with numpy (not a peer number)"

Entry = dict[str, Any]
Check = Callable[[Entry, Arrays], None]


def near(actual: float, expected: float, relative: float) -> None:
    assert abs(actual - expected) <= relative * abs(expected), f"{actual!r} is not {expected!r}"


def take(entry: Entry, **fixed: Any) -> None:
    """Removes parameters that are described by this check; another value is another convention."""
    for name, value in fixed.items():
        assert entry.pop(name) == value, f"{name} is not {value!r}: a convention that is not covered"


def sides(entry: Entry, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features in the type that the peer was given."""
    dtype = entry.pop("feature_dtype", "float64")
    assert dtype in ("float32", "float64"), dtype
    return arrays["real"].astype(dtype), arrays["fake"].astype(dtype)


def fid(entry: Entry, arrays: Arrays) -> None:
    """The peers take means, and the squared difference of means, in the type of the features: 1e-7 for float32.

    With fewer vectors than dimensions, their roots of zero eigenvalues add up to 6e-9 of the traces: rounding that
    our route by singular values does not have.
    """
    single = entry["feature_dtype"] == "float32"
    real, fake = sides(entry, arrays)
    parts = [part for features in (real, fake) for part in (features.mean(axis=0), np.cov(features, rowvar=False))]
    value = entry.pop("value")
    allowed = (2e-7 if single else 2e-9) * value
    if min(len(real), len(fake)) <= real.shape[1]:
        allowed = max(allowed, 1e-8 * (np.trace(parts[1]) + np.trace(parts[3])))
    one, other = (Moments.of(features[:17]).add(features[17:]) for features in (real, fake))
    for found in (
        frechet_distance(*parts),
        frechet_distance(one.mean, one.covariance, other.mean, other.covariance),
    ):
        assert abs(found - value) <= allowed, f"{found!r} is not {value!r}"


def kid_torch_fidelity(entry: Entry, arrays: Arrays) -> None:
    take(entry, features_1="fake", features_2="real")
    real, fake = sides(entry, arrays)
    parameters = (entry.pop("kid_subsets"), entry.pop("kid_subset_size"), entry.pop("rng_seed"))
    estimates = kernel_distances(real, fake, *parameters)
    value = entry.pop("value")
    near(estimates.mean(), value.pop("kernel_inception_distance_mean"), 2e-5)
    near(estimates.std(), value.pop("kernel_inception_distance_std"), 5e-5)
    assert not value, value


def kid_clean_fid(entry: Entry, arrays: Arrays) -> None:
    take(entry, feats1="real", feats2="fake")
    real, fake = sides(entry, arrays)
    size = min(entry.pop("max_subset_size"), len(real), len(fake))
    estimates = kernel_distances(real, fake, entry.pop("num_subsets"), size, entry.pop("numpy_random_seed"))
    near(estimates.mean(), entry.pop("value"), 2e-5)


def kid_all(entry: Entry, arrays: Arrays) -> None:
    real, fake = sides(entry, arrays)
    assert f"first {min(len(real), len(fake))} rows" in entry.pop("note")
    near(kernel_distance_of_all(real, fake), entry.pop("value"), 2e-5)


def precision_recall_torch_fidelity(entry: Entry, arrays: Arrays) -> None:
    real, fake = sides(entry, arrays)
    entry.pop("save_cpu_ram")  # two ways to the same numbers
    precision, recall = precision_recall(real, fake, entry.pop("prc_neighborhood"))
    value = entry.pop("value")
    # The peer adds a small constant to its denominators: exact decisions show as 1e-6 relative at most.
    near(precision, value.pop("precision"), 1e-6)
    near(recall, value.pop("recall"), 1e-6)
    near(2 * precision * recall / (precision + recall), value.pop("f_score"), 1e-5)
    assert not value, value


def precision_recall_exact(entry: Entry, arrays: Arrays) -> None:
    """The definition and ADM's float32 path: the same decisions, to the last image."""
    entry.pop("distances", None)
    entry.pop("smallest_relative_margin", None)
    found = precision_recall(*sides(entry, arrays), entry.pop("k"))
    value = entry.pop("value")
    assert found == (value.pop("precision"), value.pop("recall")), found
    assert not value, value


def precision_recall_adm(entry: Entry, arrays: Arrays) -> None:
    if entry["distances"].startswith("float32"):
        precision_recall_exact(entry, arrays)
        return
    assert entry.pop("distances").startswith("float16")
    real, fake = sides(entry, arrays)
    precision, recall = half_precision_recall(real, fake, entry.pop("k"))
    value = entry.pop("value")
    # Half-precision sums depend on the order of addition: up to three images.
    assert abs(precision - value.pop("precision")) * len(fake) < 3.5
    assert abs(recall - value.pop("recall")) * len(real) < 3.5
    assert not value, value


def logits_of(arrays: Arrays) -> np.ndarray:
    return arrays["logits_times_4"].astype(np.float64) / 4


def inception_score_torch_fidelity(entry: Entry, arrays: Arrays) -> None:
    seed = entry.pop("rng_seed") if entry.pop("shuffle") else None
    mean, deviation = mean_and_deviation(scores_of_equal_splits(logits_of(arrays), entry.pop("splits"), seed))
    value = entry.pop("value")
    near(mean, value.pop("inception_score_mean"), 1e-12)
    assert abs(deviation - value.pop("inception_score_std")) < 1e-12
    assert not value, value


def inception_score_split_size(relative: float) -> Check:
    def check(entry: Entry, arrays: Arrays) -> None:
        take(entry, shuffle=False)
        logits, size = logits_of(arrays), entry.pop("split_size")
        expected = entry.pop("splits", None)
        assert expected is None or expected == [len(logits[i : i + size]) for i in range(0, len(logits), size)]
        near(float(np.mean(scores_of_split_size(logits, size))), entry.pop("value"), relative)

    return check


KNOWN: dict[tuple[str, str], Check] = {
    ("fid", f"{TORCH_FIDELITY}fid"): fid,
    ("fid", f"{CLEAN_FID}fid_from_feats"): fid,
    ("fid", f"{ADM}FIDStatistics.frechet_distance"): fid,
    ("kid", f"{TORCH_FIDELITY}kid"): kid_torch_fidelity,
    ("kid_all", f"{TORCH_FIDELITY}kid"): kid_all,
    ("kid", f"{CLEAN_FID}kernel_distance"): kid_clean_fid,
    ("precision_recall", f"{TORCH_FIDELITY}prc"): precision_recall_torch_fidelity,
    ("precision_recall", f"{ADM}ManifoldEstimator (CPU)"): precision_recall_adm,
    ("precision_recall", DEFINITION): precision_recall_exact,
    ("inception_score", f"{TORCH_FIDELITY}isc"): inception_score_torch_fidelity,
    ("inception_score", f"{ADM}Evaluator.compute_inception_score (float32 softmax of the given logits)"): (
        inception_score_split_size(1e-6)
    ),
    ("inception_score", DEFINITION): inception_score_split_size(1e-12),
}


def check_results(folder: Path) -> None:
    """Every entry of metrics.json by its implementation's convention, and every array of the features."""
    results = json.loads((folder / "metrics" / "metrics.json").read_text())["results"]
    assert results, "metrics.json has no results"
    for name, entries in results.items():
        file = name if name.startswith("logits") else f"features_{name}"
        arrays = Arrays(folder / "metrics" / f"{file}.npz")
        for original in entries:
            entry = dict(original)
            entry["value"] = dict(entry["value"]) if isinstance(entry["value"], dict) else entry["value"]
            kind = (entry.pop("metric"), entry.pop("implementation"))
            assert kind in KNOWN, f"metrics.json, {name}: not covered: {kind}"
            KNOWN[kind](entry, arrays)
            assert not entry, f"metrics.json, {name}, {kind}: not covered: {entry}"
        arrays.close()


def check_radii(folder: Path) -> None:
    """Squared distances to the k-th neighbour, against ADM's float32 ones."""
    radii = Arrays(folder / "metrics" / "adm_radii.npz")
    for name in radii.names():
        data, k, which = name.split("/")
        features = np.load(folder / "metrics" / f"features_{data}.npz")[which.removesuffix("_radii_squared")]
        found = squared_radii(features, int(k.removeprefix("k")))
        np.testing.assert_allclose(found, radii[name], rtol=2e-5, err_msg=name)
    radii.close()


def check_files_are_used(folder: Path) -> None:
    """Features that no entry of metrics.json and no radii speak of would be compared with nothing."""
    results = json.loads((folder / "metrics" / "metrics.json").read_text())["results"]
    used = {name if name.startswith("logits") else f"features_{name}" for name in results} | {"adm_radii"}
    there = {path.stem for path in (folder / "metrics").glob("*.npz")}
    assert there == used, f"only in the folder: {sorted(there - used)}; missing: {sorted(used - there)}"


COVERS: set[str] = {
    "metrics/adm_radii.npz",
    "metrics/features_d256.npz",
    "metrics/features_d64.npz",
    "metrics/features_rank_deficient.npz",
    "metrics/logits10.npz",
    "metrics/logits1008.npz",
    "metrics/metrics.json",
}

CHECKS: dict[str, Callable[[Path], None]] = {
    "metrics/results": check_results,
    "metrics/radii": check_radii,
    "metrics/files": check_files_are_used,
}
