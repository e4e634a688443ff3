"""The stage whose network learns from that of another stage: distillation (Salimans and Ho 2022; Meng et al. 2022)."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.console import UserError
from zoo.diffusion.conditioning import Condition, Conditioning
from zoo.diffusion.distillation import Distillation
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import Sampler
from zoo.learner import Learner
from zoo.pipeline import Stage
from zoo.stage_checks import check_dropout
from zoo.training.checkpoints import Checkpoints
from zoo.training.step import trained_variables
from zoo.training.trainer import Training, restore_network
from zoo.whole_files import write_text


class DistilledStage(Stage):
    """A student: it has data, objective and conditioning of its teacher, begins with the teacher's averaged weights
    and learns what a distillation makes of the teacher's answers.

    It stands in `Pipeline.stages` after its teacher, in whose place it then makes images. It is always told its class
    or text: not to be told is for guidance, which the first student has learned by itself.

    Args:
        name: of its folders and on the screen.
        teacher: the stage that it learns from, itself a student or not.
        distillation: what it learns.
        network: another one of the teacher's architecture; it makes its variables when `build_network` is called.
        sampler: the walk from noise to image, over noise levels that the student knows.
        training: batch, steps, optimizer.
    """

    teacher: Stage

    def __init__(
        self,
        name: str,
        teacher: Stage,
        distillation: Distillation,
        network: keras.Model,
        sampler: Sampler,
        training: Training,
    ) -> None:
        objective = copy.copy(teacher.objective)
        objective.levels = None  # which steps are trained, the distillation says
        self.teacher, self.distillation = teacher, distillation
        _check_method(name, teacher, distillation, sampler)
        told = tuple(_always(part) for part in teacher.conditioning)
        super().__init__(name, network, objective, teacher.images, sampler, training, told)
        self._check_levels(sampler)

    @property
    def asked_passes(self) -> int:  # type: ignore[override]
        return self.distillation.evaluations

    def knows(self, steps: DiscreteProcess) -> bool:
        return self.distillation.knows(steps, self.objective.process)

    def training_loss(self, network: Any, batch: dict[str, Any], random: dict[str, Any], seed: Any) -> Any:
        """The loss [B] against what the distillation makes of the teacher's answers."""
        inputs: dict[str, Any] = {}
        for part in self.conditioning:
            inputs |= part.training_inputs(batch, random)
        return self.distillation.training_loss(
            network, self.teacher.network, self.objective, batch["image"], inputs, random, seed
        )

    # ---- what it takes over

    def build_asked(self, seed: int) -> None:
        self.teacher.build_network(seed)

    def check_network(self) -> None:
        if not (self.network.built and self.teacher.network.built):
            return
        own, others = (_shapes(stage.network) for stage in (self, self.teacher))
        if own == others:
            return
        wrong = next(name for name in {**own, **others} if own.get(name) != others.get(name))
        raise ValueError(
            f"network of stage '{self.name}' must have the architecture of '{self.teacher.name}', which it begins "
            f"with: '{wrong}' is {others.get(wrong, 'absent')} there and {own.get(wrong, 'absent')} here"
        )

    def check_ready(self, folder: Path, first: Sequence[Learner]) -> None:
        done = max(Checkpoints(folder / self.name / "checkpoints").steps(), default=-1)
        if self.teacher not in first and done < self.training.steps:
            self._require_teacher(folder)

    def prepare(self, folder: Path, seed: int, chief: bool) -> None:
        self._require_teacher(folder)
        network, digest, step = restore_network(self.teacher, folder / self.teacher.name, "last", seed)
        self._remember(folder / self.name, {"stage": self.teacher.name, "step": step, "hash": digest}, chief)
        own = self.build_network(seed)
        try:
            self.check_network()
        except ValueError as error:
            raise UserError(str(error)) from error
        for variable, value in zip(own.trainable_variables, network.trainable_variables, strict=True):
            variable.assign(value)

    def _require_teacher(self, folder: Path) -> None:
        teacher = self.teacher
        done, steps = Checkpoints(folder / teacher.name / "checkpoints").latest() or 0, teacher.training.steps
        if done < steps:
            raise UserError(
                f"stage '{self.name}' learns from '{teacher.name}', which is trained for {done:,} of {steps:,} steps "
                f"({folder / teacher.name}): train that one first, --do train --stage {teacher.name}"
            )

    def _remember(self, folder: Path, teacher: dict[str, Any], chief: bool) -> None:
        """Keeps which weights of the teacher the training began with; others in the middle of it are a mistake."""
        path = folder / "teacher.json"
        begun = path.is_file() and bool(Checkpoints(folder / "checkpoints").steps())
        if begun and json.loads(path.read_text()) != teacher:
            raise UserError(
                f"stage '{self.name}' has begun with other weights of its teacher '{teacher['stage']}' than "
                f"{folder.parent / teacher['stage']} has now: bring those back, or remove {folder} to train it anew"
            )
        if chief and not begun:
            write_text(path, json.dumps(teacher, indent=1))

    # ---- mistakes

    def _check_levels(self, sampler: Sampler) -> None:
        """Raises ValueError where teacher or student would be asked at noise levels that it was never trained at."""
        process, teacher = self.objective.process, self.teacher
        learned, walked = self.distillation.plan(process), sampler.plan(process)
        if not self.knows(walked):
            raise ValueError(
                f"{self.name}/{type(sampler).__name__}.steps must be {learned.steps}, or divide it: stage "
                f"'{self.name}' learns the noise levels of {learned.steps} steps and no others, got {walked.steps}"
            )
        asked = self.distillation.asked(process)
        if asked is not None and isinstance(teacher, DistilledStage) and not teacher.knows(asked):
            known = teacher.distillation.plan(process).steps
            raise ValueError(
                f"{self.name}/{type(self.distillation).__name__}.steps must be {known // 2}, or divide it: its teacher "
                f"'{teacher.name}' has learned the noise levels of {known} steps and no others, got {learned.steps}"
            )


def _check_method(name: str, teacher: Stage, distillation: Distillation, sampler: Sampler) -> None:
    """Raises ValueError where guidance stands in the wrong place."""
    if sampler.guidance is not None and sampler.guidance.drops:
        raise ValueError(
            f"guidance of the sampler of stage '{name}' must be None: a student is always told its class or text. Its "
            f"first teacher is guided, by a stage with GuidanceDistillation, got {type(sampler.guidance).__name__}"
        )
    check_dropout(teacher, distillation.guidance)


def _always(part: Conditioning) -> Conditioning:
    """The same condition, told to every image."""
    if isinstance(part, Condition):
        part = copy.copy(part)
        part.dropout = 0.0
    return part


def _shapes(network: keras.Model) -> dict[str, tuple[int, ...]]:
    """Of the trained tensors, by name."""
    names, _ = trained_variables(network)
    return {name: tuple(variable.shape) for name, variable in zip(names, network.trainable_variables, strict=True)}
