"""registry.yaml: the catalogue of components, recipes and published checkpoints; read without any import of them."""

import importlib
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zoo.console import UserError, import_tensorflow
from zoo.spelling import did_you_mean

PROJECT = Path(__file__).resolve().parent.parent
WIDTH = 80

COMPONENT_FIELDS = {"family", "target", "source", "sampling", "knobs"}
RECIPE_FIELDS = {"file", "title", "paper", "dataset", "parameters", "hardware"}
CHECKPOINT_FIELDS = {"project", "address", "recipe", "flags", "sha256"}


@dataclass(frozen=True)
class Component:
    """One interchangeable part: its name is its class's name and its Gin name.

    Attributes:
        sampling: parameters that act in sampling alone: trained weights do not depend on them.
        knobs: parameters that never change the experiment: memory, speed, what is shown meanwhile.
    """

    name: str
    family: str
    target: str
    source: str | None
    line: int
    sampling: tuple[str, ...] = ()
    knobs: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return self.target.rpartition(".")[0]

    def load(self) -> type:
        """Imports the class; the only place where a component's module is run."""
        if self.module.startswith(("zoo.", "harness.")):
            import_tensorflow()
        try:
            return getattr(importlib.import_module(self.module), self.name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"registry.yaml:{self.line}: cannot import {self.target} ({error})") from error


@dataclass(frozen=True)
class RecipeEntry:
    """One system: where its recipe is. Which published rows it reproduces stands on the rows, in harness/papers.

    Attributes:
        parameters: stage name -> parameter count of its network.
        hardware: stage name -> what the paper trained it on, "256 tpu-v3": how many of which device of zoo.devices.
    """

    name: str
    file: str
    title: str
    paper: str | None
    dataset: str
    parameters: dict[str, int] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Weights that the authors of a paper published.

    Attributes:
        project: whose code wrote them, "guided-diffusion" or "improved-diffusion".
        recipe: of the catalogue; None for a network that is no stage.
        flags: of the project's command line, as its README prints them.
        sha256: where it is known.
    """

    name: str
    project: str
    address: str
    recipe: str | None
    flags: str
    sha256: str | None = None


@dataclass(frozen=True)
class Registry:
    """The catalogue as read from `file`."""

    file: Path
    components: Mapping[str, Component]
    recipes: Mapping[str, RecipeEntry]
    checkpoints: Mapping[str, PublishedCheckpoint] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that recipes' paths are relative to."""
        return self.file.parent

    def recipes_json(self) -> list[dict[str, Any]]:
        """The recipes as JSON-able dictionaries, in the catalogue's order."""
        return [asdict(entry) for entry in self.recipes.values()]


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of duplicate keys silently; this loader refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                message = f"'{key.value}' was given on line {seen[key.value]} already; keep one of them"
                raise yaml.constructor.ConstructorError(problem=message, problem_mark=key.start_mark)
            seen[key.value] = line
        return super().construct_mapping(node, deep=deep)


def load(path: Path | str | None = None) -> Registry:
    """Reads and checks the catalogue.

    Args:
        path: the file; the registry.yaml of this project where None.

    Raises:
        UserError: the file is not there, is not YAML, or names something twice or incompletely.
    """
    file = Path(path) if path is not None else PROJECT / "registry.yaml"
    try:
        loader = _StrictLoader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = loader.construct_document(node) if node is not None else {}
    except FileNotFoundError as error:
        raise UserError(f"{file} is not there: the zoo's catalogue belongs beside the folder zoo/") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: {error.problem or error}") from error
    lines = _lines(node)
    _require_fields(file, "the top level", 1, content, {"components", "recipes", "checkpoints"}, set())
    components = {
        name: _component(file, name, entry, lines.get(("components", name), 1))
        for name, entry in (content.get("components") or {}).items()
    }
    recipes = {
        name: _recipe(file, name, entry, lines.get(("recipes", name), 1))
        for name, entry in (content.get("recipes") or {}).items()
    }
    checkpoints = {
        name: _checkpoint(file, name, entry, lines.get(("checkpoints", name), 1), recipes)
        for name, entry in (content.get("checkpoints") or {}).items()
    }
    return Registry(file, components, recipes, checkpoints)


def _lines(root: yaml.Node | None) -> dict[tuple[str, str], int]:
    """(section, name) -> line number of every entry."""
    found = {}
    for section, entries in root.value if isinstance(root, yaml.MappingNode) else []:
        for name, _ in entries.value if isinstance(entries, yaml.MappingNode) else []:
            found[section.value, name.value] = name.start_mark.line + 1
    return found


def _require_fields(file: Path, what: str, line: int, entry: Any, allowed: set[str], required: set[str]) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{file}:{line}: {what} must be a mapping of {', '.join(sorted(allowed))}, got {entry!r}")
    for name in entry:
        if name not in allowed:
            raise UserError(f"{file}:{line}: {what} has an unknown field '{name}'; {did_you_mean(str(name), allowed)}")
    for name in sorted(required - set(entry)):
        raise UserError(f"{file}:{line}: {what} lacks the field '{name}'")


def _component(file: Path, name: str, entry: Any, line: int) -> Component:
    _require_fields(file, f"component {name}", line, entry, COMPONENT_FIELDS, {"family", "target"})
    target = entry["target"]
    if target.rpartition(".")[2] != name:
        raise UserError(f"{file}:{line}: component {name} targets {target}; the key must be the class's name")
    named = {field: tuple(entry.get(field) or ()) for field in ("sampling", "knobs")}
    return Component(name, entry["family"], target, entry.get("source"), line, **named)


def _recipe(file: Path, name: str, entry: Any, line: int) -> RecipeEntry:
    _require_fields(file, f"recipe {name}", line, entry, RECIPE_FIELDS, {"file", "title", "dataset"})
    return RecipeEntry(
        name=name,
        file=entry["file"],
        title=entry["title"],
        paper=entry.get("paper"),
        dataset=entry["dataset"],
        parameters=dict(entry.get("parameters") or {}),
        hardware=dict(entry.get("hardware") or {}),
    )


def _checkpoint(
    file: Path, name: str, entry: Any, line: int, recipes: Mapping[str, RecipeEntry]
) -> PublishedCheckpoint:
    what = f"checkpoint {name}"
    _require_fields(file, what, line, entry, CHECKPOINT_FIELDS, CHECKPOINT_FIELDS - {"sha256"})
    recipe = entry["recipe"]
    if recipe is not None and recipe not in recipes:
        raise UserError(f"{file}:{line}: {what} names the recipe {recipe}; {did_you_mean(recipe, recipes)}")
    return PublishedCheckpoint(name, **entry)


def short_count(count: float) -> str:
    """A count in at most five characters: 512, 1.2K, 10.7M, 554M, 1.3B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        # 0.9995 rounds up to the next unit in three digits.
        if abs(count) >= size * 0.9995:
            scaled = count / size
            return f"{scaled:.0f}{letter}" if scaled >= 99.95 else f"{scaled:.1f}{letter}"
    return f"{count:.0f}"


def render_list(registry: Registry) -> str:
    """The recipes as a table of 80 columns: name, paper, dataset; below each what it is, its file, its parameters."""
    entries = list(registry.recipes.values())
    rows = [("recipe", "paper", "dataset"), *((entry.name, entry.paper or "-", entry.dataset) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    text = [lines[0], "-" * WIDTH]
    for line, entry in zip(lines[1:], entries, strict=True):
        counts = ", ".join(f"{stage} {short_count(count)}" for stage, count in entry.parameters.items())
        text += [line, *below(entry.title), *below(f"{entry.file}  {counts}".rstrip())]
    return "\n".join(text)


def below(words: str) -> list[str]:
    """Lines of at most 80 columns, indented."""
    lines = textwrap.wrap(words, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"    {line}" for line in lines]
