"""The recipes against the catalogue, and against the papers' printed hyperparameters."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo import recipe, registry, symbolic
from zoo.diffusion.conditioning import GaussianBlur, GaussianNoise, LowResolution
from zoo.diffusion.losses import HybridLoss, SimpleLoss
from zoo.diffusion.process import ContinuousNoiseProcess
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.targets import NoiseTarget
from zoo.pipeline import Pipeline, Stage

CATALOGUE = registry.load()
FOLDER = Path(__file__).parent
SCHEDULES = {"linear": LinearSchedule, "cosine": CosineSchedule}
LOSSES = {"simple": SimpleLoss, "hybrid": HybridLoss}

# recipe -> stage -> entry of the papers' hyperparameters
PUBLISHED = {
    "cdm_imagenet256": {
        "base32": "cdm_imagenet32_base",
        "sr64": "cdm_imagenet32to64",
        "sr256": "cdm_imagenet64to256",
    }
}


def build(name: str) -> Pipeline:
    return recipe.load(str(CATALOGUE.root / CATALOGUE.recipes[name].file), []).build()


def test_every_recipe_file_is_in_the_catalogue() -> None:
    files = {path.relative_to(CATALOGUE.root).as_posix() for path in (CATALOGUE.root / "recipes").rglob("*.gin")}
    listed = {entry.file for entry in CATALOGUE.recipes.values()}
    assert listed == {file for file in files if "/base/" not in file}


@pytest.mark.parametrize("name", CATALOGUE.recipes)
def test_parameter_counts_are_those_of_the_catalogue(name: str) -> None:
    pipeline = build(name)
    counted = {stage.name: symbolic.build(stage).parameters for stage in pipeline.stages}
    assert counted == CATALOGUE.recipes[name].parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_equals_the_published_hyperparameters(name: str) -> None:
    """Every value that the paper prints; null means that it prints none."""
    table = yaml.safe_load((FOLDER / "papers" / "hyperparameters.yaml").read_text())
    pipeline = build(name)
    for stage in pipeline.stages:
        printed = table[PUBLISHED[name][stage.name]]
        for key, (published, ours) in compare(stage, printed).items():
            assert published is None or published == ours, f"{stage.name}: {key} is {ours}, the paper has {published}"
        check_augmentation(stage, printed["conditioning_augmentation"])


def compare(stage: Stage, printed: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is printed -> (published, ours)."""
    architecture, training, diffusion = (printed[key] for key in ("architecture", "training", "diffusion"))
    network: Any = stage.network
    process = stage.objective.process
    train, inference = diffusion["train"], diffusion["inference"]
    optimizer: Any = stage.training.optimizer
    return {
        "resolution": (printed["resolution"], stage.size),
        "low_resolution": (printed["low_resolution"], stage.images.low_resolution),
        "channels": (architecture["base_channels"], network.channels),
        "multipliers": (architecture["channel_multipliers"], list(network.multipliers)),
        "blocks": (architecture["res_blocks"], network.blocks),
        "attention": (architecture["attention_resolutions"], sorted(network.attention.resolutions)),
        "heads": (architecture["heads"], network.attention.heads.heads(network.channels, False)),
        "class labels": (printed["conditioning"]["class_labels"], stage.conditioned_on_class),
        "batch": (training["batch_size"], stage.training.batch),
        "steps": (training["steps"], stage.training.steps),
        "lr": (training["lr"], optimizer.learning_rate),
        "ema": (training["ema"], stage.training.decays[0]),
        "dropout": (training["dropout"], network.rate),
        "flip": (printed["augmentation"]["random_flip"], stage.images.flip is not None),
        "parameterization": ("eps", "eps" if isinstance(stage.objective.target, NoiseTarget) else "other"),
        "learned variances": (diffusion["learned_variances"], stage.objective.variance.outputs == 2),
        "loss": (LOSSES[diffusion["loss"]], type(stage.objective.loss)),
        "timesteps": (train["timesteps"], process.steps),
        "schedule": (SCHEDULES[train["noise_schedule"]], type(process.schedule)),
        "continuous": (train["continuous_noise_conditioning"], isinstance(process, ContinuousNoiseProcess)),
        "inference steps": (inference["timesteps"], stage.sampler_steps),
        "inference schedule": (
            SCHEDULES[inference["noise_schedule"]],
            type(stage.sampler.plan(stage.objective.process).schedule),
        ),
    }


def check_augmentation(stage: Stage, printed: dict[str, Any] | None) -> None:
    parts = [part for part in stage.conditioning if isinstance(part, LowResolution)]
    if printed is None:
        assert not parts
        return
    augmentation = parts[0].augmentation
    if printed["type"].startswith("gaussian noise"):
        assert isinstance(augmentation, GaussianNoise)
        drawn = printed["train_truncation_time"]
        assert (augmentation.smallest, augmentation.largest) == (drawn["min"], drawn["max"])
        assert augmentation.s == printed["inference_truncation_time_best_truncated"]
    else:
        assert isinstance(augmentation, GaussianBlur)
        assert [augmentation.smallest, augmentation.largest] == printed["blur_sigma_range"]
        assert augmentation.probability == printed["blur_probability"]
