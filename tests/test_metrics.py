"""The mathematics of the metrics: worked by hand, derived a second time, and against reference numbers."""

import inspect
from pathlib import Path

import golden_metrics
import numpy as np
import pytest
from scipy import linalg

from harness.cache import Cache
from harness.images import ArrayImages, RealImages
from harness.metrics import distances, neighbours
from harness.metrics.classification_accuracy import ClassificationAccuracy
from harness.metrics.frechet import FID, SFID, HeldOutFID, frechet_distance, trace_of_root, trace_of_root_by_factors
from harness.metrics.inception_score import (
    ADMInceptionScore,
    InceptionScore,
    inception_score,
    scores_of_equal_splits,
    scores_of_split_size,
)
from harness.metrics.kernel import KID, kernel_distance, kernel_distance_of_all, kernel_distances, standard_error
from harness.metrics.metric import Evidence, Features, Metric, thousands
from harness.metrics.neighbours import nearest
from harness.metrics.order import come_sorted, runs_score
from harness.metrics.precision_recall import (
    PrecisionRecall,
    half_precision_recall,
    precision_recall,
    squared_radii,
)
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


@pytest.mark.parametrize("offset", [0, 1, 1e4])  # a large common offset: sums of squares would lose the rest
@pytest.mark.parametrize("seed", range(4))
def test_moments_merge_to_the_same_whatever_the_order(offset, seed):
    generator = np.random.default_rng(seed)
    features = offset + generator.normal(size=(600, 5)) * np.logspace(0, -2, 5)
    whole = Moments.of(features)
    cuts = np.sort(generator.integers(0, 601, generator.integers(1, 12)))  # empty parts among them
    parts = [Moments.of(part) for part in np.split(features, cuts)]
    for _ in range(5):
        merged = Moments.merged([parts[index] for index in generator.permutation(len(parts))])
        assert merged.count == 600
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12 * (offset + 1))
        # An entry near zero is a difference of large ones, so it is held against the variance of all.
        assert np.abs(merged.covariance - whole.covariance).max() < 1e-12 * np.trace(whole.covariance)


@pytest.mark.parametrize("seed", range(3))
def test_moments_merge_to_the_bit_by_the_index_of_shards(seed):
    generator = np.random.default_rng(seed)
    features = generator.normal(1e3, 1, (500, 6)).astype(np.float32)
    shards = dict(enumerate(np.array_split(features, 7)))
    first = Moments.merged(Moments.of(shards[index]) for index in sorted(shards))
    made = {index: Moments.of(shards[index]) for index in generator.permutation(7)}  # by workers, in any order
    again = Moments.merged(made[index] for index in sorted(made))
    assert np.array_equal(again.mean, first.mean)
    assert np.array_equal(again.scatter, first.scatter)
    assert np.array_equal(first.scatter, first.scatter.T)


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


def spectra(dimensions: int = 160) -> dict[str, np.ndarray]:
    index = 1.0 + np.arange(dimensions)
    steps = {
        f"step of {small:g}": np.where(index < dimensions // 2, 1.0, small) for small in (1e-6, 1e-7, 1e-10, 1e-13)
    }
    return (
        {f"power {power}": index**-power for power in (0.5, 1, 2, 3, 4)} | steps | {"exponential": 10 ** (-index / 14)}
    )


@pytest.mark.parametrize("basis", ["same", "near", "other"])
@pytest.mark.parametrize("name", spectra())
def test_frechet_distance_keeps_its_promise_for_every_spectrum(name, basis):
    spectrum = spectra()[name]
    generator = np.random.default_rng(5)
    one = np.linalg.qr(generator.normal(size=(160, 160)))[0]
    turned = {
        "same": one,
        "near": one + 0.003 * generator.normal(size=one.shape),
        "other": generator.normal(size=one.shape),
    }
    other = np.linalg.qr(turned[basis])[0]
    factors = [one * np.sqrt(spectrum), other * np.sqrt(1.3 * spectrum)]
    expected = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    covariances = [factor @ factor.T for factor in factors]
    found = trace_of_root(*covariances)
    assert abs(found - expected) < 1e-8 * sum(np.trace(covariance) for covariance in covariances)


def test_frechet_distance_of_singular_factors_by_either_route(monkeypatch):
    factors = [RANDOM.normal(size=(30, rank)) for rank in (12, 9)]
    quick = trace_of_root_by_factors(*factors, traces=1e6)
    assert trace_of_root_by_factors(*factors, traces=0) == pytest.approx(quick, rel=1e-11)
    assert trace_of_root_by_factors(factors[0], np.zeros((30, 0)), traces=1) == 0


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


def test_inception_score_warns_of_samples_sorted_by_class(tmp_path):
    logits = np.repeat(np.eye(4) * 1000, 25, axis=0).astype(np.float32)
    shuffled = np.random.default_rng(0).permutation(100)
    for metric, name, beside in (
        (InceptionScore(splits=4), "is_mean", "is_shuffled"),
        (ADMInceptionScore(split_size=25), "is_adm", "is_adm_shuffled"),
    ):
        for labels in (np.arange(100) // 25, None):  # by labels, or by what the network sees
            come = {}
            for order in (np.arange(100), shuffled):
                images = ArrayImages(np.zeros((100, 2, 2, 3), np.uint8), None if labels is None else labels[order], "s")
                samples = Evidence(images, Features(Moments.of(logits[order]), None, logits[order]))
                real = RealImages(images, images, images)
                found = metric.compute(reference=samples, samples=samples, real=real, cache=Cache(tmp_path))
                warned = metric.warnings(reference=samples, samples=samples)
                assert found["is_one_split"] == pytest.approx(4)
                assert set(found) <= set(metric.protocol(100, "network"))
                come[bool(warned)] = found
                if warned:
                    assert warned[0].startswith("sorted-by-class: s comes sorted by ")
                    assert beside in warned[0]
            assert come[True][name] == pytest.approx(1)
            assert come[True][beside] > 3
            assert beside not in come[False]
            assert come[False][name] > 3


def test_runs_test_by_hand_and_by_simulation():
    # a a b b: orders of 2 + 2 have 3 runs on average (1 + (16 - 8) / 4), variance 2/3
    assert runs_score(np.array([0, 0, 1, 1])) == pytest.approx((2 - 3) / np.sqrt(2 / 3))
    labels = np.repeat(np.arange(5), [100, 50, 20, 20, 10])
    scores = [runs_score(RANDOM.permutation(labels)) for _ in range(2000)]
    assert np.mean(scores) == pytest.approx(0, abs=0.1)
    assert np.std(scores) == pytest.approx(1, abs=0.1)
    assert come_sorted(labels)
    assert not come_sorted(np.arange(200) % 5)  # one after another: every part has them all
    assert not come_sorted(np.zeros(50, int))
    assert not come_sorted(np.zeros(1, int))


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


def test_the_standard_error_of_the_kernel_distance_is_its_deviation_over_experiments():
    found, errors = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        one, other = generator.normal(size=(300, 4)), generator.normal(0.4, 1, (300, 4))
        estimates = kernel_distances(one, other, subsets=60, size=100, seed=0)
        found.append(estimates.mean())
        errors.append(standard_error(estimates, 100, 300))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.3)
    with pytest.raises(ValueError, match="leave out"):
        standard_error(estimates, 300, 300)


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


def defined(centres: np.ndarray, points: np.ndarray, k: int = 3) -> tuple[np.ndarray, float]:
    """Radii of balls and the share of points inside one, as the definition says in float64."""

    def squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.stack([((row - other) ** 2).sum(axis=1) for row in one])

    centres, points = centres.astype(np.float64), points.astype(np.float64)
    own = squared(centres, centres)
    np.fill_diagonal(own, np.inf)
    radii = np.sort(own, axis=1)[:, k - 1]
    return radii, float((squared(centres, points) <= radii[:, None]).any(axis=0).mean())


def hard_vectors() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sets of vectors in which float32 products decide little."""
    generator = np.random.default_rng(3)
    modes = generator.normal(size=(6, 30))

    def near(spread: float, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        sizes = (90, 80)
        sets = (modes[generator.integers(0, 6, n)] + spread * generator.normal(size=(n, 30)) for n in sizes)
        one, other = (found.astype(dtype) for found in sets)
        return one, other

    plain = generator.normal(size=(90, 20))
    return {
        "plain": (plain, generator.normal(0.2, 1, size=(80, 20))),
        "far from zero": ((1e5 + plain).astype(np.float32), generator.normal(1e5, 1, (80, 20)).astype(np.float32)),
        "heavy tails": (np.exp(3 * plain), np.exp(3 * generator.normal(size=(80, 20)))),
        "exact ties": (generator.integers(0, 3, (90, 4)).astype(np.float32), generator.integers(0, 4, (80, 4))),
        "on a line": (generator.integers(0, 60, (90, 1)).astype(np.float32), generator.integers(0, 60, (80, 1))),
        "near copies": near(1e-5, np.float32),
        "nearer copies": near(1e-11, np.float64),
        "copies": (modes[generator.integers(0, 6, 90)], np.repeat(modes[:4], 20, axis=0)),
        "one point": (np.ones((9, 5)), np.ones((8, 5))),
        "copied samples": (plain, plain[:70]),
        "tiny": (1e-25 * plain, 1e-25 * plain[::-1] + 1e-27),
        "huge": (1e25 * plain, 1e25 * plain[::-1] + 1e23),
        "as few as can be": (plain[:4], plain[10:15]),
    }


@pytest.mark.parametrize("few", [distances.FEW, 10], ids=["by bounds", "by float64"])
@pytest.mark.parametrize("block", [7, 16, distances.BLOCK])
@pytest.mark.parametrize("name", hard_vectors())
def test_precision_and_recall_decide_as_the_definition(name, block, few, monkeypatch):
    real, samples = hard_vectors()[name]
    monkeypatch.setattr(distances, "BLOCK", block)
    for module in ("neighbours", "precision_recall"):
        monkeypatch.setattr(f"harness.metrics.{module}.FEW", few)
    if few == 10:
        monkeypatch.setattr(neighbours, "SAMPLE", 5)
        monkeypatch.setattr(neighbours, "CROWDED", 5)
    radii, precision = defined(real, samples)
    _, recall = defined(samples, real)
    assert precision_recall(real, samples) == (precision, recall)
    assert np.array_equal(squared_radii(real, 3), radii)


def test_half_precision_decides_nearly_the_same():
    real, samples = RANDOM.normal(size=(300, 16)), RANDOM.normal(0.3, 1, size=(200, 16))
    exact, half = precision_recall(real, samples), half_precision_recall(real, samples)
    assert abs(exact[0] - half[0]) * 200 < 5
    assert abs(exact[1] - half[1]) * 300 < 5


def test_precision_and_recall_refuse_what_is_not_a_number():
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(np.full((5, 2), np.nan), np.ones((5, 2)))
    with pytest.raises(ValueError, match="3-th neighbour needs more than 3 vectors, got 3"):
        precision_recall(np.ones((3, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        precision_recall(np.ones((5, 3)), np.ones((5, 2)))


# ---- nearest neighbours


@pytest.mark.parametrize("block", [16, distances.BLOCK])
def test_nearest_neighbours_are_those_of_all_distances(block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    queries, others = RANDOM.normal(size=(40, 6)).astype(np.float32), RANDOM.normal(size=(90, 6)).astype(np.float32)
    squared = ((queries.astype(float)[:, None] - others.astype(float)) ** 2).sum(axis=2)
    indices, found = nearest(queries, others, 4)
    assert np.array_equal(indices, np.argsort(squared, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(found, np.sort(squared, axis=1)[:, :4], rtol=1e-13)


def test_nearest_neighbours_find_copies_and_count_them_once():
    others = np.repeat(RANDOM.normal(size=(10, 3)), 2, axis=0)
    indices, squared = nearest(others[[6, 6, 1]], others, 2)
    assert indices[:, 0].tolist() == [6, 6, 0]
    assert squared[:, 0].tolist() == [0, 0, 0]
    assert (squared[:, 1] > 0).all()
    with pytest.raises(ValueError, match="11 neighbours need at least 11 different vectors, got 10"):
        nearest(others, others, 11)


# ---- the family

MEMBERS = [
    FID(),
    HeldOutFID(),
    SFID(),
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
    logits, spatial = (
        generator.normal(size=(count, 4)).astype(np.float32),
        Moments.of(generator.normal(size=(count, 5))),
    )
    return Evidence(images, Features(Moments.of(pooled), pooled, logits, spatial))


@pytest.mark.parametrize("metric", MEMBERS, ids=lambda metric: type(metric).__name__)
def test_every_metric_keeps_the_contract(metric, tmp_path):
    reference, samples = evidence(0), evidence(1)
    real = RealImages(reference.images, reference.images, evidence(2).images)
    metric.check(real=real, samples=samples.images)
    numbers = metric.compute(reference=reference, samples=samples, real=real, cache=Cache(tmp_path))
    assert all(type(value) is float and np.isfinite(value) for value in numbers.values())
    beside_a_warning = {"is_shuffled", "is_adm_shuffled"}
    assert set(metric.protocol(2000, "some network")) - beside_a_warning <= set(numbers)
    assert all("2k" in title for title in metric.protocol(2000, "some network").values())
    pair = (reference, evidence(3))
    floor = metric.floor(pair=pair, count=40, real=real, cache=Cache(tmp_path))
    assert set(floor) <= set(numbers)
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
    of_images = {
        "CLIPScore",
        "CaptionAccuracy",
        "ResNetAccuracy",
    }  # they need captions, or a large network: tested in files of their own
    assert listed == {type(metric).__name__ for metric in MEMBERS} | of_images
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
