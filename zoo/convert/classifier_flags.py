"""Classifiers of noised images as flags of the public code, with which its own programs build and train them."""

from typing import Any

import numpy as np

from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.convert import adm, adm_flags
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.networks.attention import HeadChannels
from zoo.networks.blocks import AdaptiveModulation
from zoo.networks.resampling import ConvolutionResampling, ResidualResampling


def flags_of(stage: ClassifierStage) -> dict[str, Any]:
    """The flags with which the public code builds the classifier of a stage.

    Raises:
        UserError: naming everything that the public code has no flag for.
    """
    network, process = stage.network, stage.process
    flags = {
        "image_size": stage.size,
        "classifier_width": network.channels,
        "classifier_depth": network.blocks,
        "classifier_attention_resolutions": ",".join(map(str, network.attention.resolutions)),
        "classifier_use_scale_shift_norm": isinstance(network.modulation, AdaptiveModulation),
        "classifier_resblock_updown": isinstance(network.resampling, ResidualResampling),
        "classifier_pool": next((name for name, kind in adm.POOLINGS.items() if type(network.pooling) is kind), None),
        "diffusion_steps": process.steps,
        "noise_schedule": "cosine" if isinstance(process.schedule, CosineSchedule) else "linear",
        "rescale_timesteps": getattr(process, "time_range", None) is not None,
    }
    heads = network.attention.heads
    usual = {LinearSchedule: LinearSchedule(), CosineSchedule: CosineSchedule()}.get(type(process.schedule))
    wrong = {
        "NoisyClassifier.multipliers": adm_flags.MULTIPLIERS.get(stage.size) != network.multipliers,
        f"NoisyClassifier.out_classes other than {adm_flags.CLASSES}": network.out_classes != adm_flags.CLASSES,
        "heads other than 64 channels each": not isinstance(heads, HeadChannels) or heads.channels != 64,
        "NoisyClassifier.pooling": flags["classifier_pool"] is None,
        "NoisyClassifier.residual_sum": network.residual_sum is not None,
        "NoisyClassifier.resampling": not isinstance(network.resampling, ResidualResampling | ConvolutionResampling),
        "GroupNormalisation": (network.normalisation.groups, network.normalisation.epsilon) != (32, 1e-5),
        "Images.channels": stage.images.channels != 3,
        "the schedule": usual is None
        or not np.array_equal(usual.betas(process.steps), process.schedule.betas(process.steps)),
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise UserError(
            f"the public code has no flag for what stage '{stage.name}' is: {', '.join(found)}. --names_only writes "
            "the tensors alone"
        )
    return flags
