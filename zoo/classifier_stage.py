"""The stage that trains a classifier of noised images, for classifier guidance (ADM, section 4)."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from zoo.data.images import Images
from zoo.diffusion.conditioning import Draws
from zoo.diffusion.guidance import log_probability
from zoo.diffusion.process import Process
from zoo.learner import Learner
from zoo.method import Specification
from zoo.training.observers import HeldOutAccuracy
from zoo.training.trainer import Training

if TYPE_CHECKING:
    from zoo.pipeline import Stage


class ClassifierStage(Learner):
    """Trains p(y | z_t) by cross-entropy, at noise levels drawn as for a denoiser (ADM, section 4.3).

    It stands in `Pipeline.stages` before the stages that it guides, and makes no images. Random crops
    (`Images.random_crop`) and weight decay (`Adam.weight_decay`) keep it from overfitting.

    Args:
        name: of its folders and on the screen; `ClassifierGuidance.classifier` refers to it.
        network: the classifier; it makes its variables when `build_network` is called.
        process: the noise, as that of the stages that it guides.
        images: the data, with classes.
        training: batch, steps, optimizer.
        held_out: test images, each at a noise level of its own, that its accuracy is measured on every
            `Monitoring.grid_every` steps.
    """

    observer = HeldOutAccuracy

    def __init__(
        self,
        name: str,
        network: keras.Model,
        process: Process,
        images: Images,
        training: Training,
        held_out: int = 1000,
    ) -> None:
        super().__init__(name, network, images, training)
        if held_out < 1:
            raise ValueError(f"held_out must be positive, got {held_out}")
        if not hasattr(network, "out_classes"):
            raise ValueError(f"network must be a classifier, such as NoisyClassifier, got {type(network).__name__}")
        if images.low_resolution is not None:
            raise ValueError(
                f"Images.low_resolution of stage '{name}' must be None: a classifier is told the noised image alone, "
                f"got {images.low_resolution}"
            )
        if training.monitoring.selection is not None:
            raise ValueError(f"Monitoring.selection of stage '{name}' must be None: a classifier makes no samples")
        self.process, self.held_out = process, held_out

    @property
    def classes(self) -> int:
        """That it tells apart."""
        return self.network.out_classes

    def input_spec(self, batch: int) -> Specification:
        return {"image": ((batch, *self.images.shape), "float32"), self.process.told: ((batch,), "float32")}

    def output_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.classes

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        return {"noise": ("normal", shapes["image"]), "level": ("uniform", (shapes["image"][0], 2))}

    def training_loss(self, network: Any, batch: dict[str, Any], random: dict[str, Any], seed: Any) -> Any:
        """-log p(y | z_t) [B], t drawn uniformly."""
        logits = self.logits(network, batch["image"], random, seed)
        return -log_probability(logits, batch["label"])

    def logits(self, network: Any, x: Any, random: dict[str, Any], seed: Any = None) -> Any:
        """What the classifier says [B, classes] of images [B, H, W, C] made noisy by what `randomness` names."""
        level = self.process.draw(random["level"])
        z = self.process.corrupt(x, random["noise"], level)
        logits = network({"image": z, **level.inputs, **({} if seed is None else {"seed": seed})})
        return ops.cast(logits, ops.dtype(z))

    def check_classes(self) -> None:
        if self.images.classes != self.classes:
            raise ValueError(
                f"out_classes must be {self.images.classes}, as the data of stage '{self.name}' have, got "
                f"{self.classes}"
            )

    def check_guided(self, stage: "Stage") -> None:
        """Raises ValueError where it cannot guide the samples of a stage; the classes of data are not looked at."""
        made, seen = (" x ".join(map(str, one.images.shape)) for one in (stage, self))
        if made != seen:
            raise ValueError(
                f"{self.name}/Images.size must be that of '{stage.name}', which it guides: {made} (with the channels), "
                f"got {seen}"
            )
        told = getattr(stage.network, "classes", None)
        if told is not None and told != self.classes:
            raise ValueError(
                f"{self.name}/NoisyClassifier.out_classes must be {told}, the classes of '{stage.name}', which it "
                f"guides; got {self.classes}"
            )
        noise = stage.objective.process
        if not np.array_equal(noise.respace(None).alphas_cumprod, self.process.respace(None).alphas_cumprod):
            raise ValueError(
                f"{self.name}/ClassifierStage.process must make the noise of '{stage.name}', which it guides: "
                f"{_shown(noise)}; got {_shown(self.process)}"
            )
        stage.sampler.plan(self.process)  # a schedule of its own needs a classifier that is told the noise level itself


def _shown(process: Process) -> str:
    """Steps and schedule, with what tells two schedules of a kind apart."""
    values = ", ".join(
        f"{name} = {value}" for name, value in vars(process.schedule).items() if isinstance(value, int | float)
    )
    return f"{process.steps:,} steps of {type(process.schedule).__name__}" + (f" ({values})" if values else "")
