"""Reference files: statistics of other programs and of this one, and what is said where two sides are unlike."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from channel_means import (
    DIMENSIONS,
    Means,
    MeansAndDeviations,
    compared,
    fid_between,
    means_of,
    names,
    pictures,
)

from harness import choices, evaluate, likeness, reference
from harness.cache import Cache
from harness.evaluation import Evaluation
from harness.images import ArrayImages, RealImages
from harness.inspection import inspect
from harness.metrics.classification_accuracy import ClassificationAccuracy
from harness.metrics.frechet import FID
from harness.metrics.inception_score import InceptionScore
from harness.metrics.kernel import KID
from harness.metrics.precision_recall import PrecisionRecall
from harness.metrics.statistics import Moments
from harness.samples import open_set, write_samples
from harness.statistics_files import read_statistics, write_statistics
from zoo.console import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def means(monkeypatch) -> None:
    """The command lines take the stand-in for every feature network."""
    monkeypatch.setattr(choices, "feature_network", lambda spelling, resize=None, epochs=3: Means())


# ---- statistics of others


def write_foreign(path: Path, images: np.ndarray, **more: np.ndarray) -> Path:
    """Statistics of images as other programs write them: nothing but mean and covariance."""
    features = MeansAndDeviations()(images)["pooled"].astype(np.float64)
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False), **more)
    return path


def test_a_reference_may_be_statistics_alone(tmp_path):
    real, images = pictures(60), pictures(30)
    write_samples(tmp_path / "samples.npz", images)
    statistics = write_foreign(tmp_path / "stats.npz", real)
    result = compared(statistics, tmp_path / "samples.npz", tmp_path / "cache", FID(), InceptionScore(splits=2))
    assert result["metrics"]["fid"] == pytest.approx(fid_between(means_of(real), means_of(images)), rel=1e-9)
    assert {"unstated-reference", "no-floor", "sample-count"} <= names(result)
    assert result["counts"]["reference"] is None
    assert result["reference"]["against"]["fid"] == "statistics of an unstated number of images (layout: pytorch-fid)"
    assert json.loads(json.dumps(result)) == result
    for metric in (KID(), PrecisionRecall()):
        with pytest.raises(UserError, match=f"{type(metric).__name__} needs pooled features, and stats holds stat"):
            compared(statistics, tmp_path / "samples.npz", tmp_path / "cache", metric)


def test_an_adm_reference_batch_is_two_references(tmp_path):
    """Mean and covariance are of the training set, the images some of it: each is used for what it is."""
    training, images = pictures(80), pictures(30)
    batch = write_foreign(tmp_path / "VIRTUAL.npz", training, arr_0=training[:20])
    write_samples(tmp_path / "few.npz", training[:20])
    write_samples(tmp_path / "samples.npz", images)
    result = compared(batch, tmp_path / "samples.npz", tmp_path / "cache")
    assert result["metrics"]["fid"] == pytest.approx(fid_between(means_of(training), means_of(images)), rel=1e-9)
    of_images = compared(tmp_path / "few.npz", tmp_path / "samples.npz", tmp_path / "cache")
    for key in ("kid", "precision", "recall"):
        assert result["metrics"][key] == of_images["metrics"][key]
    assert result["reference"]["against"]["precision"] == "20 images"
    assert "two-references" in names(result)
    assert "few-images" not in names(result)


def test_clean_fid_names_say_resolution_and_resize_filter(tmp_path):
    real = pictures(60)
    write_samples(tmp_path / "samples.npz", pictures(30))
    cases = {
        "faces_legacy_tensorflow_train_8": None,
        "faces_clean_train_8": "resized by 'clean-fid bicubic'",
        "faces_legacy_tensorflow_train_256": "256x256 pixels",
    }
    for name, message in cases.items():
        path = write_foreign(tmp_path / f"{name}.npz", real)
        if message is None:
            result = compared(path, tmp_path / "samples.npz", tmp_path / "cache", FID())
            assert "feature network, number of images;" in next(w for w in result["warnings"] if "unstated" in w)
            continue
        with pytest.raises(UserError, match=message):
            compared(path, tmp_path / "samples.npz", tmp_path / "cache", FID())


def test_the_feature_vectors_of_clean_fid_serve_the_kernel_distance(tmp_path):
    real = pictures(60)
    write_samples(tmp_path / "samples.npz", pictures(30))
    write_samples(tmp_path / "real.npz", real)
    np.savez(tmp_path / "faces_legacy_tensorflow_custom_na_kid.npz", feats=MeansAndDeviations()(real)["pooled"])
    ours = compared(
        tmp_path / "faces_legacy_tensorflow_custom_na_kid.npz", tmp_path / "samples.npz", tmp_path / "cache"
    )
    images = compared(tmp_path / "real.npz", tmp_path / "samples.npz", tmp_path / "cache")
    assert ours["metrics"] == pytest.approx(images["metrics"], rel=1e-9)


def test_features_of_another_network_are_never_compared(tmp_path):
    real = pictures(60)
    write_samples(tmp_path / "samples.npz", pictures(30))
    moments, facts = means_of(real), MeansAndDeviations().facts
    for other, message in (
        (facts | {"identity": "another"}, "was made with Inception .means. .another"),
        (facts | {"identity": "another", "dimensions": 2048}, "was made with"),
    ):
        write_statistics(tmp_path / "stats.npz", moments, other)
        with pytest.raises(UserError, match=message):
            compared(tmp_path / "stats.npz", tmp_path / "samples.npz", tmp_path / "cache", FID())
    np.savez(tmp_path / "stats.npz", mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(UserError, match=r"64 dimensions, the features of .* have 6"):
        compared(tmp_path / "stats.npz", tmp_path / "samples.npz", tmp_path / "cache", FID())


def test_statistics_of_another_network_beside_images_are_passed_over(tmp_path):
    images = pictures(60)
    write_samples(tmp_path / "samples.npz", pictures(30))
    np.savez(tmp_path / "batch.npz", arr_0=images, mu=np.zeros(64), sigma=np.eye(64))
    write_samples(tmp_path / "real.npz", images)
    result = compared(tmp_path / "batch.npz", tmp_path / "samples.npz", tmp_path / "cache", FID())
    assert "statistics-unused" in names(result)
    plain = compared(tmp_path / "real.npz", tmp_path / "samples.npz", tmp_path / "cache", FID())
    assert result["metrics"] == plain["metrics"]


def test_two_statistics_need_no_network(tmp_path, capsys):
    one, other = pictures(60), pictures(50)
    arguments = [str(write_foreign(tmp_path / f"{name}.npz", images)) for name, images in (("a", one), ("b", other))]
    with pytest.raises(UserError, match="--count N tells"):
        evaluate.main([*arguments, "--metrics", "fid", "--cache", str(tmp_path)])
    evaluate.main([*arguments, "--metrics", "fid", "--count", "50", "--cache", str(tmp_path), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["fid"] == pytest.approx(fid_between(means_of(one), means_of(other)), rel=1e-9)
    assert result["protocol"]["fid"].startswith("FID-50 ")
    assert {"stated-count", "unstated-reference"} <= names(result)


# ---- reference files


def test_references_are_built_explained_and_used(tmp_path, means, capsys):
    images, labels = pictures(50), np.arange(50) % 5
    samples = pictures(30)
    write_samples(tmp_path / "real.npz", images, labels)
    write_samples(tmp_path / "samples.npz", samples, np.arange(30) % 5)
    out, cache = tmp_path / "reference.npz", str(tmp_path / "cache")
    reference.main(["build", str(tmp_path / "real.npz"), "--out", str(out), "--cache", cache, "--images", "20"])
    with np.load(out, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["mu"], means_of(images).mean, rtol=1e-12)
        assert arrays["mu_s"].shape == (24,)
        assert (arrays["arr_0"].shape, int(arrays["count"])) == ((20, 8, 8, 3), 50)
    text = "\n".join(inspect(out))
    for said in (
        "number of images: 50",
        "6 dimensions",
        "full rank",
        "resize filter: TF1 bilinear",
        "title Inception (means)",
        "two references in one: fid, sfid take the statistics, all else the 20 images",
        "serves: fid, sfid, kid, precision, recall, cas",
    ):
        assert said in text
    assert "not stated" not in text
    capsys.readouterr()
    evaluate.main([str(out), str(tmp_path / "samples.npz"), "--metrics", "fid,sfid,kid", "--cache", cache, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["counts"]["reference"] == 50
    assert result["reference"]["against"]["sfid"] == "statistics of 50 images (layout: this project)"
    rows, theirs = (array[:, 0].reshape(len(array), -1).astype(float) for array in (images, samples))
    expected = fid_between(Moments.of(rows), Moments.of(theirs))
    assert result["metrics"]["sfid"] == pytest.approx(expected, rel=1e-9)
    assert "unstated-reference" not in names(result)


def test_shards_merge_to_the_same_bits_whatever_the_order(tmp_path, means):
    images = pictures(50)
    write_samples(tmp_path / "real.npz", images)
    build = ["build", str(tmp_path / "real.npz"), "--cache", str(tmp_path / "cache")]
    parts = [str(tmp_path / f"part-{i}.npz") for i in (1, 2, 3)]
    for i in (3, 1, 2):
        reference.main([*build, "--shard", f"{i}/3", "--out", parts[i - 1]])
    assert "shard 2 of 3, to be merged" in "\n".join(inspect(Path(parts[1])))
    contents = []
    for order in ((0, 1, 2), (2, 0, 1)):
        reference.main(["merge", *[parts[i] for i in order], "--out", str(tmp_path / "merged.npz")])
        contents.append((tmp_path / "merged.npz").read_bytes())
    assert contents[0] == contents[1]
    reference.main([*build, "--out", str(tmp_path / "whole.npz")])
    merged, whole = (read_statistics(tmp_path / f"{name}.npz") for name in ("merged", "whole"))
    for one, other in ((merged.moments, whole.moments), (merged.spatial, whole.spatial)):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-12, atol=1e-12 * other.covariance.max())
    assert merged.count == whole.count == 50
    write_samples(tmp_path / "other.npz", pictures(50))
    reference.main(
        [
            "build",
            str(tmp_path / "other.npz"),
            "--cache",
            str(tmp_path),
            "--shard",
            "2/3",
            "--out",
            str(tmp_path / "foreign.npz"),
        ]
    )
    for files, message in (
        (parts[:2], "of 3 shards 3 are missing"),
        ([parts[0], parts[0], parts[1]], "missing"),
        ([parts[0], str(tmp_path / "foreign.npz")], "another images"),
        ([parts[0], str(tmp_path / "whole.npz")], "no shard of a reference"),
    ):
        with pytest.raises(UserError, match=message):
            reference.main(["merge", *files, "--out", str(tmp_path / "bad.npz")])


def test_statistics_that_are_none_are_refused(tmp_path):
    for name, message, arrays in (
        ("asymmetric", "not symmetric", {"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}),
        ("nan", "NaN", {"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}),
        ("shapes", "are not a mean", {"mu": np.zeros(3), "sigma": np.eye(2)}),
        ("vectors", "NaN", {"feats": np.full((3, 2), np.nan)}),
        ("one", "at least two feature vectors", {"feats": np.zeros((1, 2))}),
        ("facts", "not JSON", {"mu": np.zeros(2), "sigma": np.eye(2), "extractor": np.array("{")}),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(UserError, match=message):
            open_set(tmp_path / f"{name}.npz")
        with pytest.raises(UserError, match=message):
            inspect(tmp_path / f"{name}.npz")


# ---- unlike things


def test_too_few_images_are_refused_by_what_needs_them(tmp_path):
    write_samples(tmp_path / "real.npz", pictures(30), np.arange(30) % 3)
    for count, metric, message in (
        (1, FID(), "at least 2 images"),
        (1, KID(), "at least 2 images"),
        (3, PrecisionRecall(), "more than 3 images"),
        (5, InceptionScore(), "10 splits but there are 5"),
        (20, ClassificationAccuracy(), "needs labels"),
    ):
        write_samples(tmp_path / "samples.npz", pictures(count))
        with pytest.raises(UserError, match=message):
            compared(tmp_path / "real.npz", tmp_path / "samples.npz", tmp_path / "cache", metric)
    assert not (tmp_path / "cache").exists()
    write_samples(tmp_path / "one.npz", pictures(1))
    with pytest.raises(UserError, match="at least 10 are needed"):
        compared(tmp_path / "one.npz", tmp_path / "samples.npz", tmp_path / "cache")


def test_fewer_images_than_dimensions_are_refused_or_named(tmp_path):
    write_samples(tmp_path / "real.npz", pictures(30))
    write_samples(tmp_path / "samples.npz", pictures(6))
    sides = tmp_path / "real.npz", tmp_path / "samples.npz", tmp_path / "cache"
    with pytest.raises(UserError, match=r"6 images for 6 feature dimensions.*--allow-few"):
        compared(*sides, FID(), allow_few=False)
    assert "few-images" in names(compared(*sides, FID()))
    assert "few-images" in names(compared(*sides, KID(subsets=2, subset_size=5), allow_few=False))


def test_features_that_are_not_numbers_end_the_evaluation(tmp_path):
    class Broken(Means):
        def prepare(self, real, cache):
            network = super().prepare(real, cache)
            network.__class__ = type(
                "NaN",
                (MeansAndDeviations,),
                {"__call__": lambda _, images: {"pooled": np.full((len(images), DIMENSIONS), np.nan)}},
            )
            return network

    write_samples(tmp_path / "real.npz", pictures(30))
    real = evaluate.real_from_files(tmp_path / "real.npz", None)
    with pytest.raises(UserError, match="30 of 30 feature vectors have NaN"):
        Evaluation(Broken(), (FID(),)).compare(real, ArrayImages(pictures(30)), Cache(tmp_path), {})


def test_damaged_records_are_counted_and_named(tmp_path):
    """A set that says 30 images and gives 28: the other two are in no score."""

    class Damaged(ArrayImages):
        def parts(self):
            yield self.images[:28], None

    images = pictures(30)
    write_samples(tmp_path / "samples.npz", pictures(30))
    damaged, sound = Damaged(images), ArrayImages(images[:28])
    results = [compared(RealImages(side, side, side), tmp_path / "samples.npz", tmp_path) for side in (damaged, sound)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["counts"]["reference"] == 28
    assert "unread-images" in names(results[0]) - names(results[1])


def test_a_network_must_give_what_a_metric_needs(tmp_path):
    class PooledOnly(Means):
        gives: ClassVar[frozenset[str]] = frozenset({"pooled"})

    write_samples(tmp_path / "real.npz", pictures(30))
    real = evaluate.real_from_files(tmp_path / "real.npz", None)
    with pytest.raises(UserError, match="InceptionScore needs logits features, and PooledOnly gives pooled ones only"):
        Evaluation(PooledOnly(), (InceptionScore(),)).check(real, ArrayImages(pictures(30)))


def test_other_mixes_of_labels_are_named():
    even = np.arange(5000) % 10
    assert likeness.label_distance(even, even)[0] == 0
    rng = np.random.default_rng(0)
    images = np.zeros((5000, 1, 1, 1), np.uint8)
    cases = {
        "even": (even, False),
        "drawn": (rng.integers(0, 10, 5000), False),
        "few drawn": (rng.integers(0, 10, 40), False),
        "one class dropped": (even[even != 3], True),
        "one class alone": (np.zeros(40, np.int64), True),
        "more classes": (even + 5, True),
    }
    for name, (labels, differs) in cases.items():
        distance, luck = likeness.label_distance(even, labels)
        assert (distance > likeness.SLACK + 2 * luck) == differs, (name, distance, luck)
    assert likeness.label_distance(even, even[even != 3])[0] == pytest.approx(0.1)
    assert ArrayImages(images, even).classes == 10


def test_a_result_names_another_mix_of_labels_and_a_part_of_the_samples(tmp_path, means, capsys):
    write_samples(tmp_path / "real.npz", pictures(60), np.arange(60) % 3)
    write_samples(tmp_path / "samples.npz", pictures(40), np.zeros(40, np.int64))
    arguments = [str(tmp_path / f"{name}.npz") for name in ("real", "samples")]
    evaluate.main(
        [*arguments, "--metrics", "fid,precision,recall", "--count", "30", "--json", "--cache", str(tmp_path)]
    )
    result = json.loads(capsys.readouterr().out)
    assert {"label-mix", "part-of-samples"} <= names(result)
    assert result["protocol"]["fid"] == "FID-30 (Inception (means))"
    assert set(result["metrics"]) >= {"fid", "precision", "recall"}
    for count in ("0", "41"):
        with pytest.raises(UserError, match="between 1 and the 40 images"):
            evaluate.main([*arguments, "--count", count])


def test_the_command_names_what_it_does_not_know(tmp_path):
    write_samples(tmp_path / "a.npz", pictures(30))
    same = [str(tmp_path / "a.npz")] * 2
    for more, message in (
        (["--features", "vgg"], "must be classifier, inception"),
        (["--features", "classifier:x"], "no weights"),
        (["--metrics", "fdi"], "must be of fid, sfid"),
        (["--metrics", ","], "at least one of"),
        (["--epochs", "0"], "must be positive"),
        (["--out", str(tmp_path)], "must be a file"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main([*same, *more])


def test_the_help_fits_the_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for parser in (evaluate.make_parser(), reference.make_parser()):
        assert max(map(len, parser.format_help().splitlines())) <= 80
