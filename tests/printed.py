"""The papers' hyperparameters against recipes, field by field: what both the tests of CDM and those of ADM compare."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.published import Paper, load_papers
from zoo import recipe, registry
from zoo.diffusion.losses import HybridLoss, SimpleLoss
from zoo.diffusion.process import ContinuousNoiseProcess
from zoo.diffusion.samplers import AncestralSampler
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.targets import NoiseTarget
from zoo.networks.attention import HeadChannels, HeadCount
from zoo.networks.blocks import AdaptiveModulation
from zoo.networks.resampling import ResidualResampling
from zoo.networks.unet import UNet
from zoo.pipeline import Pipeline, Stage
from zoo.signatures import Signatures
from zoo.training.optimizers import Adam

CATALOGUE = registry.load()
ROOT = CATALOGUE.root
SIGNATURES = Signatures(CATALOGUE)
PRINTED = yaml.safe_load((Path(__file__).parent / "papers" / "hyperparameters.yaml").read_text())

SCHEDULES = {LinearSchedule: "linear", CosineSchedule: "cosine"}
LOSSES = {SimpleLoss: "simple", HybridLoss: "hybrid"}
ROLES = {"base": False, "single": False, "super-resolution": True}
Field = Callable[[Stage], Any]


def paper(name: str) -> Paper:
    """One file of harness/papers."""
    return next(paper for paper in load_papers() if paper.name == name)


@cache
def loaded(file: str, bindings: tuple[str, ...] = ()) -> recipe.Recipe:
    """A recipe with the bindings of a row, read once for all tests of a process."""
    return recipe.load(ROOT / file, bindings, SIGNATURES)


@cache
def built(file: str, bindings: tuple[str, ...] = ()) -> Pipeline:
    """Its pipeline, without weights."""
    return loaded(file, bindings).build()


@cache
def identity(file: str, bindings: tuple[str, ...] = ()) -> str:
    """What makes two recipes one experiment."""
    return loaded(file, bindings).identity()


def heads(stage: Stage, kind: type) -> int | None:
    """Heads, or channels a head, where that is what is fixed."""
    found = stage.network.attention.heads
    return next(iter(vars(found).values())) if isinstance(found, kind) else None


def adam(stage: Stage) -> Adam:
    assert isinstance(stage.training.optimizer, Adam)
    return stage.training.optimizer


# Field of an entry -> what it is in a stage: those that both papers print.
FIELDS: dict[str, Field] = {
    "role": lambda stage: stage.low_resolution is not None,
    "dataset": lambda stage: stage.images.source.name.replace("imagenet2012", "imagenet").replace("/", "-"),
    "resolution": lambda stage: stage.size,
    "low_resolution": lambda stage: stage.images.low_resolution,
    "architecture.type": lambda stage: {UNet: "unet"}[type(stage.network)],
    "architecture.base_channels": lambda stage: stage.network.channels,
    "architecture.channel_multipliers": lambda stage: list(stage.network.multipliers),
    "architecture.res_blocks": lambda stage: stage.network.blocks,
    "architecture.attention_resolutions": lambda stage: sorted(stage.network.attention.resolutions),
    "architecture.heads": lambda stage: heads(stage, HeadCount),
    "architecture.head_channels": lambda stage: heads(stage, HeadChannels),
    "architecture.emb_channels": lambda stage: 4 * stage.network.channels,
    "architecture.biggan_updown": lambda stage: isinstance(stage.network.resampling, ResidualResampling),
    "architecture.embedding_injection": lambda s: {AdaptiveModulation: "adagn"}[type(s.network.modulation)],
    "conditioning.class_labels": lambda stage: stage.conditioned_on_class,
    "conditioning.text": lambda stage: False,
    "training.optimizer": lambda stage: {Adam: "adam"}[type(stage.training.optimizer)],
    "training.batch_size": lambda stage: stage.training.batch,
    "training.lr": lambda stage: adam(stage).learning_rate,
    "training.betas": lambda stage: [adam(stage).beta_1, adam(stage).beta_2],
    "training.eps": lambda stage: adam(stage).epsilon,
    "training.warmup_steps": lambda stage: adam(stage).schedule and adam(stage).schedule.steps,
    "training.weight_decay": lambda stage: adam(stage).weight_decay,
    "training.grad_clip": lambda stage: stage.training.clip,
    "training.steps": lambda stage: stage.training.steps,
    "training.ema": lambda stage: stage.training.decays[0],
    "training.dropout": lambda stage: stage.network.rate,
    "augmentation.random_flip": lambda stage: stage.images.flip is not None,
    "diffusion.parameterization": lambda stage: {NoiseTarget: "eps"}[type(stage.objective.target)],
    "diffusion.learned_variances": lambda stage: stage.objective.variance.outputs == 2,
    "diffusion.loss": lambda stage: LOSSES[type(stage.objective.loss)],
    "diffusion.train.timesteps": lambda stage: stage.objective.process.steps,
    "diffusion.train.noise_schedule": lambda stage: SCHEDULES[type(stage.objective.process.schedule)],
    "diffusion.train.continuous_noise_conditioning": lambda s: isinstance(s.objective.process, ContinuousNoiseProcess),
    "diffusion.inference.timesteps": lambda stage: stage.sampler_steps,
    "diffusion.inference.noise_schedule": lambda s: SCHEDULES[type(s.sampler.plan(s.objective.process).schedule)],
    "diffusion.inference.sampler": lambda stage: {AncestralSampler: "ancestral"}[type(stage.sampler)],
}


def fields(printed: Mapping[str, Any], known: Mapping[str, Field], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything that an entry has."""
    for key, value in printed.items():
        path = prefix + key
        if isinstance(value, dict) and (path not in known or path == "conditioning_augmentation"):
            yield from fields(value, known, f"{path}.")
        else:
            yield path, value


def remarks(file: str) -> str:
    """The comments of a recipe and of what it includes, those with "chosen" in them, one a line."""
    text = (ROOT / file).read_text()
    found = [re.sub(r"\s*\n *#\s*", " ", block) for block in re.findall(r"(?m)(?:^ *#.*\n)+", text)]
    included = [remarks(name) for name in re.findall(r"(?m)^include '(.*)'", text)]
    return "\n".join([block for block in found if "hosen" in block] + included)


def said(path: str, file: str, chosen: Mapping[str, str]) -> bool:
    """Whether a comment says that what is not printed was chosen.

    Args:
        chosen: field, or what stands before its first dot -> a word of the comment.
    """
    words = [chosen[name] for name in (path, path.partition(".")[0]) if name in chosen]
    return any(re.search(word, remarks(file)) for word in words)
