"""Published weights as a run directory that is sampled like a trained one, and weights of a run taken out again."""

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from zoo.console import UserError
from zoo.convert import adm, state_dicts
from zoo.convert.state_dicts import Part, StateDict
from zoo.recipe import Recipe
from zoo.training.checkpoints import Checkpoints
from zoo.training.step import average_name, trained_variables
from zoo.training.trainer import restore_network
from zoo.whole_files import write_text

if TYPE_CHECKING:
    from zoo.learner import Learner

AVERAGE, RAW = "ema", "raw"


class Weights(NamedTuple):
    """A state dict and the file that it came from."""

    state: StateDict
    file: Path


def write_run(
    folder: Path, recipe: Recipe, name: str, origin: Path | None, step: int, groups: Mapping[str, Weights]
) -> list[Part]:
    """Writes a stage with published weights: into a new run, or into one that has its other stages already.

    Args:
        folder: is made, or is a run of the same recipe; nothing is changed there where anything fails.
        recipe: of the run.
        name: of the stage.
        origin: the file that the recipe is remembered by; None for the copy in the folder.
        step: optimizer steps that the weights were trained for.
        groups: "ema" and, where they are there, "raw".

    Returns:
        What became of each tensor of each group.
    """
    adds = (folder / "recipe.gin").is_file()
    place = folder / "stages" / name
    if not adds and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out must be a folder that is not there yet or empty, or a run, got {folder}")
    if place.exists():
        raise UserError(f"the run {folder} has its stage '{name}' already: remove {place}, or choose another --out")
    pipeline = recipe.build()
    stored, parts = _filled(pipeline.stage(name), pipeline.seed, groups)
    report = "\n".join(state_dicts.report(parts)) + "\n"
    partial = place.with_name(f".{name}.partial") if adds else folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        stage = partial if adds else partial / "stages" / name
        stage.mkdir(parents=True)
        Checkpoints(stage / "checkpoints").save(step, stored)
        write_text(stage / "parity.txt", report)
        if adds:
            os.rename(partial, place)
            _keep_account(folder, folder, name, origin, groups)
        else:
            recipe.freeze(partial)
            _keep_account(partial, folder, name, origin, groups)
            if folder.exists():
                folder.rmdir()
            os.rename(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parts


def _filled(
    stage: "Learner", seed: int, groups: Mapping[str, Weights]
) -> tuple[dict[str, dict[str, tf.Variable]], list[Part]]:
    """The variables of every group, as a checkpoint has them, with the published numbers in them."""
    network = stage.build_network(seed)
    tensors, (names, variables) = list(adm.tensors(network)), trained_variables(network)
    parts: list[Part] = []
    stored: dict[str, dict[str, tf.Variable]] = {}
    for number, (group, weights) in enumerate(groups.items(), start=1):
        state_dicts.assign(tensors, weights.state)
        parts += state_dicts.parity(tensors, weights.state)
        last = number == len(groups)
        values = variables if last else [tf.Variable(variable, trainable=False) for variable in variables]
        stored[group] = dict(zip(names, values, strict=True))
    if RAW in stored and AVERAGE not in stored:  # Training.ema is 0 then: the average is the weights themselves
        stored[AVERAGE] = stored[RAW]
    return stored, parts


def _keep_account(written: Path, folder: Path, name: str, origin: Path | None, groups: Mapping[str, Weights]) -> None:
    """Says in run.json where the weights of a stage came from; `written` is the folder as long as it is not whole."""
    files = {}
    for group, weights in groups.items():
        with weights.file.open("rb") as file:
            files[group] = {"file": weights.file.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    path = written / "run.json"
    account = json.loads(path.read_text()) if path.is_file() else {"invocations": []}
    account.setdefault("recipe", str(origin or folder / "recipe.gin"))
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    account.setdefault("converted", {})[name] = {"date": date, "weights": files}
    write_text(path, json.dumps(account, indent=1))


def read_run(stage: "Learner", workdir: Path, which: str, seed: int, raw: bool, decay: float | None) -> tuple[Any, int]:
    """The network of a stage of a run with its averaged or raw weights, and its step.

    Args:
        which: "last", "best" or a step.
        raw: the weights themselves instead of their average.
        decay: of the average; None takes the first of Training.ema.
    """
    folder = workdir / "stages" / stage.name
    if not raw:
        network, _, step = restore_network(stage, folder, which, seed, decay)
        return network, step
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.choose(which)
    if RAW not in checkpoints.groups(step):
        averages = average_name(stage.training.decays, 0)
        raise UserError(f"the checkpoint of step {step} has no raw weights, only averaged ones ({averages})")
    network = stage.build_network(seed)
    names, variables = trained_variables(network)
    checkpoints.restore(step, {RAW: dict(zip(names, variables, strict=True))})
    return network, step
