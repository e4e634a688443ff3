"""Images that are not square: cropped from pictures of any shape, told to be turned, sampled in both orientations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

from harness.splits import SplitImages
from zoo import recipe, recipe_parts, symbolic
from zoo.console import UserError
from zoo.data.crops import CenterCrop, LandscapeCrop
from zoo.data.folder import ImageFolder
from zoo.data.images import Images
from zoo.data.random_crops import RandomCrop
from zoo.experiment import Experiment
from zoo.training.step import State

RECIPE = tiny.ROOT / "tests" / "recipes" / "tiny_text.gin"
BINDINGS = (
    "Images.crop = @LandscapeCrop()",
    "LandscapeCrop.width = 12",
    "UViT.text = @TextAndOrientationInput()",
    "TextAndOrientationInput.width = 8",
    "Stage.conditioning = [@Text(), @Orientation()]",
)
SIZES = [(40, 90), (90, 40), (24, 40), (40, 24), (13, 13), (200, 60), (12, 200), (48, 80), (80, 48), (300, 290)]


def picture(height: int, width: int) -> np.ndarray:
    """Smooth and busy in parts, so that resampling shows."""
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.maximum(noise // 2, np.linspace(0, 255, width, dtype=np.uint8)[None, :, None])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_those_of_pillow(height: int, width: int) -> None:
    image, crop = picture(height, width), LandscapeCrop(40)
    found = crop(tf.constant(image), 24).numpy()
    assert found.shape == (24, 40, 3)
    np.testing.assert_array_equal(found, np.asarray(crop.cut(Image.fromarray(image), 24)))


def test_the_middle_is_kept_and_tall_pictures_are_turned() -> None:
    crop = LandscapeCrop(40)
    wide = picture(24, 60)
    np.testing.assert_array_equal(crop(tf.constant(wide), 24), wide[:, 10:50])
    tall = np.ascontiguousarray(np.rot90(wide, -1))  # turned back by a quarter to the left
    np.testing.assert_array_equal(crop(tf.constant(tall), 24), wide[:, 10:50])
    low = picture(30, 40)
    np.testing.assert_array_equal(crop(tf.constant(low), 24), low[3:27])
    assert crop.shape(24) == (24, 40)
    with pytest.raises(ValueError, match="width must be at least the size of the images, 48, got 40"):
        crop.shape(48)
    with pytest.raises(ValueError, match="width must be positive"):
        LandscapeCrop(0)


def folder(root: Path) -> ImageFolder:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for number, (height, width) in enumerate([(24, 40), (40, 24), (30, 30), (50, 20)]):
            Image.fromarray(picture(height, width)).save(root / split / f"{number}.png")
    return ImageFolder(str(root))


def test_images_say_which_were_turned(tmp_path: Path) -> None:
    images = Images(folder(tmp_path), 12, LandscapeCrop(20))
    assert images.shape == (12, 20, 3)
    assert repr(images).startswith("Images(test_images_say") and "12x20x3" in repr(images)
    examples = list(images.examples("test"))
    assert [int(example["portrait"]) for example in examples] == [0, 1, 0, 1]
    batch = next(iter(images.batches(0, 0, 8, 8)))
    assert batch["image"].shape == (8, 12, 20, 3)
    assert sorted(batch["portrait"].numpy().tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch["portrait"].dtype == tf.int32
    assert SplitImages(images, "test").arrays()[0].shape == (4, 12, 20, 3)
    square = next(iter(Images(ImageFolder(str(tmp_path)), 12, CenterCrop()).examples("test")))
    assert "portrait" not in square
    for wrong in ({"low_resolution": 6}, {"random_crop": RandomCrop()}):
        with pytest.raises(ValueError, match="must be None where the crop makes no squares"):
            Images(ImageFolder(str(tmp_path)), 12, LandscapeCrop(20), **wrong)


def test_a_recipe_with_images_that_are_not_square() -> None:
    asked = recipe.load(RECIPE, BINDINGS)
    stage = asked.build().stages[0]
    spec = stage.input_spec(2)
    assert spec["image"] == ((2, 8, 12, 3), "float32")
    assert spec["portrait"] == ((2,), "int32")
    assert stage.output_shape(2) == (2, 8, 12, 3)
    assert symbolic.build(stage).parameters > symbolic.build(recipe.load(RECIPE).build().stages[0]).parameters
    (parts,) = recipe_parts.load(RECIPE, BINDINGS)
    assert parts.input_spec(2) == spec
    assert parts.output_shape(2) == stage.output_shape(2)
    assert asked.stages()[0].network != recipe.load(RECIPE, [*BINDINGS, "LandscapeCrop.width = 16"]).stages()[0].network


@pytest.mark.parametrize("left_out", [BINDINGS[:2], BINDINGS[2:4], BINDINGS[4:]])
def test_crop_conditioning_and_network_go_together(left_out: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="all three go together"):
        recipe.load(RECIPE, [binding for binding in BINDINGS if binding not in left_out]).build()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    root = tmp_path_factory.mktemp("turned")
    asked = recipe.load(RECIPE, [*BINDINGS, f"Texts.directory = '{root / 'texts'}'", "Training.steps = 0"])
    experiment = Experiment(asked, asked.build(), root / "run")
    experiment.train(experiment.pipeline.stages)
    return experiment


def test_both_orientations_are_sampled(run: Experiment) -> None:
    run.sample_set(run.pipeline.stages, "last")
    with np.load(run.workdir / "samples" / "words" / "shard-00000.npz") as shard:
        assert shard["arr_0"].shape == (5, 8, 12, 3)
    prompts = ["a red circle", "a blue star"]
    assert run.sample(prompts=prompts).shape == (2, 8, 12, 3)
    assert run.sample(prompts=prompts, portrait=True).shape == (2, 12, 8, 3)
    assert json.loads((run.workdir / "samples" / "words" / "set.json").read_text())["text"]


def test_the_network_hears_the_flag(run: Experiment) -> None:
    stage = recipe.load(RECIPE, BINDINGS).build().stages[0]
    state = State(stage, seed=0)
    tiny.unsettle(state)
    random = np.random.default_rng(0)
    given: dict[str, Any] = {
        "image": random.standard_normal((2, 8, 12, 3)).astype(np.float32),
        "time": np.array([100.0, 100.0], np.float32),
        "text": np.zeros((2, 5, 8), np.float32),
    }
    one, other = (np.asarray(state.network(given | {"portrait": np.array([flag, 0])})) for flag in (0, 1))
    assert np.abs(one[0] - other[0]).max() > 1e-4
    np.testing.assert_array_equal(one[1], other[1])


def test_portrait_is_for_models_that_know_it(run: Experiment) -> None:
    plain = recipe.load(RECIPE)
    with pytest.raises(UserError, match="portrait is for models that are told the orientation"):
        Experiment(plain, plain.build(), run.workdir).sample(prompts=["a red circle"], portrait=True)
