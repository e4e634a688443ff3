"""The command-line flags of openai/guided-diffusion and openai/improved-diffusion, as arguments of their networks."""

import difflib
import shlex
from collections.abc import Mapping
from typing import Any

from zoo.console import UserError

Flags = Mapping[str, Any]

CLASSES = 1000
"""Of their class-conditional models and classifiers, which are all ImageNet's."""

DIFFUSION: dict[str, Any] = {
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
    "sigma_small": False,
    "use_ddim": False,
}
UNET: dict[str, Any] = {
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
}
SIZED: dict[str, Any] = {"image_size": 64, "channel_mult": "", "use_new_attention_order": False}
UPSAMPLER: dict[str, Any] = {"large_size": 256, "small_size": 64}
CLASSIFIER: dict[str, Any] = {
    "image_size": 64,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
}
IMPROVED: dict[str, Any] = {"rescale_timesteps": True, "rescale_learned_sigmas": True}
"""Where the defaults of improved-diffusion are other ones."""
# Said to the same programs, and nothing about the network or the process: precision, files, training, sampling.
ELSEWHERE = {
    "use_checkpoint", "use_fp16", "classifier_use_fp16", "fp16_scale_growth", "data_dir",
    "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps", "batch_size", "microbatch", "ema_rate", "log_interval",
    "save_interval", "resume_checkpoint", "num_samples", "model_path", "clip_denoised", "classifier_path",
    "classifier_scale", "base_samples", "val_data_dir", "noised", "iterations", "anneal_lr", "eval_interval",
    "base_name",
}  # fmt: skip

MULTIPLIERS: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
"""By the size of the image, where the flags give none; 512 and 128 are guided-diffusion's, 32 improved-diffusion's."""
UPSAMPLER_MULTIPLIERS = {512: (1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 64: (1, 2, 3, 4)}


def from_text(text: str) -> dict[str, str]:
    """'--image_size 64 --class_cond True' as a map."""
    words = [word for part in shlex.split(text) for word in part.split("=", 1)]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise UserError(f"flags must be pairs such as '--image_size 64 --class_cond True', got '{text}'")
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def named(flags: Flags) -> dict[str, Any]:
    """The same flags without dashes."""
    return {name.removeprefix("--"): value for name, value in flags.items()}


def kind(flags: Flags) -> str:
    """Of the network that flags describe: 'model', 'upsampler' or 'classifier'.

    Raises:
        UserError: the flags of two networks at once.
    """
    flags = named(flags)
    of_model = [name for name in flags if name in UNET]
    of_classifier = [name for name in flags if name in CLASSIFIER and name != "image_size"]
    if of_model and of_classifier:
        raise UserError(
            f"the flags describe a denoiser ({of_model[0]}, ...) and a classifier ({of_classifier[0]}, ...): leave "
            "those of the one network that the weights are of"
        )
    if of_classifier:
        return "classifier"
    return "upsampler" if any(name in UPSAMPLER for name in flags) else "model"


def resolved(flags: Flags, improved: bool = False) -> dict[str, Any]:
    """All flags of a network and its process, with the project's defaults where one is not given.

    Args:
        flags: by name, without dashes; values as on a command line or as they are meant.
        improved: of improved-diffusion rather than guided-diffusion, which differ in two defaults.

    Raises:
        UserError: an unknown flag or a value that the flag cannot have.
    """
    flags = named(flags)
    own = {
        "model": {**UNET, **SIZED, **DIFFUSION},
        "upsampler": {**UNET, **UPSAMPLER, **DIFFUSION},
        "classifier": {**CLASSIFIER, **DIFFUSION},
    }[kind(flags)]
    unknown = [name for name in flags if name not in own and name not in ELSEWHERE]
    if unknown:
        near = difflib.get_close_matches(unknown[0], own, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(own)}"
        raise UserError(f"there is no flag {unknown[0]} of a {kind(flags)}; {hint}")
    defaults = {**own, **(IMPROVED if improved else {})}
    return {name: _value(name, flags.get(name, default), default) for name, default in defaults.items()}


def _value(name: str, given: Any, default: Any) -> Any:
    """A value in the type of the flag's default."""
    text = str(given).strip()
    if isinstance(default, bool):
        words = {"true": True, "false": False, "yes": True, "no": False, "t": True, "f": False, "1": True, "0": False}
        if text.lower() not in words:
            raise UserError(f"flag {name} must be True or False, got {given!r}")
        return words[text.lower()]
    if isinstance(default, str):
        return ",".join(map(str, given)) if isinstance(given, list | tuple) else text
    try:
        return type(default)(text)
    except ValueError as error:
        raise UserError(f"flag {name} must be a number, got {given!r}") from error


def description(flags: Flags) -> dict[str, Any]:
    """The network that flags describe: `class` and `kwargs`, as the program's builder would call it.

    Args:
        flags: as for `resolved`.

    Raises:
        UserError: flags that the published builder refuses too.
    """
    which, all_flags = kind(flags), resolved(flags)
    if which == "classifier":
        return _classifier(all_flags)
    size = all_flags["large_size" if which == "upsampler" else "image_size"]
    if which == "upsampler":
        small = all_flags["small_size"]
        if small < 1 or size % small:
            raise UserError(f"large_size must be a multiple of small_size, got {size} and {small}")
    names = (
        "num_heads",
        "num_heads_upsample",
        "num_head_channels",
        "use_scale_shift_norm",
        "resblock_updown",
        "dropout",
    )
    return {
        "class": "SuperResModel" if which == "upsampler" else "UNetModel",
        "kwargs": {
            "image_size": size,
            "model_channels": all_flags["num_channels"],
            "out_channels": 6 if all_flags["learn_sigma"] else 3,
            "num_res_blocks": all_flags["num_res_blocks"],
            "attention_resolutions": _factors(size, all_flags["attention_resolutions"], "attention_resolutions"),
            "channel_mult": _multipliers(size, all_flags.get("channel_mult", ""), which == "upsampler"),
            "num_classes": CLASSES if all_flags["class_cond"] else None,
            "use_new_attention_order": all_flags.get("use_new_attention_order", False),
            **({"small_size": all_flags["small_size"]} if which == "upsampler" else {}),
            **{name: all_flags[name] for name in names},
        },
    }


def _classifier(flags: Flags) -> dict[str, Any]:
    size, at = flags["image_size"], "classifier_attention_resolutions"
    return {
        "class": "EncoderUNetModel",
        "kwargs": {
            "image_size": size,
            "model_channels": flags["classifier_width"],
            "out_channels": CLASSES,
            "num_res_blocks": flags["classifier_depth"],
            "attention_resolutions": _factors(size, flags[at], at),
            "channel_mult": _multipliers(size, "", False),
            "num_head_channels": 64,
            "use_scale_shift_norm": flags["classifier_use_scale_shift_norm"],
            "resblock_updown": flags["classifier_resblock_updown"],
            "pool": flags["classifier_pool"],
        },
    }


def _factors(size: int, text: str, name: str) -> tuple[int, ...]:
    """'32,16' at 64 pixels -> (2, 4): how much smaller than the image the feature maps are that attend."""
    try:
        resolutions = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"flag {name} must be sizes such as 32,16,8, got '{text}'") from error
    wrong = [resolution for resolution in resolutions if resolution < 1 or size % resolution]
    if wrong:
        raise UserError(f"flag {name} must divide the image size {size}, got {wrong[0]}")
    return tuple(size // resolution for resolution in resolutions)


def _multipliers(size: int, text: str, upsampler: bool) -> tuple[float, ...]:
    if text:
        try:
            return tuple(float(part) if "." in part else int(part) for part in text.split(","))
        except ValueError as error:
            raise UserError(f"flag channel_mult must be numbers such as 1,2,3,4, got '{text}'") from error
    table = UPSAMPLER_MULTIPLIERS if upsampler else MULTIPLIERS
    if size not in table:
        raise UserError(f"no channel multipliers are published for {size} pixels: known are {sorted(table)}")
    return table[size]
