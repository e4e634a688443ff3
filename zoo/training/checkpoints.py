"""Checkpoints by global step, each a folder that is whole or not there."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from zoo.console import UserError, say

Groups = Mapping[str, Sequence[tf.Variable]]


class Checkpoints:
    """The checkpoints of a stage: DIRECTORY/00001000/ with the variables of one step and their hashes.

    A checkpoint is written into a hidden folder beside its place, with a manifest of hashes, and renamed when it is
    on the disk: a process killed inside leaves nothing that `steps` would list. A file that was damaged later is
    found by its hash, and the checkpoint before is taken.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def save(self, step: int, groups: Groups, names: Sequence[str]) -> None:
        """Writes a checkpoint.

        Args:
            step: optimizer steps taken.
            groups: "raw", "ema" and the optimizer's slots, each one list of variables in the order of `names`.
            names: the paths of the network's variables.
        """
        final = self.directory / f"{step:08d}"
        partial = self.directory / f".partial-{step:08d}"
        for leftover in self.directory.glob(".partial-*"):
            shutil.rmtree(leftover)
        if final.exists():  # a damaged one, written again
            shutil.rmtree(final)
        partial.mkdir(parents=True)
        _checkpoint(groups, names).write(str(partial / "variables"))
        files = {path.name: _hash(path) for path in sorted(partial.iterdir())}
        weights = hashlib.sha256("".join(files.values()).encode()).hexdigest()
        manifest = {"step": step, "files": files, "hash": weights, "groups": sorted(groups)}
        write_text(partial / "manifest.json", json.dumps(manifest, indent=1))
        for path in partial.iterdir():
            _sync(path)
        partial.rename(final)
        _sync(self.directory)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"{old:08d}")

    def latest(self) -> int | None:
        """The last step whose checkpoint is whole; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            problem = self.problem(step)
            if problem is None:
                return step
            say(f"checkpoint {step} is damaged ({problem}); trying the one before")
        return None

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

    def restore(self, step: int, groups: Groups, names: Sequence[str]) -> str:
        """Reads a checkpoint into variables; every variable must be there. Returns the checkpoint's hash."""
        folder = self.directory / f"{step:08d}"
        try:
            _check_fit(folder, groups, names)
            status = _checkpoint(groups, names).read(str(folder / "variables"))
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"the checkpoint {folder} does not fit this recipe's network: {str(error).splitlines()[0]}"
            ) from error
        return str(json.loads((folder / "manifest.json").read_text())["hash"])

    def choose(self, which: str) -> int:
        """The step that `which` names: "last" or a number."""
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}: train the stage first (--do train)")
        if which == "last":
            step = self.latest()
            if step is None:
                raise UserError(f"every checkpoint in {self.directory} is damaged")
            return step
        if not which.isdigit() or int(which) not in steps:
            raise UserError(f"--checkpoint must be last or one of {steps}, got '{which}'")
        problem = self.problem(int(which))
        if problem is not None:
            raise UserError(f"checkpoint {which} in {self.directory} is damaged: {problem}")
        return int(which)


def _checkpoint(groups: Groups, names: Sequence[str]) -> tf.train.Checkpoint:
    """Variables by group and path, so that no key depends on the order in which layers were made."""
    return tf.train.Checkpoint(
        **{group: dict(zip(names, variables, strict=True)) for group, variables in groups.items()}
    )


def _check_fit(folder: Path, groups: Groups, names: Sequence[str]) -> None:
    """Fails where names or shapes differ; a checkpoint that has more is of another network too."""
    stored: dict[str, dict[str, list[int]]] = {}
    for key, shape in tf.train.list_variables(str(folder / "variables")):
        group, _, rest = key.partition("/")
        # TensorFlow writes "/" inside a name as ".S", and "." as ".."
        name = rest.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").replace(".S", "/").replace("..", ".")
        stored.setdefault(group, {})[name] = list(shape)
    for group, variables in groups.items():
        there = stored.get(group, {})
        here = {name: variable.shape.as_list() for name, variable in zip(names, variables, strict=True)}
        wrong = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if wrong:
            first = f"'{wrong[0]}' is {there.get(wrong[0], 'absent')} there and {here.get(wrong[0], 'absent')} here"
            raise ValueError(f"of '{group}' it has {len(there)} variables, the recipe {len(here)}; {first}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and renames it: a reader sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
