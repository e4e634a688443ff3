"""Sees that a training has gone astray, and remembers which windows of data were left out because of it."""

import collections
import datetime
import json
import math
from pathlib import Path
from typing import NamedTuple

from zoo.console import UserError
from zoo.training.step import StepResult
from zoo.whole_files import write_text


class Diverged(UserError):
    """Training goes astray again and again; an exit code of its own tells a scheduler not to start it again."""

    code = 3


class Watchdog:
    """When a training counts as gone astray; the loss is looked at after every call of the compiled function.

    The run then restores the last good checkpoint and leaves out the batches since.

    Args:
        explosion: a loss that is so many times the median of the last calls is an explosion.
        window: calls that the median is taken over; before there are so many only a NaN is seen.
        tries: how often the same checkpoint is gone back to before training stops.
        smallest_scale: of the loss in float16; a smaller one has collapsed.
    """

    def __init__(self, explosion: float = 20.0, window: int = 20, tries: int = 3, smallest_scale: float = 1.0) -> None:
        if explosion <= 1:
            raise ValueError(f"explosion must be above 1, got {explosion}")
        for name, value in (("window", window), ("tries", tries)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if smallest_scale <= 0:
            raise ValueError(f"smallest_scale must be positive, got {smallest_scale}")
        self.explosion, self.window, self.tries, self.smallest_scale = explosion, window, tries, smallest_scale


class Watch:
    """A watchdog at work on one run."""

    def __init__(self, settings: Watchdog) -> None:
        self.settings = settings
        self._losses: collections.deque[float] = collections.deque(maxlen=settings.window)

    def problem(self, result: StepResult, scaled: bool) -> str | None:
        """What is wrong after some steps, None if nothing is."""
        if scaled and result.scale < self.settings.smallest_scale:
            return f"the scale of the loss has collapsed to {result.scale:g}"
        if scaled and not result.taken:
            return None  # overflows; the scale falls until they end
        if not math.isfinite(result.loss) or not math.isfinite(result.gradient_norm):
            return f"the loss is {result.loss:g}, the norm of the gradient {result.gradient_norm:g}"
        if len(self._losses) == self.settings.window:
            usual = sorted(self._losses)[len(self._losses) // 2]
            if result.loss > self.settings.explosion * abs(usual):
                return f"the loss is {result.loss:.4g} after {usual:.4g}"
        self._losses.append(result.loss)
        return None


class Incident(NamedTuple):
    """Once that training went astray."""

    problem: str
    seen: int
    """Optimizer steps when it was seen."""
    restored: int
    """Steps of the checkpoint that was gone back to."""
    skipped: int
    """Batches that are left out from there on."""
    date: str
    gave_up: bool = False
    """Whether training stopped with it: the tries of the next run are counted anew."""


class Incidents:
    """The incidents of a stage, in a file beside its metrics; the batches of a step depend on them alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._list: list[Incident] = []
        if path.is_file():
            self._list = [Incident(**entry) for entry in json.loads(path.read_text())]

    def position(self, step: int) -> int:
        """The first batch of optimizer step `step` in the stream: what was left out before it is passed over."""
        return step + sum(incident.skipped for incident in self._list if incident.restored <= step)

    def until_jump(self, step: int) -> list[int]:
        """Steps until the next place where batches are left out; a list of one or none."""
        ahead = [incident.restored - step for incident in self._list if incident.restored > step]
        return [min(ahead)] if ahead else []

    def tries(self, restored: int) -> int:
        """How often this checkpoint was gone back to since training last gave up."""
        last = max((number for number, incident in enumerate(self._list) if incident.gave_up), default=-1)
        return sum(incident.restored == restored for incident in self._list[last + 1 :])

    def _recent(self) -> list[Incident]:
        """The incidents of this attempt: since the last but one that training gave up with, or the last."""
        ends = [number for number, incident in enumerate(self._list[:-1]) if incident.gave_up]
        return self._list[ends[-1] + 1 :] if ends else self._list

    def add(self, problem: str, seen: int, restored: int, gave_up: bool, write: bool) -> Incident:
        """Notes an incident; `write` where this process keeps the file."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        incident = Incident(problem, seen, restored, seen - restored, date, gave_up)
        self._list.append(incident)
        if write:
            write_text(self.path, json.dumps([entry._asdict() for entry in self._list], indent=1))
        return incident

    def account(self) -> str:
        """Those since training gave up the time before, a line each."""
        return "\n".join(
            f"  step {entry.seen:,}: {entry.problem}; back to {entry.restored:,}, {entry.skipped} batches left out"
            for entry in self._recent()
        )
