"""Neighbours, the second opinion and the degradation experiment, on a network whose features are plain colours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import degradation_page, degradations, neighbours
from harness.cache import Cache
from harness.cross_check import cross_check, print_cross_check
from harness.degradations import Blur, DroppedClasses, Experiment, Imbalance, Noise, wrong_signs
from harness.features.network import Extractor, FeatureNetwork
from harness.images import ArrayImages, RealImages
from harness.metrics.metric import Features
from harness.metrics.statistics import Moments
from harness.samples import write_samples
from zoo.console import UserError

GOLDEN = Path(__file__).parent / "golden" / "metrics"
CLASSES = 5


class Colours(Extractor):
    """Means of the quarters of an image, and how much neighbouring pixels differ."""

    title, identity, at_once, batch = "colours", "colours-1", 64, 64
    facts = {"title": title, "identity": identity, "dimensions": 13, "input": "uint8", "resize": "none", "weights": ""}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values = images.astype(np.float32) / 255
        quarters = values.reshape(len(images), 2, 4, 2, 4, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        sharpness = np.abs(np.diff(values, axis=1)).mean(axis=(1, 2, 3))[:, None]
        pooled = np.concatenate([quarters, 20 * sharpness], axis=1)
        return {"pooled": pooled, "logits": 30 * pooled[:, :CLASSES]}


class ColourNetwork(FeatureNetwork):
    """The same as a component."""

    def check(self, real: RealImages) -> None:
        pass

    def prepare(self, real: RealImages, cache: Cache) -> Extractor:
        return Colours()


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose first quarter's brightness is their class."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = generator.integers(60, 120, (count, 8, 8, 3))
    images += (20 * labels)[:, None, None, None]
    return images.astype(np.uint8), labels


def sides(count: int = 400) -> tuple[RealImages, ArrayImages]:
    reference, images = (ArrayImages(*pictures(count, seed), f"part {seed}") for seed in (0, 1))
    return RealImages(reference, reference, images, spare=images), images


# ---- degradations


def test_degradations_do_what_they_say():
    images, labels = pictures(200, 0)
    blurred, _ = Blur().apply(images, labels, 1.0)
    assert blurred.dtype == np.uint8
    assert blurred.astype(float).std(axis=(1, 2)).mean() < 0.5 * images.astype(float).std(axis=(1, 2)).mean()
    assert blurred.mean() == pytest.approx(images.mean(), abs=1)
    noisy, _ = Noise().apply(images, labels, 8.0)
    assert (noisy.astype(float) - images).std() == pytest.approx(8, rel=0.05)
    assert np.array_equal(noisy, Noise().apply(images, labels, 8.0)[0])
    _, unlike = Imbalance().apply(images, labels, 4.0)
    assert np.bincount(unlike).tolist() == [40, 28, 20, 14, 10]
    fewer, kept = DroppedClasses().apply(images, labels, 0.4)
    assert set(kept) == {0, 1, 2}
    assert np.array_equal(fewer, images[labels < 3])
    with pytest.raises(UserError, match="cannot be dropped"):
        DroppedClasses().apply(images, np.zeros(200, int), 0.5)


def test_the_experiment_measures_every_level_and_writes_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(Blur, "levels", (0.5, 2.0))
    monkeypatch.setattr(degradations, "DEGRADATIONS", (Blur(), DroppedClasses()))
    real, images = sides()
    result = degradations.measure(real, images, ColourNetwork(), Cache(tmp_path / "cache"), "Colours")
    blur, dropped = result["degradations"]
    assert [row["count"] for row in dropped["levels"]] == [320, 320, 240, 160, 80]
    assert blur["levels"][0]["whole"] == blur["levels"][1]["whole"]
    assert wrong_signs([blur]) == []
    assert not [line for line in wrong_signs([dropped]) if "fid" in line or "kid" in line]
    degradation_page.write(tmp_path / "page.md", json.loads(json.dumps(result)))
    text = (tmp_path / "page.md").read_text()
    assert "| Gaussian blur, sigma in pixels | up: met | up: met | down: met |" in text
    assert f"| 2 | 400 | {blur['levels'][1]['numbers']['fid']:.4g} (" in text
    assert text.count("## ") == 3
    with Image.open(tmp_path / "figures" / "page.png") as picture:
        assert picture.format == "PNG"


def levels(key: str, *numbers: float, whole: float = 1.0) -> dict:
    return {
        "levels": [{"level": i, "numbers": {key: number}, "whole": {key: whole}} for i, number in enumerate(numbers)]
    }


def test_signs_that_are_not_met_are_named():
    distance = {"title": "Something", "expected": {"fid": 1}} | levels("fid", 0.9, 2.0, 3.0)
    (found,) = wrong_signs([distance])
    assert found.startswith("Something: fid should go up, and from whole images to the levels went 1 to 0.9, 1 to 2")
    assert degradation_page.sign(distance, "fid") == "up: not met, at 2 of 3 levels"
    assert degradation_page.sign(distance | {"expected": {}}, "fid") == "(down to up)"
    falling = {"title": "Something", "expected": {"recall": -1}}
    for numbers, verdict in (
        ((0.9, 0.8, 0.5), "down: met"),
        ((1.01, 1.02, 0.5), "down: met, at 1 of 3 levels"),  # more pairs of levels fall than rise
        ((0.5, 0.6, 0.9), "down: not met"),  # back towards whole images
        ((0.9, 0.8, 1.1), "down: not met, at 2 of 3 levels"),
    ):
        each = falling | levels("recall", *numbers)
        assert degradation_page.sign(each, "recall") == verdict
        assert bool(wrong_signs([each])) == ("not" in verdict)


def test_the_experiment_refuses_images_without_labels(tmp_path):
    real, images = sides(20)
    unlabelled = ArrayImages(images.images, None, "bare")
    with pytest.raises(UserError, match="bare has no labels"):
        degradations.measure(real, unlabelled, ColourNetwork(), Cache(tmp_path), "none")
    with pytest.raises(UserError, match="REFERENCE and IMAGES"):
        degradations.main(["--out", str(tmp_path / "page.md")])


def test_whole_images_of_one_number_are_measured_once(tmp_path, monkeypatch):
    real, images = sides(100)
    asked: list[str] = []

    def numbers(self: Experiment, pixels: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
        asked.append(name)
        return dict.fromkeys(degradations.SHOWN, 0.0)

    monkeypatch.setattr(Experiment, "numbers", numbers)
    Experiment(real, Colours(), Cache(tmp_path)).run(images.images, images.labels)
    whole = [name for name in asked if "whole" in name]
    assert len(whole) == len(set(whole))
    assert len(asked) - len(whole) == 20


# ---- nearest neighbours


def test_neighbours_are_found_and_drawn(tmp_path, capsys, monkeypatch):
    images, labels = pictures(60, 0)
    write_samples(tmp_path / "real.npz", images, labels)
    samples = images[[7, 30]].copy()
    samples[:, 0, 0, 0] += 1
    write_samples(tmp_path / "samples.npz", samples)
    write_samples(tmp_path / "others.npz", *pictures(20, 1))
    monkeypatch.setattr("harness.choices.feature_network", lambda *_: ColourNetwork())
    files = [str(tmp_path / name) for name in ("real.npz", "samples.npz")]
    command = [*files, "--out", str(tmp_path / "near.png"), "--cache", str(tmp_path / "cache"), "--neighbours", "3"]
    neighbours.main([*command, "--held-out", str(tmp_path / "others.npz"), "--json", str(tmp_path / "near.json")])
    found = json.loads((tmp_path / "near.json").read_text())
    assert [row[0] for row in found["indices"]] == [7, 30]
    assert all(row == sorted(row) and len(row) == 3 for row in found["distances"])
    assert "(#7)" in capsys.readouterr().out
    with Image.open(tmp_path / "near.png") as picture:
        pixels = np.asarray(picture)
    scale = 8  # from 8 pixels a side to 64
    assert pixels.shape == (scale * (2 * 9 + 1), scale * (5 * 9 + 1), 3)
    assert np.array_equal(pixels[scale * 4, scale * 5], samples[0, 3, 4])
    assert (pixels[scale * 4, scale * (9 + 5)] == 255).all()
    assert np.array_equal(pixels[scale * 4, scale * (18 + 5)], images[7, 3, 4])
    with pytest.raises(UserError, match="61 neighbours"):
        neighbours.main([*files, "--out", str(tmp_path / "x.png"), "--neighbours", "61"])
    with pytest.raises(UserError, match="--samples must be positive"):
        neighbours.main([*files, "--out", str(tmp_path / "x.png"), "--samples", "0"])


# ---- the second opinion


@pytest.mark.golden
def test_tensorflow_gan_agrees_on_golden_features(capsys):
    arrays = np.load(GOLDEN / "features_d64.npz")
    logits = np.load(GOLDEN / "logits10.npz")["logits_times_4"].astype(np.float32) / 4
    real, fake = (arrays[name].astype(np.float32) for name in ("real", "fake"))
    # Moments of more images than the vectors, as in ADM's reference files, are not what is compared.
    reference = Features(Moments.of(real).add(real + 1), real)
    rows = cross_check(reference, Features(Moments.of(fake), fake, logits))
    assert [name for name, _, _ in rows] == ["fid", "kid of 1200", "is_one_split"]
    for name, ours, theirs in rows:
        assert ours == pytest.approx(theirs, rel=1e-9), name
    assert rows[0][1] == pytest.approx(5.57982013, rel=1e-8)
    print_cross_check(rows)
    assert "tensorflow-gan" in capsys.readouterr().out
    only = Features(Moments.of(fake))
    with pytest.raises(UserError, match="add KID or InceptionScore"):
        cross_check(only, only)
