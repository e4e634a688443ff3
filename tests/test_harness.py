"""Sample sets in every layout, the feature network, and the evaluation as a whole."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from harness import evaluate, reference, report
from harness.cache import Cache, write_json
from harness.evaluate import Evaluation
from harness.features.classifier import DatasetClassifier
from harness.features.devices import ForwardPass, on_one_device
from harness.features.network import Extractor, extract, extract_cached
from harness.features.small_network import build_network
from harness.images import ArrayImages, RealImages, Selection
from harness.metrics.classification_accuracy import ClassificationAccuracy
from harness.metrics.frechet import FID, HeldOutFID
from harness.metrics.inception_score import InceptionScore
from harness.metrics.kernel import KID
from harness.metrics.precision_recall import PrecisionRecall
from harness.samples import open_images, write_samples
from harness.selection import SmallFID
from harness.splits import SplitImages, real_images
from zoo.console import UserError
from zoo.data.crops import CenterCrop
from zoo.data.folder import ImageFolder
from zoo.data.images import Images
from zoo.data.shapes import Shapes

ROOT = Path(__file__).parent.parent
RANDOM = np.random.default_rng(0)


def pictures(count: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def tiny_evaluation() -> Evaluation:
    metrics = (
        FID(),
        HeldOutFID(),
        InceptionScore(splits=2),
        KID(subsets=3, subset_size=20),
        PrecisionRecall(),
        ClassificationAccuracy(width=2, epochs=1, batch=8),
    )
    return Evaluation(DatasetClassifier(width=4, epochs=1, batch=16), metrics)


@pytest.fixture(scope="module")
def shapes() -> Images:
    return Images(Shapes(train=200, test=60), size=16, crop=CenterCrop())


@pytest.fixture(scope="module")
def sample_folder(shapes, tmp_path_factory) -> Path:
    """Two shards of samples that are other real images."""
    folder = tmp_path_factory.mktemp("samples")
    other = Images(Shapes(train=60, test=1, seed=5), size=16, crop=CenterCrop())
    images, labels = SplitImages(other, "train").arrays()
    write_samples(folder / "shard-00000.npz", images[:25], labels[:25])
    write_samples(folder / "shard-00001.npz", images[25:50], labels[25:50])
    return folder


@pytest.fixture(scope="module")
def evaluated(shapes, sample_folder, tmp_path_factory):
    """A result and the cache that it filled."""
    cache = tmp_path_factory.mktemp("cache")
    return tiny_evaluation().evaluate(sample_folder, shapes, cache, {"rows": ["cdm/1a:cdm-32"], "seed": 7}), cache


# ---- parts of image sets


def test_a_split_is_disjoint_whole_and_a_function_of_the_seed():
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    whole = ArrayImages(images, np.arange(20))
    some, others = whole.split(6, seed=1)
    found = [part.arrays()[0].ravel() for part in (some, others)]
    assert (some.count, others.count) == (6, 14)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(20))
    np.testing.assert_array_equal(found[0], whole.split(6, seed=1)[0].arrays()[0].ravel())
    assert not np.array_equal(found[0], whole.split(6, seed=2)[0].arrays()[0].ravel())
    assert some.fingerprint() != others.fingerprint()
    np.testing.assert_array_equal(some.arrays()[1], found[0])


def test_a_selection_crosses_parts(tmp_path):
    images = pictures(9)
    for i in range(3):
        write_samples(tmp_path / f"shard-{i}.npz", images[3 * i : 3 * i + 3])
    chosen = np.array([1, 4, 8])
    np.testing.assert_array_equal(Selection(open_images(tmp_path), chosen).arrays()[0], images[chosen])


def test_splits_of_a_dataset_are_disjoint_and_whole(shapes):
    whole = SplitImages(shapes, "train")
    some, others = whole.split(30, seed=3)
    assert (whole.count, some.count, others.count) == (200, 30, 170)
    rows = [part.arrays()[0].reshape(part.count, -1) for part in (some, others, whole)]
    together = np.concatenate(rows[:2])
    np.testing.assert_array_equal(together[np.lexsort(together.T)], rows[2][np.lexsort(rows[2].T)])
    assert whole.fingerprint() == SplitImages(shapes, "train").fingerprint() != some.fingerprint()


def test_the_floor_takes_images_outside_the_reference():
    train, test = ArrayImages(pictures(30), name="train"), ArrayImages(pictures(10), name="test")
    real = RealImages(train, train, test, spare=test)
    assert real.floor_pair(10) == (train, test)
    rest, held_out = real.floor_pair(12)  # more than the test images: some are held out of the reference
    assert (rest.count, held_out.count) == (18, 12)
    assert real.floor_pair(16) is None


# ---- the cache


def test_the_cache_makes_each_thing_once_and_survives_damage(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    cache = Cache(tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(cache.arrays("thing", {"a": 1}, make)["x"], np.arange(3))
    assert len(made) == 1
    cache.arrays("thing", {"a": 2}, make)
    assert len(made) == 2
    file = next(tmp_path.glob("thing-*.npz"))
    file.write_bytes(file.read_bytes()[:40])
    for key in (1, 2):
        cache.arrays("thing", {"a": key}, make)
    assert len(made) == 3
    assert cache.numbers("score", {}, lambda: {"y": 0.5}) == cache.numbers("score", {}, dict) == {"y": 0.5}


# ---- the feature network


def test_the_classifier_is_trained_once_and_is_the_same_again(shapes, tmp_path):
    real = real_images(shapes, "train")
    component = DatasetClassifier(width=4, epochs=1, batch=16)
    network = component.prepare(real, Cache(tmp_path / "one"))
    again = component.prepare(real, Cache(tmp_path / "one"))
    assert again.identity == network.identity
    assert network.title == "shapes classifier"
    assert len(list((tmp_path / "one").iterdir())) == 1
    other = DatasetClassifier(width=4, epochs=1, batch=16, seed=1).prepare(real, Cache(tmp_path / "one"))
    assert other.identity != network.identity
    fresh = component.prepare(real, Cache(tmp_path / "two"))
    images = real.held_out.arrays()[0]
    for name, values in fresh(images).items():
        np.testing.assert_allclose(values, network(images)[name], rtol=1e-2, atol=1e-3)
    assert fresh(images)["pooled"].shape == (60, 16)


def test_the_classifier_learns(tmp_path):
    """Two classes that differ in brightness."""
    labels = np.arange(200) % 2
    images = (pictures(200) // 4 + 120 * labels[:, None, None, None]).astype(np.uint8)
    train, test = ArrayImages(images[:150], labels[:150]), ArrayImages(images[150:], labels[150:])
    component = DatasetClassifier(width=4, epochs=4, batch=16, learning_rate=0.1)
    assert component.prepare(RealImages(train, train, test), Cache(tmp_path)).facts["accuracy"] > 0.95


def test_the_classifier_needs_labels_and_pixels():
    unlabelled, small = ArrayImages(pictures(4)), ArrayImages(pictures(4, size=4), np.arange(4))
    for images, message in ((unlabelled, "learns from labels"), (small, "at least 8 pixels")):
        with pytest.raises(UserError, match=message):
            DatasetClassifier().check(RealImages(images, images, images))


class Brightness(Extractor):
    """An extractor whose features are known."""

    title, identity, facts, at_once = "brightness", "1", {}, 250

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return {"pooled": means, "logits": means}


def test_features_are_extracted_in_one_pass_and_kept_only_on_demand(tmp_path):
    images = pictures(600)
    features = extract(ArrayImages(images), Brightness(), frozenset({"pooled"}), "")
    expected = images.mean(axis=(1, 2), dtype=np.float32)
    np.testing.assert_array_equal(features.pooled, expected)
    assert features.logits is None
    np.testing.assert_allclose(features.moments.covariance, np.cov(expected.astype(float), rowvar=False), rtol=1e-10)
    for _ in range(2):
        cached = extract_cached(ArrayImages(images), Brightness(), frozenset({"logits"}), "", Cache(tmp_path))
        assert cached.moments.count == 600
        np.testing.assert_array_equal(cached.moments.scatter, features.moments.scatter)


def test_features_that_are_not_numbers_are_named():
    class Broken(Brightness):
        def __call__(self, images):
            return {"pooled": np.full((len(images), 2), np.nan)}

    with pytest.raises(UserError, match=r"images: 5 of 5 feature vectors have NaN"):
        extract(ArrayImages(pictures(5)), Broken(), frozenset(), "")


def test_batches_pass_over_the_borders_of_parts(tmp_path):
    images, labels = pictures(13), np.arange(13)
    for i, (first, last) in enumerate([(0, 5), (5, 6), (6, 13)]):
        write_samples(tmp_path / f"shard-{i}.npz", images[first:last], labels[first:last])
    found = list(open_images(tmp_path).batches(4))
    assert [len(batch) for batch, _ in found] == [4, 4, 4, 1]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in found]), images)
    np.testing.assert_array_equal(np.concatenate([own for _, own in found]), labels)


def test_a_short_batch_is_padded_and_cut():
    """To the bit: it goes through the same compiled shape. Two devices: see test_sampling.py."""
    forward = ForwardPass(build_network((16, 16, 3), 5, width=4, seed=0), batch=8)
    assert forward.at_once == 8
    images = pictures(8, size=16)
    features, logits = forward(images)
    assert (features.shape, logits.shape) == ((8, 16), (8, 5))
    few = forward(images[2:5])
    np.testing.assert_array_equal(few[0], features[2:5])
    np.testing.assert_array_equal(few[1], logits[2:5])
    with pytest.raises(ValueError, match="a batch of 9 images is larger than the compiled 8"):
        forward(pictures(9, size=16))


def test_training_leaves_the_strategy_of_its_caller():
    @on_one_device
    def inside(value: int) -> tuple[int, bool]:
        return value, tf.distribute.has_strategy()

    @on_one_device
    def failing() -> None:
        raise UserError("no labels")

    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert inside(3) == (3, False)
        assert tf.distribute.has_strategy()
        with pytest.raises(UserError, match="no labels"):
            failing()
    assert inside(4) == (4, False)


# ---- the score of a checkpoint


def small_fid(**settings) -> SmallFID:
    return SmallFID(DatasetClassifier(width=4, epochs=1, batch=16), **settings)


def test_the_score_of_a_checkpoint_is_the_fid_of_the_evaluation(evaluated, shapes, sample_folder):
    result, cache = evaluated
    classifiers = [path.stat().st_mtime_ns for path in cache.glob("classifier-*")]
    score = small_fid()
    score.check(shapes)
    with pytest.raises(ValueError, match="nothing was scored yet"):
        score.title(50, shapes)
    samples, labels = open_images(sample_folder).arrays()
    value = score.score(samples, labels, shapes, cache)
    assert value == pytest.approx(result["metrics"]["fid"], rel=1e-9)
    assert score.title(50, shapes) == result["protocol"]["fid"] == "FID-50 (shapes classifier)"
    assert score.title(10_000, shapes) == "FID-10k (shapes classifier)"
    # Nothing was trained again, and the next score makes nothing anew.
    assert [path.stat().st_mtime_ns for path in cache.glob("classifier-*")] == classifiers
    assert score.score(samples, None, shapes, cache / "not there") == value
    assert not (cache / "not there").exists()
    assert small_fid().score(samples, None, shapes, cache) == value
    # Noise is further away than real images.
    assert score.score(pictures(50, size=16), None, shapes, cache) > 2 * value


def test_the_reference_of_a_score_can_be_a_part(shapes, tmp_path):
    samples = pictures(20, size=16)
    few = small_fid(reference_split="test", reference_count=30)
    value = few.score(samples, None, shapes, tmp_path)
    assert value != small_fid(reference_split="test").score(samples, None, shapes, tmp_path)
    assert value == small_fid(reference_split="test", reference_count=30).score(samples, None, shapes, tmp_path)


def test_what_cannot_be_scored_is_said_before_training(shapes, tmp_path):
    with pytest.raises(UserError, match="needs 61 reference images, and shapes test has 60"):
        small_fid(reference_split="test", reference_count=61).check(shapes)
    with pytest.raises(UserError, match="at least 8 pixels"):
        small_fid().check(Images(Shapes(train=20, test=20), size=4, crop=CenterCrop()))
    with pytest.raises(UserError, match="nowhere"):
        small_fid().check(Images(ImageFolder(str(tmp_path / "nowhere")), size=16, crop=CenterCrop()))
    with pytest.raises(ValueError, match="reference_split must be"):
        small_fid(reference_split="validation")
    with pytest.raises(ValueError, match="reference_count must be"):
        small_fid(reference_count=1)
    for samples in (pictures(1, size=16), pictures(5, size=8)):
        with pytest.raises(ValueError, match="samples must be at least two images of the shape"):
            small_fid().score(samples, None, shapes, tmp_path)


# ---- the evaluation


def test_a_result_says_all_that_its_numbers_depend_on(evaluated):
    result, _ = evaluated
    assert json.loads(json.dumps(result)) == result
    names = {"fid", "is_mean", "is_std", "kid", "kid_std", "precision", "recall", "cas_top1", "cas_top5"}
    assert names <= set(result["floor"]) <= set(result["metrics"])
    assert result["protocol"]["fid"] == "FID-50 (shapes classifier)"
    assert result["counts"] == {"samples": 50, "reference": 200, "floor": 50, "train": 200, "held_out": 60}
    assert result["cas_real_top1"] == result["floor"]["cas_top1"]
    assert 0 <= result["classifier_accuracy"] <= 1
    assert (result["dataset"], result["resolution"], result["seed"]) == ("shapes", 16, 7)
    assert {"keras", "python"} <= set(result["versions"])


def test_an_evaluation_again_trains_nothing(evaluated, shapes, sample_folder, monkeypatch):
    result, cache = evaluated

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    for module in ("harness.features.classifier", "harness.features.small_network"):
        monkeypatch.setattr(f"{module}.train_network", forbidden)
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = tiny_evaluation().evaluate(sample_folder, shapes, cache, {"rows": ["cdm/1a:cdm-32"], "seed": 7})
    assert again == result
    assert before == {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_unlike_images_are_refused_before_any_training(shapes, tmp_path):
    evaluation = tiny_evaluation()
    cases = {
        "8x8 pixels with 3 channels": (pictures(20), np.arange(20) % 10),
        "needs labels": (pictures(20, size=16), None),
        "labels up to 99": (pictures(20, size=16), np.arange(20) + 80),
        "at least 2 images": (pictures(1, size=16), np.arange(1)),
        "more than 3 images": (pictures(3, size=16), np.arange(3)),
    }
    for message, (images, labels) in cases.items():
        write_samples(tmp_path / "shard-0.npz", images, labels)
        with pytest.raises(UserError, match=message):
            evaluation.evaluate(tmp_path, shapes, tmp_path / "cache", {})
    assert not (tmp_path / "cache").exists()


def test_the_distance_to_held_out_images_is_that_of_the_other_split(evaluated, shapes, sample_folder):
    result, cache = evaluated
    network = tiny_evaluation().features
    other = Evaluation(network, (FID(),), reference_split="test").evaluate(sample_folder, shapes, cache, {})
    assert result["metrics"]["fid_held_out"] == pytest.approx(other["metrics"]["fid"], rel=1e-12)
    assert result["metrics"]["fid_held_out"] != pytest.approx(result["metrics"]["fid"], rel=1e-3)
    assert result["reference"]["others"] == {"fid_held_out": "shapes test"}
    assert result["reference"]["against"]["fid_held_out"] == "60 images"


def test_the_reference_may_be_the_test_split(shapes):
    real = real_images(shapes, "test")
    assert real.reference.name == "shapes test"
    assert real.floor_pair(150)[1].name == "shapes train"
    with pytest.raises(ValueError, match="reference_split"):
        Evaluation(DatasetClassifier(), (FID(),), reference_split="validation")


# ---- what is shown


def test_the_row_has_80_columns_and_no_line_mixes_protocols(evaluated):
    lines = report.render_row(evaluated[0], ["cdm/1a:cdm-32"])
    assert max(map(len, lines)) <= 80
    ours = next(line for line in lines if line.startswith("FID-50 ("))
    theirs = next(line for line in lines if line.startswith("FID-50k (Inception), train"))
    assert ours.split()[-1] == "-"
    assert theirs.split()[-3:] == ["-", "-", "1.11"]
    assert any("26.01 ± 0.59" in line for line in lines)


def test_an_unknown_published_row_is_named(evaluated):
    with pytest.raises(UserError, match="its rows are cdm-32"):
        report.render_row(evaluated[0], ["cdm/1a:cdm-31"])


def test_the_report_is_one_page_that_needs_nothing_else(evaluated, tmp_path):
    stage = tmp_path / "stages" / "base"
    (stage / "grids").mkdir(parents=True)
    stage.joinpath("metrics.csv").write_text("step,loss,images_per_second\n1,0.5,100\n2,0.4,110\n3,")
    for name in ("00000001-ema", "00000002-ema", "00000002-raw"):
        Image.fromarray(pictures(1)[0]).save(stage / "grids" / f"{name}.png")
    write_json(tmp_path / "results" / "base.json", evaluated[0])
    (tmp_path / "recipe.gin").write_text("Pipeline.seed = 1 # <b>")
    page = report.write_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 2  # the last grid of each kind; curves are drawings
    assert "FID-50 (shapes classifier)" in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace("https://", "") or 'src="http' not in page


# ---- commands


def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_files_are_compared_by_the_command(tmp_path, monkeypatch, capsys):
    labels = np.arange(60) % 3
    images = (pictures(60) // 2 + 40 * labels[:, None, None, None]).astype(np.uint8)
    write_samples(tmp_path / "real.npz", images, labels)
    write_samples(tmp_path / "fake.npz", images[:20], labels[:20])
    arguments = [tmp_path / "real.npz", tmp_path / "fake.npz", "--cache", tmp_path / "cache", "--epochs", 1]
    arguments.append("--allow-few")
    evaluate.main([*map(str, arguments), "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["counts"] == {"samples": 20, "reference": 60, "floor": 20, "train": 48, "held_out": 12}
    assert "real classifier" in result["protocol"]["fid"]
    assert any("singular" in warning for warning in result["warnings"])
    assert "FID-20" in capsys.readouterr().out


def test_statistics_of_the_classifier_are_compared_with_its_own_features(tmp_path, capsys):
    """Built and used by the commands; the same images give the same classifier, others another."""
    labels = np.arange(200) % 4
    images = (pictures(200, size=16) // 2 + 30 * labels[:, None, None, None]).astype(np.uint8)
    write_samples(tmp_path / "real.npz", images, labels)
    write_samples(tmp_path / "fake.npz", images[:50], labels[:50])
    cache, file = ["--cache", str(tmp_path / "cache"), "--epochs", "1"], str(tmp_path / "reference.npz")
    reference.main(["build", str(tmp_path / "real.npz"), "--out", file, *cache])
    again = [file, str(tmp_path / "fake.npz"), *cache, "--metrics", "fid", "--allow-few", "--json"]
    with pytest.raises(UserError, match="--train IMAGES"):
        evaluate.main(again)
    capsys.readouterr()
    evaluate.main([*again, "--train", str(tmp_path / "real.npz")])
    found = json.loads(capsys.readouterr().out)["metrics"]["fid"]
    evaluate.main([str(tmp_path / "real.npz"), *again[1:]])
    assert found == pytest.approx(json.loads(capsys.readouterr().out)["metrics"]["fid"], rel=1e-9)
    write_samples(tmp_path / "real.npz", images[:150], labels[:150])
    with pytest.raises(UserError, match="was made with real classifier"):
        evaluate.main([*again, "--train", str(tmp_path / "real.npz")])
    # a reference without labels, and others that have some
    write_samples(tmp_path / "plain.npz", images)
    with pytest.raises(UserError, match=r"learns from labels, .* other images with labels \(--train"):
        evaluate.main([str(tmp_path / "plain.npz"), *again[1:]])
    capsys.readouterr()
    evaluate.main([str(tmp_path / "plain.npz"), *again[1:], "--train", str(tmp_path / "real.npz")])
    assert "(real classifier)" in capsys.readouterr().out


def test_a_killed_evaluation_goes_on(tmp_path):
    """SIGKILL as soon as the classifier is in the cache: the same command does not train it again."""
    labels = np.arange(400) % 4
    images = (pictures(400, size=16) // 2 + 30 * labels[:, None, None, None]).astype(np.uint8)
    write_samples(tmp_path / "real.npz", images, labels)
    write_samples(tmp_path / "fake.npz", images[:100], labels[:100])
    cache, out = tmp_path / "cache", tmp_path / "result.json"
    arguments = [str(tmp_path / "real.npz"), str(tmp_path / "fake.npz"), "--cache", str(cache), "--out", str(out)]
    arguments.append("--allow-few")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.evaluate", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(cache.glob("classifier-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = {path.name: path.stat().st_mtime_ns for path in cache.glob("classifier-*.npz")}
    assert len(found) == 1
    assert not out.exists()
    evaluate.main(arguments)
    assert {path.name: path.stat().st_mtime_ns for path in cache.glob("classifier-*.npz")} == found
    assert json.loads(out.read_text())["counts"]["samples"] == 100
