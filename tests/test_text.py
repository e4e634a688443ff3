"""Captions: of the procedural dataset, as embeddings of a frozen encoder, on the disk, and in the network's inputs."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny
from absl.testing import flagsaver
from PIL import Image

from harness.captions import read_captions
from harness.samples import open_images
from zoo import recipe, registry
from zoo import run as commands
from zoo.console import UserError
from zoo.data import texts
from zoo.data.captioned_shapes import CaptionedShapes
from zoo.data.captions import Captions, DrawnCaptions, GivenCaptions
from zoo.data.crops import CenterCrop
from zoo.data.drawing import render
from zoo.data.images import Images
from zoo.data.shapes import Shapes
from zoo.data.text_encoders import RandomTextEncoder, TextEncoder
from zoo.data.texts import Texts
from zoo.diffusion.conditioning import Text
from zoo.experiment import Experiment

RECIPE = tiny.ROOT / "tests" / "recipes" / "tiny_text.gin"
CAPTIONS = ["a red circle", "a blue striped star", "a red circle", "one two three four five six seven eight"]


def listed(family: str) -> set[str]:
    return {name for name, component in registry.load().components.items() if component.family == family}


# ---- captioned shapes


def test_pairs_are_held_out_evenly() -> None:
    shapes = CaptionedShapes()
    assert len(shapes.unseen) == 15
    assert sorted((*shapes.seen, *shapes.unseen)) == list(range(100))
    for attribute in shapes.attributes:  # a model must know every word from training
        values = np.array(attribute.of_class)
        assert np.bincount(values[list(shapes.unseen)], minlength=10).max() <= 2
        assert set(values[list(shapes.seen)]) == set(range(10))
    for name in ("train", "test"):
        assert set(shapes.labels(name)) == set(shapes.seen)
    assert set(shapes.labels("unseen")) == set(shapes.unseen)
    for name in ("mixed_train", "mixed_test"):
        assert set(shapes.labels(name)) == set(range(100))
    assert len(CaptionedShapes(held_out=0.5).unseen) == len(set(CaptionedShapes(held_out=0.5).unseen)) == 50
    assert CaptionedShapes(held_out=0.1).fingerprint("test") != shapes.fingerprint("test")


def test_captions_say_what_is_drawn() -> None:
    """The colour that a caption names is the one that the picture has, and no word is said twice."""
    shapes = CaptionedShapes(train=600)
    captions = [caption for (caption,) in shapes.captions("mixed_train")]
    assert "an orange ring" in captions
    scenes = shapes.scenes("mixed_train", np.arange(600))
    for caption, label, look in zip(captions, shapes.labels("mixed_train"), scenes.label, strict=True):
        words = caption.split()
        for attribute in shapes.attributes:
            assert [word for word in words if word in attribute.words] == [attribute.words[attribute.of_class[label]]]
        assert (shapes.looks[look].texture in words) == (shapes.looks[look].texture != "plain")
    # Without light and haze the middle of a plain square has its colour.
    plain = np.flatnonzero([shapes.looks[look].texture == "plain" and "square" in shapes.looks[look].shape
                            for look in scenes.label])  # fmt: skip
    still = scenes._replace(
        haze=np.zeros(600), exposure=np.ones(600), tint=np.ones((600, 3)), shade=np.zeros((600, 3)),
        centre=np.zeros((600, 2)), slope=np.zeros((600, 2)),
    )  # fmt: skip
    pixels = render(type(scenes)(*(values[plain] for values in still)), 16, shapes.looks)[:, 7:9, 7:9].mean(axis=(1, 2))
    expected = np.array([shapes.looks[look].first for look in scenes.label[plain]])
    assert len(plain) >= 5
    np.testing.assert_allclose(pixels / 255, expected, atol=0.06)


def test_textures_can_be_left_out() -> None:
    every, some = CaptionedShapes(train=200), CaptionedShapes(train=200, textures=("plain", "dotted"))
    drawn = {some.looks[look].texture for look in some.scenes("train", np.arange(200)).label}
    assert drawn == {"plain", "dotted"}
    np.testing.assert_array_equal(some.labels("train"), every.labels("train"))
    assert some.fingerprint("train") != every.fingerprint("train")


def test_spread_is_the_share_of_the_range_of_position_size_and_angle() -> None:
    whole, none = (CaptionedShapes(spread=spread).scenes("train", np.arange(50)) for spread in (1.0, 0.0))
    assert np.ptp(whole.radius) > 0.3 and np.ptp(whole.angle) > 1 and np.ptp(whole.centre) > 0.5
    assert np.ptp(none.radius) == np.ptp(none.angle) == 0
    assert not none.centre.any()
    np.testing.assert_array_equal(none.background, whole.background)


def test_a_captioned_scene_depends_on_seed_split_and_index_alone() -> None:
    shapes = CaptionedShapes()
    images = shapes.draw("train", np.arange(40), 16)
    np.testing.assert_array_equal(shapes.draw("train", np.array([33, 7]), 16), images[[33, 7]])
    for other in (shapes.draw("test", np.arange(40), 16), CaptionedShapes(seed=1).draw("train", np.arange(40), 16)):
        assert np.any(other != images, axis=(1, 2, 3)).mean() > 0.9
    expected = [67.98, 67.21, 113.11, 137.05, 164.21, 105.16]  # a change needs a new VERSION
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3))[:6], expected, atol=0.05)


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: CaptionedShapes(held_out=0.0), "held_out"),
        (lambda: CaptionedShapes(held_out=0.6), "held_out"),
        (lambda: CaptionedShapes(train=0), "train"),
        (lambda: CaptionedShapes(textures=()), "textures"),
        (lambda: CaptionedShapes(textures=("plain", "tartan")), "textures"),
        (lambda: CaptionedShapes(spread=1.5), "spread"),
        (lambda: RandomTextEncoder(width=0), "width"),
        (lambda: RandomTextEncoder(width=6, heads=4), "heads"),
        (lambda: RandomTextEncoder(seed=-1), "seed"),
        (lambda: Texts(RandomTextEncoder(), length=0), "length"),
        (lambda: DrawnCaptions(()), "splits"),
        (lambda: GivenCaptions(("a", " ")), "captions"),
        (lambda: Text(dropout=1.0), "dropout"),
    ],
)
def test_constructors_name_the_parameter_that_is_wrong(make: Callable[[], object], parameter: str) -> None:
    with pytest.raises(ValueError, match=parameter):
        make()


# ---- encoders

ENCODERS: dict[str, TextEncoder] = {"RandomTextEncoder": RandomTextEncoder(width=16)}
NEEDS_FILES = {"T5Encoder"}  # tested in tests/test_t5.py


def test_every_encoder_is_under_contract() -> None:
    assert listed("text encoders") == set(ENCODERS) | NEEDS_FILES


@pytest.mark.parametrize("name", ENCODERS)
def test_contract_of_encoders(name: str) -> None:
    encoder = ENCODERS[name]
    encoder.check()
    found = encoder.encode(CAPTIONS, 6)
    assert all(one.dtype == np.float32 and one.shape[1] == encoder.width for one in found)
    assert len(found[0]) == 4  # three words and the end
    assert len(found[3]) == 6  # cut
    np.testing.assert_array_equal(found[0], found[2])
    alone = encoder.encode(CAPTIONS[1:2], 6)[0]
    np.testing.assert_allclose(alone, found[1], atol=1e-5)
    assert np.abs(found[0][-1] - found[3][-1]).max() > 0.1
    assert json.loads(json.dumps(encoder.identity())) == encoder.identity()
    encoder.forget()
    np.testing.assert_array_equal(encoder.encode(CAPTIONS[:1], 6)[0], found[0])


def test_words_of_the_stand_in_are_known_by_name_and_neighbours() -> None:
    encoder = RandomTextEncoder(width=64)
    red, blue, other = encoder.encode(["a red circle", "a blue circle", "circle a red"], 8)
    near = np.sum(red * blue, axis=1) / np.linalg.norm(red, axis=1) / np.linalg.norm(blue, axis=1)
    assert near[1] < 0.5 < near[2] < 1 - 1e-3  # circle is circle, but not quite the same beside another colour
    assert np.abs(other[0] - red[2]).max() > 1e-2  # nor at another place
    assert np.abs(np.sqrt((red**2).mean(axis=1)) - 1).max() < 1e-3
    again = RandomTextEncoder(width=64, seed=1).encode(["a red circle"], 8)[0]
    assert np.abs(again - red).max() > 0.1


# ---- embeddings on the disk


class Counting(RandomTextEncoder):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(width=8, layers=1, heads=2)
        self.asked: list[str] = []

    def encode(self, captions: Sequence[str], length: int) -> list[np.ndarray]:
        self.asked += captions
        return super().encode(captions, length)


def test_embeddings_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PART", 2)
    encoder = Counting()
    direct = Texts(RandomTextEncoder(width=8, layers=1, heads=2), 5, str(tmp_path))(CAPTIONS)
    assert direct.shape == (4, 5, 8)
    assert direct.dtype == np.float32
    assert (direct[0, 4:] == 0).all()
    assert (direct[1] != 0).any(axis=1).all()  # four words and the end
    kept = Texts(encoder, 5, str(tmp_path))
    kept.keep(CAPTIONS, "captions")
    kept.keep(CAPTIONS[:2], "captions")
    assert encoder.asked == [CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]]
    np.testing.assert_array_equal(kept(CAPTIONS), direct)
    assert len(encoder.asked) == 3
    kept([*CAPTIONS, "something else"])
    assert encoder.asked[3:] == ["something else"]
    # Another process reads; a part that is missing is made.
    other = Counting()
    (part,) = tmp_path.glob("*/*/part-00001.npy")
    part.unlink()
    again = Texts(other, 5, str(tmp_path))
    again.keep(CAPTIONS, "captions")
    assert other.asked == [CAPTIONS[3]]
    np.testing.assert_array_equal(again(CAPTIONS), direct)
    assert not list(tmp_path.glob("*/*/.*"))


def test_other_captions_lengths_and_encoders_have_other_folders(tmp_path: Path) -> None:
    tables = [
        (Counting(), 5, CAPTIONS),
        (Counting(), 4, CAPTIONS),
        (Counting(), 5, CAPTIONS[:2]),
        (RandomTextEncoder(width=8, layers=1, heads=2, seed=1), 5, CAPTIONS),
    ]
    for encoder, length, captions in tables:
        Texts(encoder, length, str(tmp_path)).keep(captions, "captions")
    assert len(list(tmp_path.glob("*/*/encoder.json"))) == 4
    assert len(list(tmp_path.iterdir())) == 3  # the first and the last have the same captions


class Elsewhere(RandomTextEncoder):
    """Is on another machine."""

    def check(self) -> None:
        raise UserError("the encoder is not here")

    def identity(self) -> dict[str, Any]:
        raise UserError("the encoder is not here")

    def encode(self, captions: Sequence[str], length: int) -> list[np.ndarray]:
        raise UserError("the encoder is not here")


def test_embeddings_that_were_made_elsewhere_will_do(tmp_path: Path) -> None:
    settings = {"width": 8, "layers": 1, "heads": 2}
    absent = Texts(Elsewhere(**settings), 5, str(tmp_path))
    with pytest.raises(UserError, match="is not here"):
        absent.keep(CAPTIONS, "captions")
    made = Texts(RandomTextEncoder(**settings), 5, str(tmp_path))
    made.keep(CAPTIONS, "captions")
    absent.keep(CAPTIONS, "captions")
    np.testing.assert_array_equal(absent(CAPTIONS), made(CAPTIONS))
    assert absent.identity() == made.identity()
    with pytest.raises(UserError, match="is not here"):
        absent(["something else"])
    with pytest.raises(UserError, match="have 8 numbers, and the encoder of the recipe 16"):
        Texts(Elsewhere(width=16), 5, str(tmp_path)).keep(CAPTIONS, "captions")
    Texts(RandomTextEncoder(**settings, seed=1), 5, str(tmp_path)).keep(CAPTIONS, "captions")
    with pytest.raises(UserError, match="is not here"):  # whose would be right?
        Texts(Elsewhere(**settings), 5, str(tmp_path)).keep(CAPTIONS, "captions")


def test_damaged_embeddings_are_named(tmp_path: Path) -> None:
    Texts(Counting(), 5, str(tmp_path)).keep(CAPTIONS, "captions")
    (path,) = tmp_path.glob("*/*/part-00000.npy")
    for content in (path.read_bytes()[:200], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} are damaged.*delete {path.parent}"):
            Texts(Counting(), 5, str(tmp_path)).keep(CAPTIONS, "captions")


def test_embeddings_go_where_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(texts.PLACE, raising=False)
    for name, place in (("XDG_CACHE_HOME", "cache/diffusion-zoo/texts"), (texts.PLACE, "named")):
        monkeypatch.setenv(name, str(tmp_path / place.split("/")[0]))
        Texts(Counting(), 5).keep(CAPTIONS, "captions")
        assert list((tmp_path / place).glob("*/*/part-00000.npy"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Texts\.directory"):
        Texts(Counting(), 5, str(tmp_path / "file")).keep(CAPTIONS, "captions")


# ---- in the stream


class TwoCaptions(CaptionedShapes):
    """Says everything in two ways."""

    def captions(self, split: str) -> list[tuple[str, ...]]:
        return [(caption, f"{caption} again") for (caption,) in super().captions(split)]


def images_of(root: Path, **settings: Any) -> Images:
    source = TwoCaptions(train=30, test=10)
    return Images(source, 8, CenterCrop(), text=Texts(Counting(), 6, str(root)), **settings)


def test_the_stream_has_embeddings_of_a_caption_of_its_picture(tmp_path: Path) -> None:
    images = images_of(tmp_path)
    elements = list(images.stream(seed=3, first=5, count=60))
    pairs = images.source.captions("train")
    first, second = (images.text([pair[which] for pair in pairs]) for which in (0, 1))
    labels, which = images.source.labels("train"), []
    for element in elements:
        own = labels == element["label"].numpy()
        assert element["text"].shape == (6, 8)
        hits = [(one[own] == element["text"].numpy()).all(axis=(1, 2)).any() for one in (first, second)]
        assert sum(hits) == 1
        which.append(hits.index(True))
    assert 10 < sum(which) < 50  # either caption, drawn
    # A function of (seed, number), however the stream is cut.
    batch = next(iter(images.batches(3, 5, 6, 6, worker=(1, 2))))
    np.testing.assert_array_equal(batch["text"][0], elements[3]["text"])


def test_examples_have_captions_and_images_without_text_have_none(tmp_path: Path) -> None:
    example = next(iter(images_of(tmp_path).examples("test")))
    assert example["captions"].numpy().decode().split("\n") == list(TwoCaptions(train=30, test=10).captions("test")[0])
    plain = Images(CaptionedShapes(train=30, test=10), 8, CenterCrop())
    assert "captions" not in next(iter(plain.examples("test")))
    assert "text" not in next(iter(plain.stream(0)))
    wrong = Images(Shapes(), 8, CenterCrop(), text=Texts(Counting(), 6, str(tmp_path)))
    for action in (wrong.check, lambda: wrong.stream(0)):
        with pytest.raises(UserError, match="shapes has none: take a source that has"):
            action()


# ---- captions to sample

SOURCE = CaptionedShapes(train=30, test=20)
CHOICES: dict[str, Captions] = {
    "DrawnCaptions": DrawnCaptions(("test", "unseen")),
    "GivenCaptions": GivenCaptions(("a", "b c", "d")),
}


def test_every_captions_component_is_under_contract() -> None:
    assert listed("captions") == set(CHOICES)


@pytest.mark.parametrize("name", CHOICES)
def test_contract_of_captions(name: str) -> None:
    captions = CHOICES[name]
    found = captions(np.arange(200), SOURCE, 5)
    assert len(found) == 200
    assert all(isinstance(caption, str) and caption for caption in found)
    assert captions(np.array([150, 3, 77]), SOURCE, 5) == [found[150], found[3], found[77]]
    assert json.dumps(captions.identity(SOURCE))


def test_each_caption_comes_once_before_any_comes_again() -> None:
    found = DrawnCaptions(("test", "unseen"))(np.arange(80), SOURCE, 0)
    for split, own in (("test", found[0::2]), ("unseen", found[1::2])):
        written = sorted(caption for (caption,) in SOURCE.captions(split))
        assert sorted(own[:20]) == written
        assert own[20:] == own[:20] != written
    assert DrawnCaptions()(np.arange(20), SOURCE, 1) != found[0:40:2]
    assert GivenCaptions(("a", "b"))(np.array([0, 3, 4]), SOURCE, 0) == ["a", "b", "a"]
    with pytest.raises(UserError, match="has no captions"):
        DrawnCaptions()(np.arange(2), Shapes(), 0)


# ---- conditioning


def test_a_share_of_captions_is_dropped_in_training_alone() -> None:
    text = np.random.default_rng(0).standard_normal((2000, 3, 2)).astype(np.float32)
    part = Text(dropout=0.1)
    (name, (kind, shape)) = next(iter(part.randomness({"image": (2000, 8, 8, 3)}).items()))
    assert (kind, shape[0]) == ("uniform", 2000)
    drawn = {name: np.random.default_rng(1).random(shape).astype(np.float32)}
    told = np.asarray(part.training_inputs({"text": text}, drawn)["text"])
    dropped = (told == 0).all(axis=(1, 2))
    assert dropped.mean() == pytest.approx(0.1, abs=0.03)
    np.testing.assert_array_equal(told[~dropped], text[~dropped])
    np.testing.assert_array_equal(part.sampling_inputs({"text": text}, {})["text"], text)
    assert Text().randomness({"image": (4, 8, 8, 3)}) == {}


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("Stage.conditioning = []", "lacks Text, but Images.text is @Texts()"),
        ("Images.text = None", "has Text, but Images.text is None"),
        ("UViT.text = None", "has Text, but its network UViT is told no text"),
        ("RandomTextEncoder.width = 16", "width of the text embeddings must be 8, as TextInput says, got 16"),
    ],
)
def test_parts_that_do_not_fit_are_named(binding: str, message: str) -> None:
    with pytest.raises((UserError, ValueError)) as raised:
        recipe.load(RECIPE, [binding]).build().stages[0].build_network(0)
    assert message in str(raised.value)


def test_the_recipe_is_right_and_described() -> None:
    assert recipe.check(str(RECIPE), []) == 0


# ---- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    root = tmp_path_factory.mktemp("words")
    asked = recipe.load(RECIPE, [f"Texts.directory = '{root / 'texts'}'", "Monitoring.grid_every = 4"])
    experiment = Experiment(asked, asked.build(), root / "run")
    experiment.train(experiment.pipeline.stages)
    experiment.sample_set(experiment.pipeline.stages, "last")
    return experiment


def test_a_run_is_trained_and_sampled_with_captions(run: Experiment) -> None:
    folder = run.workdir / "samples" / "words"
    samples = open_images(folder)
    source = run.pipeline.stages[0].images.source
    assert read_captions(samples) == run.pipeline.samples.captions(np.arange(12), source, 0)
    assert samples.count == 12
    assert len(list((run.workdir / "stages" / "words" / "grids").iterdir())) == 2
    identity = json.loads((folder / "set.json").read_text())
    assert identity["text"] == run.pipeline.stages[0].images.text.identity()
    assert identity["captions"][0]["splits"] == ["test", "unseen"]


def test_what_is_sampled_depends_on_the_words(run: Experiment) -> None:
    stage = run.pipeline.stages[0]
    sampler, weights = run.sampler_of(stage)
    moved = [tf.convert_to_tensor(value) + 0.1 for value in weights]
    given = np.stack([stage.images.text([caption])[0] for caption in ("a red circle", "a blue star")])
    key = tf.constant([0, 1])
    one, other = (sampler.sample(key, np.arange(1), {"text": text[None]}, moved) for text in given)
    assert np.abs(one - other).max() > 1e-3


def test_pictures_of_prompts(
    run: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--workdir", str(run.workdir), "--do", "sample", "--prompts", "a red circle;  Blue Star, please"]
    monkeypatch.setattr(sys, "argv", ["zoo.run", *given, "--count", "3"])
    with flagsaver.flagsaver():
        assert commands.main() == 0
    folder = run.workdir / "pictures"
    names = ["000-a-red-circle.png", "001-blue-star-please.png", "002-a-red-circle.png", "grid.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert f"3 pictures and grid.png in {folder}" in capsys.readouterr().out
    images = run.sample(prompts=["a red circle", "Blue Star, please"])
    assert images.shape == (2, 8, 8, 3)
    with Image.open(folder / names[1]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), images[1])
    with pytest.raises(UserError, match="prompts must be texts"):
        run.sample(prompts=["a red circle", " "])
