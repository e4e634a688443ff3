"""What sampling takes of a device's memory."""

from dataclasses import asdict, dataclass

from zoo.budget import FLOAT_BYTES, Switches, Work
from zoo.cost import HALF_BYTES
from zoo.devices import FLOAT32, Device


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes of one replica while it samples; the parts add up to the total."""

    weights: float
    """Of the denoiser."""
    guide_weights: float
    """Of the classifier that guides it."""
    half_weights: float
    """The denoiser's again, in half precision, while it computes in it."""
    activations: float
    """At the worst moment: of the denoiser, which keeps nothing, or of the classifier with its gradient."""
    inputs: float
    program: float
    """On a processor: what this program takes besides, its libraries and graphs."""

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


def sampling_memory(
    work: Work, switches: Switches, images: int, guide: Work | None = None, program: float = 0.0
) -> SamplingMemory:
    """Of one replica that samples `images` at once.

    Args:
        guide: the classifier that guides, of which a step takes the gradient in the image.
        program: bytes of the process, on a processor.
    """
    activations = work.cost.activations(switches.policy).forward
    if guide is not None:
        activations = max(activations, guide.cost.activations(FLOAT32).total(recompute=False))
    return SamplingMemory(
        weights=FLOAT_BYTES * work.parameters,
        guide_weights=0.0 if guide is None else FLOAT_BYTES * guide.parameters,
        half_weights=0.0 if switches.policy == FLOAT32 else HALF_BYTES * work.trainable,
        activations=activations * images,
        inputs=work.input_bytes * images,
        program=program,
    )


def images_that_fit(work: Work, switches: Switches, device: Device, guide: Work | None, program: float) -> int:
    """How many images a replica can sample at once; 0 where not even one fits."""
    none, one = (sampling_memory(work, switches, images, guide, program).total for images in (0, 1))
    return max(0, int((device.usable_bytes - none) // (one - none)))
