"""The judge of captions: what it learns, how it counts, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cache import Cache, write_arrays
from harness.features import judges
from harness.features.judges import Judge, wanted
from harness.features.small_network import Plan
from harness.images import ArrayImages, ImageSet, RealImages
from harness.metrics.caption_accuracy import CaptionAccuracy
from harness.metrics.metric import Evidence
from harness.samples import open_images
from harness.splits import SplitImages, real_images
from zoo.console import UserError
from zoo.data.captioned_shapes import CaptionedShapes
from zoo.data.crops import CenterCrop
from zoo.data.images import Images
from zoo.data.shapes import Shapes

SOURCE = CaptionedShapes(train=300, test=200)
SIZE = 16


def images_of(prefix: str = "") -> Images:
    return Images(SOURCE, SIZE, CenterCrop(), train=f"{prefix}train", test=f"{prefix}test")


def samples_of(root: Path, captions: list[str]) -> ImageSet:
    pictures = np.random.default_rng(0).integers(0, 256, (len(captions), SIZE, SIZE, 3), dtype=np.uint8)
    write_arrays(root / "shard-00000.npz", {"arr_0": pictures, "captions": np.array(captions)})
    return open_images(root)


class Told(Judge):
    """Sees what it is told to."""

    def see(self, images: ImageSet) -> np.ndarray:
        return self.network


def told(monkeypatch: pytest.MonkeyPatch, shapes: list[str], colours: list[str], right: list[list[bool]]) -> None:
    found = []
    for attribute, words, own in zip(SOURCE.attributes, (shapes, colours), right, strict=True):
        places = np.array([attribute.words.index(word) for word in words])
        found.append(Told(attribute, places, np.array(own), "abc"))
    monkeypatch.setattr(judges, "prepare", lambda *_: found)


def test_shares_of_seen_and_unseen_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "yellow circle" in [SOURCE.class_names[pair] for pair in SOURCE.unseen]
    captions = ["a red circle", "a yellow circle", "a blue striped star", "a red circle", "a yellow dotted circle"]
    shapes = ["circle", "circle", "star", "square", "circle"]
    colours = ["red", "yellow", "red", "red", "yellow"]
    half = np.arange(200) < 150
    told(monkeypatch, shapes, colours, [half, np.ones(200, bool)])
    metric = CaptionAccuracy(images_of("mixed_"))
    side = Evidence(samples_of(tmp_path, captions), None)
    real = real_images(images_of(), "train")
    metric.check(real=real, samples=side.images)
    cache = Cache(tmp_path / "cache")
    numbers = metric.compute(reference=None, samples=side, real=real, cache=cache)
    expected = {"caption_accuracy": 0.6, "caption_accuracy_seen": 1 / 3, "caption_accuracy_unseen": 1.0}
    assert numbers == pytest.approx(expected | {"shape_accuracy": 0.8, "colour_accuracy": 0.8})
    assert set(numbers) == set(metric.protocol(5, ""))
    assert metric.protocol(5, "")["caption_accuracy_seen"] == "captions right-5 (captioned_shapes judge), seen pairs"
    floor = metric.floor(pair=None, count=5, real=real, cache=cache)
    assert floor["caption_accuracy"] == floor["shape_accuracy"] == 0.75
    assert floor["colour_accuracy"] == 1
    assert 0 < floor["caption_accuracy_unseen"] < 1
    found = metric.details(samples=side, real=real, cache=cache)
    assert found["captions_judged"] == {"seen": 3, "unseen": 2}
    assert [fact["attribute"] for fact in found["judges"]] == ["shape", "colour"]
    assert metric.warnings(reference=None, samples=side)[0].startswith("weak-judge: ")
    told(monkeypatch, shapes, colours, [np.ones(200, bool)] * 2)
    metric.compute(reference=None, samples=side, real=real, cache=cache)
    assert metric.warnings(reference=None, samples=side) == []


def test_only_seen_pairs_have_no_other_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, ["circle"], ["red"], [np.ones(200, bool)] * 2)
    metric, real = CaptionAccuracy(images_of("mixed_")), real_images(images_of(), "train")
    side = Evidence(samples_of(tmp_path, ["a red circle"]), None)
    numbers = metric.compute(reference=None, samples=side, real=real, cache=Cache(tmp_path))
    assert "caption_accuracy_unseen" not in numbers
    assert numbers["caption_accuracy_seen"] == 1


def test_judges_are_trained_once_and_tested_on_real_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, cache, images = Plan(1, 100, 0.1, 1, 0.5, 0), Cache(tmp_path), images_of("mixed_")
    found = judges.prepare(images, 4, plan, cache)
    assert [judge.attribute.name for judge in found] == ["shape", "colour"]
    held_out = SplitImages(images, "test")
    for judge in found:
        seen = judge.see(held_out)
        assert seen.shape == (200,)
        expected = np.array(judge.attribute.of_class)[held_out.all_labels()]
        np.testing.assert_array_equal(judge.right, seen == expected)
    assert found[0].weights != found[1].weights
    monkeypatch.setattr(judges, "train_network", None)
    again = judges.prepare(images, 4, plan, cache)
    assert [judge.weights for judge in again] == [judge.weights for judge in found]


def test_a_caption_says_one_word_of_each_attribute() -> None:
    shape, colour = SOURCE.attributes
    assert [colour.words[place] for place in wanted(["a red circle", "A Blue striped star"], colour)] == ["red", "blue"]
    for wrong, times in (("a circle", 0), ("a red and blue circle", 2)):
        with pytest.raises(UserError, match=f"'{wrong}' must say exactly one colour of red, .*: it says {times}"):
            wanted([wrong], colour)
    assert wanted(["a red and blue star"], shape).tolist() == [3]


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    real = real_images(images_of(), "train")
    metric = CaptionAccuracy(images_of("mixed_"))
    samples = samples_of(tmp_path, ["a red circle"])
    plain = CaptionAccuracy(Images(Shapes(), SIZE, CenterCrop()))
    other = CaptionAccuracy(Images(SOURCE, 32, CenterCrop(), train="mixed_train", test="mixed_test"))
    without = ArrayImages(np.zeros((3, SIZE, SIZE, 3), np.uint8))
    cases: list[tuple[Any, ImageSet, str]] = [
        (plain, samples, "are of shapes, which does not say what its captions are about"),
        (other, samples, r"samples are \(16, 16, 3\), and CaptionAccuracy.images \(32, 32, 3\)"),
        (metric, without, "comes without captions"),
        (metric, samples_of(tmp_path / "b", ["a circle"]), "must say exactly one colour"),
    ]
    for wrong, given, message in cases:
        with pytest.raises(UserError, match=message):
            wrong.check(real=real, samples=given)
    with pytest.raises(ValueError, match="width"):
        CaptionAccuracy(images_of(), width=0)
    with pytest.raises(ValueError, match="epochs"):
        CaptionAccuracy(images_of(), epochs=0)


@pytest.mark.slow
def test_judges_are_right_on_real_images(tmp_path: Path) -> None:
    """As the recipe of the experiment has them: at least 0.98 of all images with shape and colour both right."""
    images = Images(CaptionedShapes(), 32, CenterCrop(), train="mixed_train", test="mixed_test")
    metric = CaptionAccuracy(images)
    split = SplitImages(images, "test")
    floor = metric.floor(pair=None, count=200, real=RealImages(split, split, split), cache=Cache(tmp_path))
    assert floor["caption_accuracy"] >= 0.98
