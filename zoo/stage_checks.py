"""What of a stage must go together: embedding and noise schedule, guidance and dropped labels, text and its encoder.

And what two stages of a cascade must have in common.
"""

from typing import TYPE_CHECKING

import numpy as np

from zoo.diffusion.conditioning import Condition, GaussianNoise
from zoo.diffusion.guidance import Guidance
from zoo.networks.embeddings import LogSNREmbedding

if TYPE_CHECKING:
    from zoo.pipeline import Stage


def check_ends(stage: "Stage") -> None:
    """Raises ValueError where the embedding of the log SNR, which is blind beyond its ends, ends before the schedule.

    simple diffusion, appendix A: the ends move with a shifted schedule.
    """
    ends, time = getattr(stage.objective.process, "logsnr_range", None), getattr(stage.network, "time", None)
    if ends is None or not isinstance(time, LogSNREmbedding):
        return
    if time.smallest > ends[0] + 1e-6 or time.largest < ends[1] - 1e-6:
        raise ValueError(
            f"time: the embedding of stage '{stage.name}' reaches from log SNR {time.smallest:.4g} to "
            f"{time.largest:.4g}, but the schedule runs from {ends[0]:.4g} to {ends[1]:.4g}: give both the same "
            "noise_d and image_d"
        )


def check_dropout(stage: "Stage", guidance: Guidance | None) -> None:
    """Raises ValueError where guidance asks for the network without a condition that it was always trained with."""
    if guidance is None or not guidance.drops:
        return
    told = [part for part in stage.conditioning if isinstance(part, Condition)]
    name = type(guidance).__name__
    if not told:
        raise ValueError(
            f"guidance: {name} of stage '{stage.name}' turns samples towards their class or text, and the network is "
            "told neither: set Stage.conditioning = [@ClassLabel()]"
        )
    for part in told:
        if not part.dropout:
            kind = type(part).__name__
            raise ValueError(
                f"guidance: {name} also asks the network of stage '{stage.name}' without its {kind}, which it is "
                f"always trained with: set {kind}.dropout (0.1 is usual) and train it again"
            )


def check_text(stage: "Stage") -> None:
    """Raises ValueError where conditioning, data and network do not all have a text, or not all an orientation."""
    told, words = stage.conditioned_on_text, "has" if stage.conditioned_on_text else "lacks"
    if told != (stage.images.text is not None):
        raise ValueError(
            f"conditioning of stage '{stage.name}' {words} Text, but Images.text is "
            f"{'None' if told else '@Texts()'}: one needs the other"
        )
    if told != (getattr(stage.network, "text", None) is not None):
        raise ValueError(
            f"conditioning of stage '{stage.name}' {words} Text, but its network {type(stage.network).__name__} "
            f"{'is told no' if told else 'wants a'} text: one needs the other (UViT.text = @TextInput())"
        )
    knows = getattr(getattr(stage.network, "text", None), "portrait", False)
    if not stage.oriented == knows == stage.images.crop.turns:
        raise ValueError(
            f"conditioning of stage '{stage.name}' {'has' if stage.oriented else 'lacks'} Orientation, its network is "
            f"told {'the' if knows else 'no'} orientation (UViT.text = @TextAndOrientationInput()), and Images.crop "
            f"turns {'tall pictures' if stage.images.crop.turns else 'no picture'} (@LandscapeCrop()): all three go "
            "together"
        )


def check_truncation(before: "Stage", stage: "Stage") -> None:
    """Raises ValueError where the levels of the augmentation are no levels of the walk that is stopped."""
    augmentation = stage.low_resolution and stage.low_resolution.augmentation
    if not isinstance(augmentation, GaussianNoise):
        raise ValueError(f"origin: stage '{stage.name}' takes z_s of '{before.name}', which needs GaussianNoise")
    levels, walked = (p.respace(None).alphas_cumprod for p in (augmentation.process, before.objective.process))
    if augmentation.s != int(augmentation.s) or not np.array_equal(levels, walked):
        raise ValueError(
            f"origin: z_s of '{before.name}' is no level of GaussianNoise in stage '{stage.name}': set "
            f"{stage.name}/GaussianNoise.process to the process of '{before.name}', and s to a whole number"
        )
    for s in {*(getattr(stage.origin, "levels", None) or ()), int(augmentation.s)} - {0}:
        before.step_after(s)


def check_fit(before: "Stage | None", stage: "Stage") -> None:
    """Raises ValueError where a stage does not enlarge the images of the stage before."""
    low = stage.images.low_resolution
    if before is None:
        return  # a first stage with a low-resolution input enlarges images from elsewhere
    if low is None:
        raise ValueError(
            f"stages: '{stage.name}' follows '{before.name}' but takes no low-resolution images: set "
            f"{stage.name}/Images.low_resolution = {before.size}"
        )
    if low != before.size:
        raise ValueError(
            f"stages: '{stage.name}' takes low-resolution images of {low} pixels, but '{before.name}' gives "
            f"{before.size}: set {stage.name}/Images.low_resolution = {before.size}"
        )
    if low > stage.size or stage.size % low:
        raise ValueError(f"stages: {low} pixels cannot be enlarged to {stage.size} by a whole factor")
