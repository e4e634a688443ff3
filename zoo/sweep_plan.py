"""What a sweep tries: bindings over lists of values, their product, and that none of it needs another training.

Nothing is built and no TensorFlow is imported.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo import recipe as recipes
from zoo.console import UserError
from zoo.recipe import Recipe
from zoo.recipe_identity import digest
from zoo.recipe_parsing import parse_bindings

FORM = "--sweep must be 'KEY = VALUE, VALUE, ...', such as 'sr64/GaussianNoise.s = 0, 251, 501'"
LONGEST = 80  # characters of a folder's name


@dataclass(frozen=True)
class Axis:
    """A binding and the values that it takes in turn.

    Attributes:
        key: 'sr64/GaussianNoise.s'.
        values: as Gin text: '251', '(1, 2)', '@TruncatedSamples()'.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One combination of values: an experiment of its own, on the weights that are there.

    Attributes:
        values: one for each axis.
        folder: name of its work directory, below that of the sweep.
    """

    values: tuple[str, ...]
    recipe: Recipe
    folder: str


@dataclass(frozen=True)
class SweepPlan:
    """The points of a sweep, in order: the last axis changes fastest.

    Attributes:
        name: of its folder.
        base: the recipe without the sweep's bindings.
    """

    name: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    base: Recipe


def read_axis(text: str) -> Axis:
    """An axis from 'KEY = VALUE, VALUE, ...'; Gin's own parser reads the values.

    Raises:
        UserError: it cannot be read, has no values, or has one of them twice.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise UserError(f"{FORM}, got '{text}'")
    values = values.removesuffix(",").strip()
    if not values:
        raise UserError(f"--sweep '{text}' has no values: {FORM}")
    source = parse_bindings([f"{key} = ({values},)"])
    if source.mistakes or len(source.bindings) != 1 or source.blocks:
        reason = "; ".join(mistake.message for mistake in source.mistakes) or "it holds more than one binding"
        raise UserError(f"{FORM}, got '{text}': {reason}")
    found = source.bindings[0]
    seen: set[Any] = set()
    for value in found.value:
        same = value if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)
        if same in seen:  # 1 and 1.0 are one value
            raise UserError(f"--sweep '{text}' has the value {value!r} twice: give each once")
        seen.add(same)
    return Axis(str(found), tuple(repr(value) for value in found.value))


def plan(recipe: Recipe, bindings: Sequence[str], sweeps: Sequence[str], name: str | None = None) -> SweepPlan:
    """The points of a sweep.

    Args:
        recipe: without the sweep's bindings.
        bindings: of the command line, which the recipe was loaded with.
        sweeps: 'KEY = VALUE, VALUE, ...', each.
        name: of the folder; by default the keys.

    Raises:
        UserError: a mistake of a binding, or one that would need another training.
    """
    axes = tuple(read_axis(text) for text in sweeps)
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--sweep {key} is given twice: give all of its values in one list")
        if key == "Pipeline.seed":
            raise _needs_training(recipe, "Pipeline.seed = ...", "the trained weights depend on the seed")
    if name is not None and _safe(name) != name:
        raise UserError(f"--sweep_name must consist of letters, digits and . _ + - = , got '{name}'")
    recipe.require_names()
    points: list[Point] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        own = [f"{key} = {value}" for key, value in zip(keys, values, strict=True)]
        asked = recipes.load(recipe.path, [*bindings, *own], recipe.signatures)
        asked.require_names()
        _check_trained(recipe, asked, own)
        taken = {point.folder for point in points}
        points.append(Point(values, asked, _folder(keys, values, taken)))
    _check_different(points, keys)
    return SweepPlan(name or _safe("+".join(keys).replace("/", "-")), axes, tuple(points), recipe)


def short_keys(keys: Sequence[str]) -> list[str]:
    """Keys for the eye: the parameter alone where that tells them apart, else with its component, else whole."""
    forms = [[key.rpartition(".")[2], key.rpartition("/")[2], key] for key in keys]
    return [next(form for form in own if sum(form in other for other in forms) == 1) for own in forms]


def _check_trained(base: Recipe, asked: Recipe, bindings: Sequence[str]) -> None:
    """Fails where the weights of a stage depend on the bindings: a sweep only samples and scores."""
    trained = {stage.name: stage.training for stage in base.stages()}
    wanted = {stage.name: stage.training for stage in asked.stages()}
    if list(trained) != list(wanted):
        raise UserError(
            f"--sweep '{', '.join(bindings)}' changes the stages from {', '.join(trained)} to {', '.join(wanted)}: a "
            "sweep compares samples of the same stages"
        )
    changed = [f"'{name}'" for name in trained if trained[name] != wanted[name]]
    if changed:
        stages = f"stage{'s' if len(changed) > 1 else ''} {', '.join(changed)}"
        raise _needs_training(base, ", ".join(bindings), f"the trained weights of {stages} depend on it")


def _needs_training(recipe: Recipe, binding: str, reason: str) -> UserError:
    return UserError(
        f"--sweep '{binding}' needs another training ({reason}), and a sweep only samples and scores what is trained: "
        "samplers, SampleSet, Evaluation, and what registry.yaml lists as 'sampling' of a component. Train each value "
        f"in a work directory of its own (python -m zoo.run --recipe {recipe.path} --gin_bindings 'KEY = VALUE' "
        "--workdir DIR) and set them side by side (python -m harness.compare DIR DIR)"
    )


def _check_different(points: Sequence[Point], keys: Sequence[str]) -> None:
    """Fails where two points are one experiment: no result depends on what tells them apart."""
    seen: dict[str, Point] = {}
    for point in points:
        other = seen.setdefault(point.recipe.identity(), point)
        if other is not point:
            differing = [
                f"{key} = {mine} and {theirs}"
                for key, mine, theirs in zip(keys, other.values, point.values, strict=True)
                if mine != theirs
            ]
            raise UserError(
                f"--sweep: {', '.join(differing)} are one experiment: no result depends on what registry.yaml lists "
                "as 'knobs', nor on a value that something else overrides; sweep another binding"
            )


def _folder(keys: Sequence[str], values: Sequence[str], taken: set[str]) -> str:
    """The folder of a point: its values, and a hash where they do not make a short name unlike any other."""
    pairs = [f"{key}={_safe(value)}" for key, value in zip(short_keys(keys), values, strict=True)]
    name = _safe(",".join(pairs))
    if len(name) > LONGEST or name in taken:
        name = f"{name[:LONGEST]}-{digest(repr(values))[:8]}"
    return name


def _safe(text: str) -> str:
    """Text as a name on any file system."""
    return re.sub(r"[^\w.+=,-]+", "_", text, flags=re.ASCII).strip("_.") or "none"
