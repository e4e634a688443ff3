"""The recipes of ADM against the hyperparameters that the paper prints."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo import recipe
from zoo.diffusion.losses import HybridLoss
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.targets import NoiseTarget
from zoo.diffusion.variances import LearnedRangeVariance
from zoo.networks.attention import HeadChannels, HeadCount
from zoo.networks.blocks import AdaptiveModulation
from zoo.networks.resampling import ResidualResampling
from zoo.networks.unet import BilinearEnlarging

PRINTED = yaml.safe_load((Path(__file__).parent / "papers" / "hyperparameters.yaml").read_text())
SCHEDULES = {"linear": LinearSchedule, "cosine": CosineSchedule}

# recipe -> (entry, its key in settings that the entry prints for several datasets)
ENTRIES: dict[str, tuple[str, str | None]] = {
    "adm_imagenet64": ("adm_imagenet64", None),
    "adm_imagenet128": ("adm_imagenet128", None),
    "adm_imagenet256": ("adm_imagenet256", None),
    "adm_imagenet256_uncond": ("adm_imagenet256_uncond", None),
    "adm_imagenet512": ("adm_imagenet512", None),
    "adm_upsampler256": ("adm_upsampler64to256", None),
    "adm_upsampler512": ("adm_upsampler128to512", None),
    "adm_lsun_bedroom": ("adm_lsun", "lsun-bedroom"),
    "adm_lsun_horse": ("adm_lsun", "lsun-horse"),
    "adm_lsun_cat": ("adm_lsun", "lsun-cat"),
}
# The paper prints 8 too, and no feature map of this network has 8 pixels.
UNREACHABLE = {"adm_upsampler512": {8}}


@pytest.mark.parametrize("name", ENTRIES)
def test_recipe_equals_the_published_hyperparameters(name: str):
    """Every value that the paper prints; null means that it prints none."""
    entry, key = ENTRIES[name]
    printed = PRINTED[entry]
    stages = recipe.load(name).build().stages
    assert len(stages) == 1
    stage: Any = stages[0]
    for what, (published, ours) in {**shared(stage), **compare(name, stage, printed, key)}.items():
        assert published is None or published == ours, f"{what} is {ours}, the paper has {published}"


def compare(name: str, stage: Any, printed: dict[str, Any], key: str | None) -> dict[str, tuple[Any, Any]]:
    """What an entry prints -> (published, ours)."""
    training, network = printed["training"], stage.network
    steps = training["steps"][key] if key else training["steps"]
    found = {
        "resolution": (printed["resolution"], stage.size),
        "low resolution": (printed["low_resolution"], stage.images.low_resolution),
        "told the class": (printed["conditioning"]["class_labels"], stage.conditioned_on_class),
        "batch": (training["batch_size"], stage.training.batch),
        "steps": (steps, stage.training.steps),
    }
    if printed.get("partial"):
        return found
    architecture, diffusion, heads = printed["architecture"], printed["diffusion"], network.attention.heads
    attends = set(architecture["attention_resolutions"]) - UNREACHABLE.get(name, set())
    return found | {
        "channels": (architecture["base_channels"], network.channels),
        "multipliers": (architecture["channel_multipliers"], list(network.multipliers)),
        "blocks": (architecture["res_blocks"], network.blocks),
        "attention": (attends, set(network.attention.resolutions)),
        "heads": (architecture["heads"], heads.count if isinstance(heads, HeadCount) else None),
        "head channels": (architecture["head_channels"], heads.channels if isinstance(heads, HeadChannels) else None),
        "learning rate": (training["lr"], stage.training.optimizer.learning_rate),
        "betas": (training["betas"], [stage.training.optimizer.beta_1, stage.training.optimizer.beta_2]),
        "average": (training["ema"], stage.training.decays[0]),
        "dropout": (training["dropout"], network.rate),
        "timesteps": (diffusion["train"]["timesteps"], stage.objective.process.steps),
        "schedule": (SCHEDULES[diffusion["train"]["noise_schedule"]], type(stage.objective.process.schedule)),
        "sampling": (sampled(diffusion["inference"]["timesteps"]), stage.sampler_steps),
    }


def sampled(steps: int | list[int]) -> int:
    """Where several are printed, the longest is that of the recipe, and the others are bindings."""
    return max(steps) if isinstance(steps, list) else steps


def shared(stage: Any) -> dict[str, tuple[Any, Any]]:
    """What the paper says of all its models."""
    low = stage.network.low_resolution
    return {
        "injection": (AdaptiveModulation, type(stage.network.modulation)),
        "resampling": (ResidualResampling, type(stage.network.resampling)),
        "parameterisation": (NoiseTarget, type(stage.objective.target)),
        "variance": (LearnedRangeVariance, type(stage.objective.variance)),
        "loss": (HybridLoss, type(stage.objective.loss)),
        "enlarging": (low and BilinearEnlarging, low and type(low.enlarging)),
    }
