"""Names and shapes of guided-diffusion's tensors, derived a second time from the arguments of its classes.

This knows nothing of the networks of the zoo: it keeps the account of widths that the published builders keep.
"""

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


class Account:
    """Collects tensors module by module."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self.given, self.found = kwargs, Shapes()
        self.embedding = 4 * kwargs["model_channels"]
        self.adaptive = bool(kwargs.get("use_scale_shift_norm"))
        self.inside = bool(kwargs.get("resblock_updown"))

    def add(self, name: str, *shape: int) -> None:
        """A weight and its bias."""
        self.found[f"{name}.weight"], self.found[f"{name}.bias"] = shape, shape[:1]

    def block(self, name: str, width_in: int, width_out: int) -> None:
        self.add(f"{name}.in_layers.0", width_in)
        self.add(f"{name}.in_layers.2", width_out, width_in, 3, 3)
        self.add(f"{name}.emb_layers.1", width_out * (2 if self.adaptive else 1), self.embedding)
        self.add(f"{name}.out_layers.0", width_out)
        self.add(f"{name}.out_layers.3", width_out, width_out, 3, 3)
        if width_in != width_out:
            self.add(f"{name}.skip_connection", width_out, width_in, 1, 1)

    def attention(self, name: str, width: int) -> None:
        self.add(f"{name}.norm", width)
        self.add(f"{name}.qkv", 3 * width, width, 1)
        self.add(f"{name}.proj_out", width, width, 1)

    def resampling(self, name: str, width: int, convolution: str) -> None:
        if self.inside:
            self.block(name, width, width)
        elif self.given.get("conv_resample", True):
            self.add(f"{name}.{convolution}", width, width, 3, 3)


def tensors(kind: str, kwargs: Mapping[str, Any]) -> Shapes:
    """Name -> shape of every tensor of a 'UNetModel', 'SuperResModel' or 'EncoderUNetModel'."""
    account = Account(kwargs)
    base, multipliers = kwargs["model_channels"], kwargs.get("channel_mult", (1, 2, 4, 8))
    account.add("time_embed.0", account.embedding, base)
    account.add("time_embed.2", account.embedding, account.embedding)
    if kwargs.get("num_classes") is not None:
        account.found["label_emb.weight"] = (kwargs["num_classes"], account.embedding)
    width, factor, number = int(multipliers[0] * base), 1, 0
    account.add("input_blocks.0.0", width, 6 if kind == "SuperResModel" else 3, 3, 3)
    skips = [width]
    for level, multiplier in enumerate(multipliers):
        for _ in range(kwargs["num_res_blocks"]):
            number += 1
            account.block(f"input_blocks.{number}.0", width, int(multiplier * base))
            width = int(multiplier * base)
            if factor in kwargs["attention_resolutions"]:
                account.attention(f"input_blocks.{number}.1", width)
            skips.append(width)
        if level < len(multipliers) - 1:
            number += 1
            account.resampling(f"input_blocks.{number}.0", width, "op")
            skips.append(width)
            factor *= 2
    account.block("middle_block.0", width, width)
    account.attention("middle_block.1", width)
    account.block("middle_block.2", width, width)
    if kind == "EncoderUNetModel":
        pool(account, width, sum(skips) + width, kwargs["image_size"] // factor)
        return account.found
    number = -1
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for block in range(kwargs["num_res_blocks"] + 1):
            number, layer = number + 1, 1
            account.block(f"output_blocks.{number}.0", width + skips.pop(), int(multiplier * base))
            width = int(multiplier * base)
            if factor in kwargs["attention_resolutions"]:
                account.attention(f"output_blocks.{number}.1", width)
                layer = 2
            if level and block == kwargs["num_res_blocks"]:
                account.resampling(f"output_blocks.{number}.{layer}", width, "conv")
                factor //= 2
    account.add("out.0", width)
    account.add("out.2", kwargs["out_channels"], width, 3, 3)
    return account.found


def pool(account: Account, width: int, all_widths: int, size: int) -> None:
    classes, hidden = account.given["out_channels"], 2048
    match account.given["pool"]:
        case "adaptive":
            account.add("out.0", width)
            account.add("out.3", classes, width, 1, 1)
        case "attention":
            account.add("out.0", width)
            account.found["out.2.positional_embedding"] = (width, size**2 + 1)
            account.add("out.2.qkv_proj", 3 * width, width, 1)
            account.add("out.2.c_proj", classes, width, 1)
        case "spatial":
            account.add("out.0", hidden, all_widths)
            account.add("out.2", classes, hidden)
        case "spatial_v2":
            account.add("out.0", hidden, all_widths)
            account.add("out.1", hidden)
            account.add("out.3", classes, hidden)
