"""A stage is a network with all it needs to be trained and sampled; a pipeline is a list of stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.data.images import Images
from zoo.diffusion.conditioning import Conditioning, Origin
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import Sampler
from zoo.learner import Learner
from zoo.likelihood import Likelihood
from zoo.method import Method
from zoo.origins import StageSamples
from zoo.sampling import SampleSet
from zoo.stage_checks import check_dropout, check_ends, check_fit, check_text, check_truncation
from zoo.training.distribution import Machines
from zoo.training.observers import SampleGrids
from zoo.training.trainer import Training


class Evaluation(Protocol):
    """What a pipeline needs of the harness: scores of a folder of samples, as plain data."""

    def evaluate(self, samples_dir: Path, images: Images, cache: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """See harness.evaluation.Evaluation."""

    def check_features(self, images: Images) -> None:
        """Fails where the feature network cannot be had for these images."""


class Stage(Method, Learner):
    """One model of a cascade: network, diffusion, data, optimizer and sampler.

    Args:
        name: of its folders and on the screen.
        network: the denoiser; it makes its variables when `build_network` is called.
        objective: process, target, variance and loss.
        images: the data.
        sampler: the walk from noise to image.
        training: batch, steps, optimizer.
        conditioning: what the network is told besides the noise level.

    Attributes:
        classifier: the stage whose classifier guides its samples, which the pipeline looks up; None where none does.
        teacher: the stage that it learns from, as a student (DistilledStage); None where it learns from data.
    """

    observer = SampleGrids
    classifier: ClassifierStage | None = None
    teacher: "Stage | None" = None

    def __init__(
        self,
        name: str,
        network: keras.Model,
        objective: Objective,
        images: Images,
        sampler: Sampler,
        training: Training,
        conditioning: tuple[Conditioning, ...] = (),
    ) -> None:
        super().__init__(name, network, images, training)
        self.objective, self.sampler, self.conditioning = objective, sampler, tuple(conditioning)
        self.levels, self.level_steps = objective.levels, objective.process.steps
        sampler.walks(objective.process)  # a respacing that cannot be had is found before training
        check_ends(self)
        check_dropout(self, sampler.guidance)
        check_text(self)
        enlarges = self.low_resolution is not None
        if enlarges != (images.low_resolution is not None):
            raise ValueError(
                f"conditioning of stage '{name}' {'has' if enlarges else 'lacks'} LowResolution, but "
                f"Images.low_resolution is {images.low_resolution}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape

    @property
    def sampler_steps(self) -> int:  # type: ignore[override]
        """Network evaluations a sample, those of a classifier left out."""
        steps = sum(first + 1 for first in self.sampler.walks(self.objective.process))
        return steps * (1 if self.sampler.guidance is None else self.sampler.guidance.evaluations)

    @property
    def labelled(self) -> bool:
        """Whether its samples have a class: the network is told it, or guided towards it."""
        return self.conditioned_on_class or self.classifier is not None

    @property
    def origin(self) -> Origin:
        """Where its low-resolution images come from at sampling."""
        return (self.low_resolution and self.low_resolution.origin) or StageSamples()

    @property
    def level(self) -> float:
        """s of its augmentation at sampling."""
        return getattr(self.low_resolution and self.low_resolution.augmentation, "s", 0)

    def low_resolution_images(self, indices: np.ndarray, before: Path | None, shard: int) -> dict[str, np.ndarray]:
        """What its sample set `indices` is made from; see `Origin.read`."""
        return self.origin.read(indices, self.images, before, shard, self.level)

    def knows(self, steps: DiscreteProcess) -> bool:
        """Whether its network is trained at every noise level that a walk over `steps` visits."""
        return True

    def step_after(self, s: int) -> int:
        """The step of its sampler that takes on z_s.

        Raises:
            ValueError: the sampler passes over that level.
        """
        trained, plan = self.objective.process, self.sampler.plan(self.objective.process)
        index = plan.index_after(trained.signal(s)) if 1 <= s <= trained.steps else None
        if index is None:
            raise ValueError(
                f"s must be a level that the {plan.steps} steps of stage '{self.name}' visit: "
                f"{plan.nearest(trained, s)}, got {s}"
            )
        return index

    def check_classes(self) -> None:
        known = getattr(self.network, "classes", None)
        if self.conditioned_on_class != (known is not None):
            raise ValueError(
                f"classes of the network are {known}, but conditioning of stage '{self.name}' "
                f"{'has' if self.conditioned_on_class else 'lacks'} ClassLabel"
            )
        if known is not None and known != self.images.classes:
            raise ValueError(f"classes must be {self.images.classes}, as the data of stage '{self.name}', got {known}")
        if self.classifier is not None and self.classifier.classes != self.images.classes:
            raise ValueError(
                f"{self.classifier.name}/NoisyClassifier.out_classes must be {self.images.classes}, the classes of the "
                f"data of stage '{self.name}', which it guides; got {self.classifier.classes}"
            )


class Pipeline:
    """A cascade: each stage enlarges the images of the stage before. One model is a list of one stage.

    Args:
        stages: from the lowest resolution up; a classifier stands before the stages that it guides, a teacher before
            its students.
        samples: what is sampled by default.
        evaluation: how the samples of the last stage are scored; None does not score.
        seed: of initial weights, data order, noise and samples.
        machines: that it runs on; None takes those at hand. --strategy comes before it.
        likelihood: what `--do likelihood` measures; None is `Likelihood()`, the whole test split in every step.

    Attributes:
        makers: those of the stages that make images, in order.
        cascade: those of them that a sample goes through: a student stands in the place of its teacher.
    """

    def __init__(
        self,
        stages: list[Learner],
        samples: SampleSet,
        evaluation: Evaluation | None = None,
        seed: int = 0,
        machines: Machines | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        if not stages:
            raise ValueError("stages must not be empty")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have different names, got {names}")
        self.stages, self.samples, self.evaluation, self.seed = list(stages), samples, evaluation, seed
        self.machines, self.likelihood = machines, likelihood or Likelihood()
        self.makers = [stage for stage in stages if isinstance(stage, Stage)]
        for stage in self.makers:
            stage.teacher = self._teacher(stage)
            stage.classifier = self._guide(stage)
            stage.objective.process.respace(self.likelihood.steps)  # what cannot be had is found before training
        teachers = [stage.teacher for stage in self.makers]
        self.cascade = [stage for stage in self.makers if stage not in teachers]
        for before, stage in zip([None, *self.cascade], self.cascade, strict=False):
            check_fit(before, stage)
            if before is not None and stage.origin.truncated:
                check_truncation(before, stage)

    @property
    def last(self) -> Stage:
        """The stage whose images are those of the pipeline."""
        if not self.cascade:
            raise UserError(f"this recipe makes no images: of its stages ({self._names()}) none is a Stage")
        return self.cascade[-1]

    def _names(self) -> str:
        return ", ".join(stage.name for stage in self.stages)

    def _guide(self, stage: Stage) -> ClassifierStage | None:
        """The stage whose classifier guides `stage`."""
        guidance = stage.sampler.guidance
        if guidance is None or guidance.asks is None:
            return None
        before = self.stages[: self.stages.index(stage)]
        known = {other.name: other for other in before if isinstance(other, ClassifierStage)}
        if guidance.asks not in known:
            raise ValueError(
                f"{stage.name}/{type(guidance).__name__}.classifier must be the name of a ClassifierStage that stands "
                f"in Pipeline.stages before '{stage.name}' ({', '.join(known) or 'there is none'}), got "
                f"'{guidance.asks}'"
            )
        known[guidance.asks].check_guided(stage)
        return known[guidance.asks]

    def _teacher(self, stage: Stage) -> Stage | None:
        """The one of the stages that `stage` learns from, and not the copy of it that the stage was built with."""
        if stage.teacher is None:
            return None
        known = {other.name: other for other in self.makers[: self.makers.index(stage)]}
        if stage.teacher.name not in known:
            raise ValueError(
                f"teacher of stage '{stage.name}' is '{stage.teacher.name}', which must stand in Pipeline.stages "
                f"before it ({', '.join(known) or 'there is none'})"
            )
        return known[stage.teacher.name]

    def stage(self, name: str) -> Learner:
        """The stage of a name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"--stage must be one of {self._names()}, got '{name}'")

    def before(self, stage: Stage) -> Stage | None:
        """The stage whose images `stage` enlarges."""
        position = self._position(stage)
        return self.cascade[position - 1] if position and stage.origin.chained else None

    def after(self, stage: Stage) -> Stage | None:
        """The stage that enlarges the images of `stage`."""
        following = self.cascade[self._position(stage) + 1 :][:1]
        return following[0] if following and following[0].origin.chained else None

    def _position(self, stage: Stage) -> int:
        """In the cascade; a teacher's is that of the student in its place."""
        while stage not in self.cascade:
            stage = next(other for other in self.makers if other.teacher is stage)
        return self.cascade.index(stage)

    def kept_levels(self, stage: Stage) -> tuple[int, ...]:
        """The levels s at which the next stage needs z_s of `stage`; 0 is the image before it is rounded."""
        after = self.after(stage) if stage in self.cascade else None
        if after is None or after.low_resolution is None:
            return ()
        if after.origin.truncated:
            levels = {*(getattr(after.origin, "levels", None) or ()), int(after.level)}
            return tuple(sorted(levels))
        return (0,) if after.low_resolution.rounding is None else ()
