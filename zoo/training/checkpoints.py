"""Checkpoints by global step, each a folder that is whole or not there."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.console import UserError, say
from zoo.whole_files import write_text

Groups = Mapping[str, Mapping[str, tf.Variable]]


class Best(NamedTuple):
    """The checkpoint with the lowest score."""

    step: int
    value: float
    title: str
    """What the score is: "FID-1k (shapes classifier)"."""


class Checkpoints:
    """The checkpoints of a stage: DIRECTORY/00001000/ with the variables of one step and their hashes.

    A checkpoint is written into a hidden folder beside its place, with a manifest of hashes, and renamed when it is
    on the disk: a process killed inside leaves nothing that `steps` would list. A file that was damaged later is
    found by its hash, and the checkpoint before is taken.

    Args:
        directory: of this stage's checkpoints.
        keep: how many of the last ones stay.
        keep_every: those at multiples of so many steps stay too; None keeps none of them. The best one always stays.
        keep_at: those of these steps stay too.
    """

    def __init__(
        self, directory: Path, keep: int = 2, keep_every: int | None = None, keep_at: Collection[int] = ()
    ) -> None:
        self.directory, self.keep, self.keep_every, self.keep_at = directory, keep, keep_every, keep_at

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def save(self, step: int, groups: Groups) -> None:
        """Writes a checkpoint; older ones that need not stay are removed afterwards.

        Args:
            step: optimizer steps taken.
            groups: "raw", "ema", the optimizer's slots, ...: each the variables by name.

        Raises:
            UserError: it could not be written, the disk is full for example; the ones before are whole.
        """
        final = self.directory / f"{step:08d}"
        partial = self.directory / f".partial-{step:08d}"
        for leftover in self.directory.glob(".partial-*"):
            shutil.rmtree(leftover)
        try:
            partial.mkdir(parents=True)
            _checkpoint(groups).write(str(partial / "variables"))
            files = {path.name: _hash(path) for path in sorted(partial.iterdir())}
            weights = hashlib.sha256("".join(files.values()).encode()).hexdigest()
            manifest = {"step": step, "files": files, "hash": weights, "groups": sorted(groups)}
            write_text(partial / "manifest.json", json.dumps(manifest, indent=1))
            for path in partial.iterdir():
                _sync(path)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(self._not_written(step, groups, error)) from error
        if final.exists():  # a damaged one, written again
            shutil.rmtree(final)
        partial.rename(final)
        _sync(self.directory)
        self.prune()

    def _not_written(self, step: int, groups: Groups, error: Exception) -> str:
        variables = [variable for group in groups.values() for variable in group.values()]
        needed = sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
        free = shutil.disk_usage(self.directory).free
        last = self.latest()
        before = "there is none before it" if last is None else f"the one of step {last} is whole"
        return (
            f"the checkpoint of step {step} could not be written to {self.directory}: {str(error).splitlines()[0]}. It "
            f"needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; {before}. Make room and run the same command"
        )

    def prune(self) -> None:
        """Removes what need not stay."""
        best, steps = self.best(), self.steps()
        stay = {*steps[-self.keep :], *([best.step] if best else [])}
        if self.keep_every is not None:
            stay |= {step for step in steps if step % self.keep_every == 0 and step}
        for old in sorted(set(steps) - stay - set(self.keep_at)):
            shutil.rmtree(self.directory / f"{old:08d}")

    def best(self) -> Best | None:
        """The checkpoint with the lowest score so far."""
        try:
            return Best(**json.loads((self.directory / "best.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def set_best(self, best: Best) -> None:
        """Keeps the checkpoint of this step from now on, and no longer the best one before."""
        write_text(self.directory / "best.json", json.dumps(best._asdict(), indent=1))
        self.prune()

    def latest(self) -> int | None:
        """The last step whose checkpoint is whole; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            problem = self.problem(step)
            if problem is None:
                return step
            say(f"checkpoint {step} is damaged ({problem}); trying the one before")
        return None

    def resume_from(self) -> int | None:
        """The last step whose checkpoint is whole; None where none was ever written.

        Raises:
            UserError: there are checkpoints, all of them damaged: a training must not begin anew over them unasked.
        """
        step = self.latest()
        if step is None and self.steps():
            raise UserError(
                f"every checkpoint in {self.directory} is damaged; to train this stage anew, remove that folder"
            )
        return step

    def problem(self, step: int) -> str | None:
        """What is wrong with the checkpoint of a step, None if it is whole."""
        folder = self.directory / f"{step:08d}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            for name, expected in manifest["files"].items():
                if not (folder / name).is_file():
                    return f"{name} is missing"
                if _hash(folder / name) != expected:
                    return f"{name} does not have its hash"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "manifest.json is missing or cannot be read"
        return None

    def restore(self, step: int, groups: Groups) -> str:
        """Reads a checkpoint into variables; every variable must be there. Returns the checkpoint's hash."""
        folder = self.directory / f"{step:08d}"
        try:
            _read(folder, groups)
        except (ValueError, TypeError, OSError, tf.errors.OpError) as error:
            if not folder.is_dir():
                raise UserError(
                    f"the checkpoint {folder} was removed while it was read: is the stage being trained? Run the same "
                    "command again, or name a checkpoint that is kept (--checkpoint STEP)"
                ) from error
            raise UserError(
                f"the checkpoint {folder} does not fit this recipe's network: {str(error).splitlines()[0]}"
            ) from error
        return self.digest(step)

    def groups(self, step: int) -> list[str]:
        """The groups that a whole checkpoint has."""
        return list(self._manifest(step)["groups"])

    def digest(self, step: int) -> str:
        """The hash of a whole checkpoint, as `restore` returns it."""
        return str(self._manifest(step)["hash"])

    def _manifest(self, step: int) -> dict[str, Any]:
        return dict(json.loads((self.directory / f"{step:08d}" / "manifest.json").read_text()))

    def choose(self, which: str) -> int:
        """The step that `which` names: "last", "best" or a number."""
        steps = self.steps()
        if not steps:
            stage = self.directory.parent.name
            raise UserError(f"no checkpoint in {self.directory}: train the stage first (--do train --stage {stage})")
        if which == "last":
            step = self.latest()
            if step is None:
                raise UserError(f"every checkpoint in {self.directory} is damaged")
            return step
        if which == "best":
            best = self.best()
            if best is None or best.step not in steps:
                raise UserError(
                    f"--checkpoint best: the checkpoints in {self.directory} were not scored; bind "
                    "Monitoring.selection in training, with Selection.every below its steps, or take last or a step"
                )
            which = str(best.step)
        if not which.isdigit() or int(which) not in steps:
            raise UserError(f"--checkpoint must be last, best or one of {steps}, got '{which}' ({self.directory})")
        problem = self.problem(int(which))
        if problem is not None:
            raise UserError(f"checkpoint {which} in {self.directory} is damaged: {problem}")
        return int(which)


def of_stage(which: str, name: str) -> str:
    """What --checkpoint says of a stage: 'last', 'best' and a step are for every stage; 'NAME=STEP,NAME=STEP' is for
    those named, and the last for the others.
    """
    return named(which).get(name, "last") if "=" in which else which


def named(which: str) -> dict[str, str]:
    """Stage -> its checkpoint, of 'NAME=STEP,NAME=STEP'; empty where --checkpoint names no stage.

    Raises:
        UserError: it is of another form.
    """
    if "=" not in which:
        return {}
    pairs = [part.strip().partition("=") for part in which.split(",")]
    found = {name: step for name, equals, step in pairs if name and equals and step}
    if len(found) < len(pairs):
        raise UserError(f"--checkpoint must be last, best, a step, or NAME=STEP,NAME=STEP of stages, got '{which}'")
    return found


def _checkpoint(groups: Groups) -> tf.train.Checkpoint:
    """Variables by group and path, so that no key depends on the order in which layers were made."""
    return tf.train.Checkpoint(**{group: dict(variables) for group, variables in groups.items()})


def _read(folder: Path, groups: Groups) -> None:
    """Reads every variable, one after the other: all at once they would be in memory twice.

    Raises:
        ValueError: names or shapes differ; a checkpoint that has more is of another network too.
    """
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    stored: dict[str, dict[str, str]] = {}
    for key in reader.get_variable_to_shape_map():
        group, _, name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").partition("/")
        stored.setdefault(_unescape(group), {})[_unescape(name)] = key
    shapes = reader.get_variable_to_shape_map()
    for group, variables in groups.items():
        there = {name: list(shapes[key]) for name, key in stored.get(group, {}).items()}
        here = {name: variable.shape.as_list() for name, variable in variables.items()}
        wrong = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if wrong:
            first = f"'{wrong[0]}' is {there.get(wrong[0], 'absent')} there and {here.get(wrong[0], 'absent')} here"
            raise ValueError(f"of '{group}' it has {len(there)} variables, the recipe {len(here)}; {first}")
    for group, variables in groups.items():
        for name, variable in variables.items():
            value = reader.get_tensor(stored[group][name])
            for copy in variable.values if isinstance(variable, tf.distribute.DistributedValues) else [variable]:
                copy.assign(value)


def _unescape(name: str) -> str:
    """TensorFlow writes "/" inside a name as ".S", and "." as ".."."""
    return name.replace(".S", "/").replace("..", ".")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
