"""The mathematics of the metrics: worked by hand, derived a second time, and against reference numbers."""

import inspect
from pathlib import Path

import golden_metrics
import numpy as np
import pytest
from scipy import linalg

from harness.cache import Cache
from harness.images import ArrayImages, RealImages
from harness.metrics.classification_accuracy import ClassificationAccuracy
from harness.metrics.frechet import FID, frechet_distance, trace_of_root
from harness.metrics.inception_score import (
    ADMInceptionScore,
    InceptionScore,
    inception_score,
    scores_of_equal_splits,
    scores_of_split_size,
)
from harness.metrics.kernel import KID, kernel_distance, kernel_distance_of_all, kernel_distances
from harness.metrics.metric import Evidence, Features, Metric, thousands
from harness.metrics.precision_recall import PrecisionRecall, precision_recall, squared_radii
from harness.metrics.statistics import Moments
from zoo import registry
from zoo.console import UserError

GOLDEN = Path(__file__).parent / "golden"
RANDOM = np.random.default_rng(0)


# ---- reference numbers


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_metrics.CHECKS)
def test_equals_the_reference_implementations(name):
    golden_metrics.CHECKS[name](GOLDEN)


def test_an_unknown_golden_entry_fails(tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    for file in (GOLDEN / "metrics").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text.replace('"metric": "kid_all"', '"metric": "kid_some"'))
    with pytest.raises(AssertionError, match="not covered"):
        golden_metrics.check_results(tmp_path)


# ---- streaming statistics


def test_moments_equal_numpy():
    features = RANDOM.normal(3, 2, (50, 7)).astype(np.float32)
    moments = Moments.of(features)
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-12)


def test_moments_merge_to_the_same_whatever_the_order():
    features = RANDOM.normal(1e4, 1, (600, 5))  # a large common offset: sums of squares would lose it
    whole = Moments.of(features)
    parts = [Moments.of(part) for part in np.split(features, [1, 7, 300, 300, 555])]
    for order in (range(6), reversed(range(6)), (3, 0, 5, 1, 4, 2)):
        merged = Moments.merged(parts[i] for i in order)
        assert merged.count == 600
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(
            merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12 * np.trace(whole.covariance)
        )
    again = Moments.merged(parts)
    assert np.array_equal(again.scatter, Moments.merged(parts).scatter)


def test_moments_refuse_what_is_not_a_number():
    with pytest.raises(ValueError, match="1 of 3 feature vectors"):
        Moments.of(np.array([[1.0, 2.0], [np.nan, 0.0], [3.0, 4.0]]))
    with pytest.raises(ValueError, match="at least 2"):
        _ = Moments.of(np.ones((1, 3))).covariance


# ---- Frechet distance


def test_frechet_distance_of_one_dimension_by_hand():
    # |1 - 4|^2 + (2 - 5)^2 with standard deviations 2 and 5
    assert frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([4.0]), np.array([[25.0]])) == pytest.approx(
        18
    )


def test_frechet_distance_equals_the_matrix_root():
    one, other = (Moments.of(RANDOM.normal(size=(200, 20)) @ RANDOM.normal(size=(20, 20))) for _ in range(2))
    root = linalg.sqrtm(one.covariance @ other.covariance).real
    assert trace_of_root(one.covariance, other.covariance) == pytest.approx(np.trace(root), rel=1e-10)


@pytest.mark.parametrize("counts", [(10, 200), (200, 10), (10, 15), (15, 10)])
def test_frechet_distance_of_singular_covariances(counts):
    vectors = [RANDOM.normal(size=(count, 30)) * np.logspace(0, -2, 30) for count in counts]
    # S = A A^T with A from the vectors themselves: the sum of the singular values of A^T B is exact.
    factors = [(x - x.mean(axis=0)).T / np.sqrt(len(x) - 1) for x in vectors]
    expected = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    covariances = [np.cov(x, rowvar=False) for x in vectors]
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    assert abs(trace_of_root(*covariances) - expected) < 1e-8 * traces


def test_frechet_distance_with_dead_features_is_zero_against_itself():
    features = np.maximum(RANDOM.normal(size=(100, 12)), 0)
    features[:, 3] = 0
    moments = Moments.of(features)
    distance = frechet_distance(moments.mean, moments.covariance, moments.mean, moments.covariance)
    assert abs(distance) < 1e-10


# ---- inception score


def test_inception_score_of_certain_and_of_blind_classifiers():
    certain = np.repeat(np.eye(4) * 1000, 5, axis=0)
    assert inception_score(certain) == pytest.approx(4)
    assert inception_score(np.zeros((20, 4))) == pytest.approx(1)
    assert inception_score(certain[:5]) == pytest.approx(1)


def test_inception_score_splits_in_both_conventions():
    logits = np.repeat(np.eye(4) * 1000, 5, axis=0)  # sorted by class
    assert scores_of_equal_splits(logits, 4) == pytest.approx([1, 1, 1, 1])
    assert np.mean(scores_of_equal_splits(logits, 4, seed=1)) > 1.5
    assert scores_of_split_size(logits, 10) == pytest.approx([2, 2])
    assert len(scores_of_split_size(logits, 15)) == 2


# ---- kernel distance


def test_kernel_distance_by_hand():
    # d = 1: k(x, y) = (x y + 1)^3; pairs (1, 2) -> 27, (0, 1) -> 1, and 1, 8, 1, 27 across
    assert kernel_distance(np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])) == pytest.approx(27 + 1 - 2 * 37 / 4)


def test_kernel_distance_is_unbiased():
    features = RANDOM.normal(size=(2000, 6))
    estimates = kernel_distances(features[:1000], features[1000:], subsets=200, size=50, seed=0)
    assert abs(estimates.mean()) < 4 * estimates.std() / np.sqrt(200) + 1e-3
    assert (estimates < 0).any()
    assert kernel_distance_of_all(features[:1000], features[1000:] + 1) > 0.1


# ---- precision and recall


def test_precision_and_recall_by_hand():
    # k = 1: real balls of radius 1 at 0, 1 and of radius 9 at 10; sample balls of radius 100 at 5 and 105
    real, samples = np.array([[0.0], [1.0], [10.0]]), np.array([[5.0], [105.0]])
    np.testing.assert_allclose(squared_radii(real, 1), [1, 1, 81])
    assert precision_recall(real, samples, k=1) == (0.5, 1.0)


def test_precision_and_recall_are_not_swapped():
    real = RANDOM.normal(size=(500, 4))
    narrow = 0.2 * RANDOM.normal(size=(500, 4))  # all inside, covering little
    precision, recall = precision_recall(real, narrow)
    assert precision > 0.95
    assert recall < 0.5


def test_precision_and_recall_of_blocks_equal_the_definition(monkeypatch):
    real, samples = RANDOM.normal(size=(61, 5)), RANDOM.normal(0.5, 1, size=(47, 5))

    def inside(points, centres):
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        radii = np.sort(distances, axis=1)[:, 3]
        return np.mean((np.linalg.norm(points[:, None] - centres[None], axis=2) <= radii).any(axis=1))

    monkeypatch.setattr("harness.metrics.precision_recall.BLOCK", 16)
    assert precision_recall(real, samples) == (inside(samples, real), inside(real, samples))


# ---- the family

MEMBERS = [
    FID(),
    InceptionScore(splits=2),
    ADMInceptionScore(split_size=20),
    KID(subsets=3, subset_size=10),
    PrecisionRecall(),
    ClassificationAccuracy(width=2, epochs=1, batch=8),
]


def evidence(seed: int, count: int = 40) -> Evidence:
    generator = np.random.default_rng(seed)
    images = ArrayImages(
        generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 4, f"images {seed}"
    )
    pooled = generator.normal(size=(count, 6)).astype(np.float32)
    return Evidence(images, Features(Moments.of(pooled), pooled, generator.normal(size=(count, 4)).astype(np.float32)))


@pytest.mark.parametrize("metric", MEMBERS, ids=lambda metric: type(metric).__name__)
def test_every_metric_keeps_the_contract(metric, tmp_path):
    reference, samples = evidence(0), evidence(1)
    real = RealImages(reference.images, reference.images, evidence(2).images)
    metric.check(real=real, samples=samples.images)
    numbers = metric.compute(reference=reference, samples=samples, real=real, cache=Cache(tmp_path))
    assert all(type(value) is float and np.isfinite(value) for value in numbers.values())
    assert set(metric.protocol(2000, "some network")) <= set(numbers)
    assert all("2k" in title for title in metric.protocol(2000, "some network").values())
    pair = (reference, evidence(3))
    floor = metric.floor(pair=pair, count=40, real=real, cache=Cache(tmp_path))
    assert set(floor) == set(numbers)
    parameters = inspect.signature(metric.compute).parameters.values()
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)


@pytest.mark.parametrize("metric", MEMBERS, ids=lambda metric: type(metric).__name__)
def test_every_metric_refuses_too_few_samples(metric):
    one = ArrayImages(np.zeros((1, 8, 8, 3), np.uint8), None, "one")
    real = RealImages(one, one, one)
    with pytest.raises(UserError):
        metric.check(real=real, samples=one)


def test_the_registry_lists_every_metric():
    listed = {name for name, component in registry.load().components.items() if component.family == "metrics"}
    assert listed == {type(metric).__name__ for metric in MEMBERS}
    assert {name for name in listed if not issubclass(registry.load().components[name].load(), Metric)} == set()


def test_counts_read_as_people_write_them():
    assert [thousands(count) for count in (50_000, 2500, 2000, 512, 1234)] == ["50k", "2.5k", "2k", "512", "1234"]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: InceptionScore(splits=0), "splits"),
        (lambda: ADMInceptionScore(split_size=0), "split_size"),
        (lambda: KID(subset_size=1), "subset_size"),
        (lambda: PrecisionRecall(k=0), "k must"),
        (lambda: PrecisionRecall(k=5, reference_count=5), "reference_count"),
        (lambda: ClassificationAccuracy(epochs=0), "epochs"),
        (lambda: ClassificationAccuracy(mirror=2.0), "mirror"),
    ],
)
def test_constructors_name_what_is_out_of_range(build, named):
    with pytest.raises(ValueError, match=named):
        build()
