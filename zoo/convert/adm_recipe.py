"""Published flags as recipes, and networks of recipes as published flags."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from zoo import registry
from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.convert import adm, adm_flags, classifier_flags
from zoo.diffusion.conditioning import ClassLabel
from zoo.diffusion.losses import HybridLoss, SimpleLoss, VLBLoss
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.targets import ImageTarget, NoiseTarget
from zoo.diffusion.variances import FixedLargeVariance, FixedSmallVariance, LearnedRangeVariance
from zoo.networks.attention import HeadChannels, HeadsLast
from zoo.networks.blocks import AdaptiveModulation
from zoo.networks.embeddings import StepEmbedding
from zoo.networks.encoder import Encoder
from zoo.networks.resampling import ConvolutionResampling, ResidualResampling
from zoo.networks.unet import BilinearEnlarging, UNet

if TYPE_CHECKING:
    from zoo.learner import Learner
    from zoo.pipeline import Stage

IMPROVED = "improved-diffusion"
SCHEDULES = {"linear": "LinearSchedule", "cosine": "CosineSchedule"}
NAME = "model"
"""Of the stage of a recipe that is written here."""


def choose(flags: Mapping[str, Any], improved: bool) -> str | None:
    """The recipe of the catalogue that flags describe; None where there is none, or several."""
    wanted = adm_flags.resolved(flags, improved)
    found = {
        entry.recipe
        for entry in registry.load().checkpoints.values()
        if (entry.project == IMPROVED) == improved
        and adm_flags.resolved(adm_flags.from_text(entry.flags), improved) == wanted
    }
    return found.pop() if len(found) == 1 else None


def write(flags: Mapping[str, Any], improved: bool) -> str:
    """A recipe of one stage that samples what flags describe.

    Raises:
        UserError: flags of a classifier, or a schedule that is not known.
    """
    if adm_flags.kind(flags) == "classifier":
        raise UserError(
            "the flags are of a classifier, which say nothing of the model that it guides: give --recipe, such as "
            "adm_imagenet64_guided; zoo.convert.adm.load(flags, weights) gives the network alone"
        )
    settings = adm_flags.resolved(flags, improved)
    kwargs = adm_flags.description(flags)["kwargs"]
    if settings["noise_schedule"] not in SCHEDULES:
        raise UserError(f"noise_schedule must be {' or '.join(SCHEDULES)}, got '{settings['noise_schedule']}'")
    project = IMPROVED if improved else "guided-diffusion"
    flags = adm_flags.named(flags)
    given = " ".join(f"--{name} {value}" for name, value in flags.items())
    bindings = {**_data(flags, kwargs), **_network(kwargs), **_method(settings)}
    lines = [f"{NAME}/{name} = {value}" for name, value in bindings.items()]
    return "\n".join(
        [
            f"# Written from flags of openai/{project}: {given}",
            "# They do not say what it was trained on: data, batch, rate and steps below are placeholders.",
            "include 'recipes/base/adm_training.gin'",
            "",
            f"Pipeline.stages = [@{NAME}/Stage()]",
            "",
            *lines,
            "",
        ]
    )


def _data(flags: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    low = "small_size" in kwargs
    told = ["@ClassLabel()"] * (kwargs["num_classes"] is not None) + ["@LowResolution()"] * low
    return {
        "Stage.name": repr(NAME),
        "Stage.conditioning": f"[{', '.join(told)}]",
        "Images.source": "@ImageNet()",
        "Images.size": str(kwargs["image_size"]),
        "Images.test": "'validation'",
        **({"Images.low_resolution": str(kwargs["small_size"])} if low else {}),
        "Adam.learning_rate": str(float(flags.get("lr", 1e-4))),
        "Training.batch": str(int(flags.get("batch_size", 256))),
        "Training.steps": "0",
    }


def _network(kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Bindings of the network, read off the one that the flags describe."""
    network: Any = adm.network({"class": "SuperResModel" if "small_size" in kwargs else "UNetModel", "kwargs": kwargs})
    heads = network.attention.heads
    found = {
        "UNet.channels": network.channels,
        "UNet.multipliers": network.multipliers,
        "UNet.blocks": network.blocks,
        "UNet.out_channels": network.out_channels,
        "UNet.modulation": f"@{type(network.modulation).__name__}()",
        "UNet.resampling": f"@{type(network.resampling).__name__}()",
        "SelfAttention.resolutions": network.attention.resolutions,
        "SelfAttention.order": f"@{type(network.attention.order).__name__}()",
        "SelfAttention.heads": f"@{type(heads).__name__}()",
    }
    if isinstance(heads, HeadChannels):
        found["HeadChannels.channels"] = heads.channels
    else:
        found["HeadCount.count"] = heads.count
        if heads.decoder != heads.count:
            found["HeadCount.decoder"] = heads.decoder
    if network.classes is not None:
        found["UNet.classes"] = network.classes
    if network.rate:
        found["UNet.dropout"] = network.rate
    if network.low_resolution is not None:
        found["UNet.low_resolution"] = "@LowResolutionInput()"
        found["LowResolutionInput.enlarging"] = "@BilinearEnlarging()"
    return {name: str(value) for name, value in found.items()}


def _method(settings: Mapping[str, Any]) -> dict[str, str]:
    steps = settings["diffusion_steps"]
    fixed = "@FixedSmallVariance()" if settings["sigma_small"] else "@FixedLargeVariance()"
    found = {
        "DiscreteProcess.schedule": f"@{SCHEDULES[settings['noise_schedule']]}()",
        "DiscreteProcess.steps": str(steps),
        "Objective.target": "@ImageTarget()" if settings["predict_xstart"] else "@NoiseTarget()",
        "Objective.variance": "@LearnedRangeVariance()" if settings["learn_sigma"] else fixed,
    }
    if settings["rescale_timesteps"] and steps != 1000:
        found["DiscreteProcess.time_range"] = "1000.0"
    if settings["use_kl"]:
        found["Objective.loss"] = "@VLBLoss()"
    elif settings["learn_sigma"]:
        found["Objective.loss"] = "@HybridLoss()"
        if not settings["rescale_learned_sigmas"]:  # the bound's term of one step, and not the sum over all
            found["HybridLoss.weight"] = str(1 / steps)
    else:
        found["Objective.loss"] = "@SimpleLoss()"
    sampler = "DDIMSampler" if settings["use_ddim"] else "AncestralSampler"
    found["Stage.sampler"] = f"@{sampler}()"
    found[f"{sampler}.clipping"] = "@StaticClipping()"
    if spacing := settings["timestep_respacing"]:
        found[f"{sampler}.steps"] = spacing if spacing.isdigit() else repr(spacing)
    return found


# ------------------------------------------------------------------ do two networks agree?


def differences(here: Any, published: Encoder) -> list[str]:
    """Where the network of a recipe is not the published one, though the tensors may have the same shapes."""
    if type(here) is not type(published):
        return [f"it is a {type(here).__name__}, and the flags describe a {type(published).__name__}"]
    ours, theirs = _settings(here), _settings(published)
    return [f"{name} is {ours[name]}, and by the flags {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def _settings(network: Any) -> dict[str, Any]:
    """What a network computes, by what it was made with; dropout acts in training alone."""
    widths = {int(multiplier * network.channels) for multiplier in network.multipliers}
    heads = network.attention.heads
    low = getattr(network, "low_resolution", None)
    found = {
        "channels": network.channels,
        "multipliers": [float(multiplier) for multiplier in network.multipliers],
        "blocks": network.blocks,
        "out_channels": getattr(network, "out_channels", None),
        "classes": getattr(network, "classes", getattr(network, "out_classes", None)),
        "pooling": type(getattr(network, "pooling", None)).__name__,
        "time": type(network.time).__name__,
        "modulation": type(network.modulation).__name__,
        "resampling": type(network.resampling).__name__,
        "attention at": sorted(network.attention.resolutions),
        "heads": [[heads.heads(width, decoder) for width in sorted(widths)] for decoder in (False, True)],
        "order of heads": type(network.attention.order).__name__,
        "normalisation": (network.normalisation.groups, network.normalisation.epsilon),
        "residual_sum": network.residual_sum and type(network.residual_sum).__name__,
        "low_resolution": low and type(low.enlarging).__name__,
        "level of augmentation": low and low.time and type(low.time).__name__,
    }
    return found


# ------------------------------------------------------------------ back


def flags_of(learner: "Learner") -> dict[str, Any]:
    """The flags with which the public code builds the network of a stage and samples from it.

    Raises:
        UserError: naming everything that the public code has no flag for.
    """
    network: Any = learner.network
    if isinstance(learner, ClassifierStage):
        return classifier_flags.flags_of(learner)
    if not isinstance(network, UNet):
        raise UserError(
            f"the network of stage '{learner.name}' is a {type(network).__name__}, and published are U-Nets"
        )
    stage = cast("Stage", learner)
    objective, process = stage.objective, cast(DiscreteProcess, stage.objective.process)
    size, low = stage.size, stage.images.low_resolution
    _refuse(stage, network)
    heads: Any = network.attention.heads
    counts = (
        {"num_head_channels": heads.channels}
        if isinstance(heads, HeadChannels)
        else {"num_heads": heads.count, "num_heads_upsample": -1 if heads.decoder == heads.count else heads.decoder}
    )
    usual = adm_flags.UPSAMPLER_MULTIPLIERS if low else adm_flags.MULTIPLIERS
    sizes: dict[str, Any] = {"large_size": size, "small_size": low} if low else {"image_size": size}
    if usual.get(size) != network.multipliers:
        sizes["channel_mult"] = ",".join(f"{multiplier:g}" for multiplier in network.multipliers)
    if isinstance(network.attention.order, HeadsLast):
        sizes["use_new_attention_order"] = True
    return {
        **sizes,
        "num_channels": network.channels,
        "num_res_blocks": network.blocks,
        **counts,
        "attention_resolutions": ",".join(map(str, network.attention.resolutions)),
        "dropout": network.rate,
        "class_cond": network.classes is not None,
        "use_scale_shift_norm": isinstance(network.modulation, AdaptiveModulation),
        "resblock_updown": isinstance(network.resampling, ResidualResampling),
        "learn_sigma": network.out_channels == 6,
        "diffusion_steps": process.steps,
        "noise_schedule": "cosine" if isinstance(process.schedule, CosineSchedule) else "linear",
        "use_kl": isinstance(objective.loss, VLBLoss),
        "predict_xstart": isinstance(objective.target, ImageTarget),
        "rescale_timesteps": process.time_range is not None,
        "rescale_learned_sigmas": isinstance(objective.loss, HybridLoss) and objective.loss.weight == 0.001,
        "sigma_small": isinstance(objective.variance, FixedSmallVariance),
    }


def _refuse(stage: "Stage", network: Any) -> None:
    """Raises UserError where the public code has no flag for what a stage is."""
    objective, process, low = stage.objective, stage.objective.process, network.low_resolution
    schedule = process.schedule
    usual = {LinearSchedule: LinearSchedule(), CosineSchedule: CosineSchedule()}.get(type(schedule))
    wrong = {
        "UNet.time": type(network.time) is not StepEmbedding,
        "UNet.residual_sum": network.residual_sum is not None,
        "UNet.resampling": not isinstance(network.resampling, ResidualResampling | ConvolutionResampling),
        f"UNet.classes other than {adm_flags.CLASSES}": network.classes not in (None, adm_flags.CLASSES),
        "Images.channels": stage.images.channels != 3,
        "GroupNormalisation": (network.normalisation.groups, network.normalisation.epsilon) != (32, 1e-5),
        "LowResolutionInput": low is not None
        and (low.time is not None or type(low.enlarging) is not BilinearEnlarging),
        "channel multipliers of an upsampler": low is not None
        and adm_flags.UPSAMPLER_MULTIPLIERS.get(stage.size) != network.multipliers,
        "HeadsLast of an upsampler": low is not None and isinstance(network.attention.order, HeadsLast),
        "the schedule": usual is None or vars(usual) != vars(schedule),
        "Objective.process": type(process) is not DiscreteProcess,
        "DiscreteProcess.time_range": getattr(process, "time_range", None) not in (None, 1000.0),
        "Objective.target": not isinstance(objective.target, NoiseTarget | ImageTarget),
        "Objective.variance": not isinstance(
            objective.variance, LearnedRangeVariance | FixedLargeVariance | FixedSmallVariance
        ),
        "Objective.loss": not isinstance(objective.loss, HybridLoss | SimpleLoss | VLBLoss),
        "Stage.conditioning": not all(isinstance(part, ClassLabel) or low is not None for part in stage.conditioning),
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise UserError(
            f"the public code has no flag for what stage '{stage.name}' is: {', '.join(found)}. --names_only writes "
            "the tensors alone"
        )
