"""Distillation: what a student is to answer, by a frozen teacher (Salimans and Ho 2022; Meng et al. 2022)."""

import abc
from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.guidance import Guidance
from zoo.diffusion.objective import Network, Objective
from zoo.diffusion.process import DiscreteProcess, Level, Process
from zoo.diffusion.samplers import Clipping, DDIMSampler


class Distillation(abc.ABC):
    """Contract of the family: the noise levels that a student is trained at, and what it is to answer there.

    The student is a network of the teacher's kind, and is read by the same objective.

    Attributes:
        guidance: that the teacher is asked with; None asks it as it is.
    """

    guidance: Guidance | None = None

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Of the teacher for one example."""

    @abc.abstractmethod
    def plan(self, trained: Process) -> Process:
        """The process from which the noise levels of the student's training are drawn.

        Args:
            trained: the process of the teacher.

        Raises:
            ValueError: it has no such levels.
        """

    def asked(self, trained: Process) -> DiscreteProcess | None:
        """The steps at whose noise levels the teacher is asked; None where it is asked at all of the process."""
        return None

    def knows(self, steps: DiscreteProcess, trained: Process) -> bool:
        """Whether the student is trained at every noise level that a walk over `steps` visits."""
        return True

    @abc.abstractmethod
    def answer(self, teacher: Network, objective: Objective, z: Any, level: Level, inputs: dict[str, Any]) -> Any:
        """What the student's network should say of z_t [B, H, W, C], in the form of the objective's target.

        Args:
            teacher: called with one dictionary, as the student.
            objective: of both.
            z: images at `level`.
            level: drawn from `plan`.
            inputs: conditioning inputs of the networks.
        """

    def training_loss(
        self,
        student: Network,
        teacher: Network,
        objective: Objective,
        x: Any,
        inputs: dict[str, Any],
        random: dict[str, Any],
        seed: Any = None,
    ) -> Any:
        """The loss of each image [B] at a drawn noise level; see `Objective.training_loss` for the arguments.

        A loss that needs the image itself, as the variational bound does, is given the one that the answer implies.
        """
        plan = self.plan(objective.process)
        level = plan.draw(random["level"])
        z = plan.corrupt(x, random["noise"], level)
        wanted = ops.stop_gradient(self.answer(teacher, objective, z, level, inputs))
        output = student({**inputs, **level.inputs, "image": z, **({} if seed is None else {"seed": seed})})
        implied = objective.target.image(wanted, z, level, plan)
        return objective.loss_against(ops.cast(output, ops.dtype(z)), wanted, implied, z, level, plan)


class GuidanceDistillation(Distillation):
    """Stage one: one network learns the guided answer of another (Meng et al. 2022, section 3.1, algorithm 1).

    The scale is one fixed number, so that the student has the teacher's architecture; the paper draws it from a range
    and tells it to the student.

    Args:
        guidance: by which the teacher is asked with and without its condition.
    """

    def __init__(self, guidance: Guidance) -> None:
        if not guidance.drops:
            raise ValueError(
                "guidance must be ClassifierFreeGuidance with a scale other than 1, which asks the teacher twice; got "
                f"{type(guidance).__name__}" + (" with scale 1" if hasattr(guidance, "passes") else "")
            )
        self.guidance: Guidance = guidance

    @property
    def evaluations(self) -> int:
        return self.guidance.evaluations

    def plan(self, trained: Process) -> Process:
        return trained

    def answer(self, teacher: Network, objective: Objective, z: Any, level: Level, inputs: dict[str, Any]) -> Any:
        said = self.guidance.answer(teacher, {**inputs, **level.inputs, "image": z})
        return objective.split(ops.cast(said, ops.dtype(z)))[0]


class ProgressiveDistillation(Distillation):
    """One step of the student is two DDIM steps of the teacher (Salimans and Ho 2022, algorithm 2; Meng et al. 2022,
    stage two).

    Args:
        steps: N, of the student; the teacher takes 2 N.
        clipping: of the images that the teacher predicts; None, as in the authors' code, leaves them.
    """

    def __init__(self, steps: int, clipping: Clipping | None = None) -> None:
        if steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.steps, self.walker = steps, DDIMSampler(clipping=clipping)

    @property
    def evaluations(self) -> int:
        return 2

    def plan(self, trained: Process) -> DiscreteProcess:
        """The student's N steps.

        Raises:
            ValueError: not every second one of the teacher's 2 N steps is one of them.
        """
        steps, halves = trained.respace(self.steps), self.asked(trained)
        if halves.steps != 2 * steps.steps or not np.allclose(halves.logsnr[1::2], steps.logsnr, rtol=1e-9, atol=1e-9):
            raise ValueError(
                f"steps: {self.steps} steps of a {type(trained).__name__} do not divide into {2 * self.steps}, half as "
                "long each: progressive distillation needs a process in continuous time, such as LogSNRProcess"
            )
        return steps

    def asked(self, trained: Process) -> DiscreteProcess:
        return trained.respace(2 * self.steps)

    def knows(self, steps: DiscreteProcess, trained: Process) -> bool:
        return all(np.isclose(self.plan(trained).logsnr, level, rtol=1e-9, atol=1e-9).any() for level in steps.logsnr)

    def answer(self, teacher: Network, objective: Objective, z: Any, level: Level, inputs: dict[str, Any]) -> Any:
        steps, halves = self.plan(objective.process), self.asked(objective.process)
        # ---- two steps of the teacher, of whose steps 2 i + 1 is the student's step i
        first, halfway = self._step(teacher, objective, z, 2 * level.index + 1, inputs, halves)
        second, _ = self._step(teacher, objective, halfway, 2 * level.index, inputs, halves)
        # ---- the image with which one step of the student ends where they do
        share = halves.gather(first_share(halves.logsnr), level.index, ops.dtype(z))
        x = share * first + (1 - share) * second
        return objective.target.value(x, (z - level.alpha * x) / level.sigma, z, level, steps)

    def _step(
        self,
        teacher: Network,
        objective: Objective,
        z: Any,
        index: Any,
        inputs: dict[str, Any],
        halves: DiscreteProcess,
    ) -> tuple[Any, Any]:
        """The image that the teacher predicts at its step `index` [B], and z after that step."""
        level = halves.level(index, ops.dtype(z))
        said = ops.cast(teacher({**inputs, **level.inputs, "image": z}), ops.dtype(z))
        prediction = self.walker.predict(objective, said, z, level, halves)
        return prediction.x, self.walker.step(prediction, z, index, ops.zeros_like(z), halves)


def first_share(logsnr: np.ndarray) -> np.ndarray:
    """How much of the teacher's first image is in the image that its student is to predict, float64 [N].

    Algorithm 2 has that image as (z'' - (sigma'' / sigma) z) / (alpha'' - (sigma'' / sigma) alpha), where one and two
    steps of the teacher lead from z to z' and z''. With its images x' and x'' put in, this is s x' + (1 - s) x'' with
    s = (r' - r) / (r'' - r) and r = alpha / sigma: nothing cancels, however close the levels are. The last step ends at
    the image x'' itself: s = 0.

    Args:
        logsnr: 2 log r of the teacher's steps, float64 [2 N], the least noise first.
    """
    start, middle = logsnr[1::2], logsnr[0::2]
    end = np.append(np.inf, start[:-1])
    return np.expm1((middle - start) / 2) / np.expm1((end - start) / 2)
