"""In which numbers a network computes. Weights, averages, optimizer slots and normalisation stay float32."""

import abc


class Precision(abc.ABC):
    """Contract of the family: the Keras policy that the network is built under, and whether its loss is scaled."""

    policy: str
    """Of keras.DTypePolicy."""
    scaled: bool = False
    """Whether the loss is multiplied before the backward pass, so that small gradients do not vanish."""
    initial_scale: float = 1.0
    """Of the loss."""
    growth_every: int = 1
    """Steps without an overflow after which the scale doubles."""


class Float32(Precision):
    """Single precision throughout."""

    policy = "float32"


class BFloat16(Precision):
    """Products and activations in bfloat16, which has the range of float32: no scale is needed."""

    policy = "mixed_bfloat16"


class Float16(Precision):
    """Products and activations in float16, with a dynamic scale of the loss (Micikevicius et al. 2018, section 3.2).

    A step whose gradients overflow is not taken and halves the scale; it doubles after `growth_every` others.
    """

    policy = "mixed_float16"
    scaled = True

    def __init__(self, initial_scale: float = 2.0**15, growth_every: int = 2000) -> None:
        if initial_scale < 1:
            raise ValueError(f"initial_scale must be at least 1, got {initial_scale}")
        if growth_every < 1:
            raise ValueError(f"growth_every must be positive, got {growth_every}")
        self.initial_scale, self.growth_every = initial_scale, growth_every
