"""A recipe: one Gin file becomes a pipeline. Loads, overrides, checks, builds and freezes it.

Loading and the check of names import no TensorFlow; building does.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import registry as catalogue
from zoo.console import UserError, import_tensorflow, say
from zoo.recipe_identity import Resolution, StageOutline, digest
from zoo.recipe_names import Findings, check_names
from zoo.recipe_parsing import parse, parse_bindings, shown
from zoo.recipe_scopes import Instance
from zoo.recipe_statements import COMMAND_LINE, Mistake, Source
from zoo.registry import Registry, short_count
from zoo.signatures import Signatures
from zoo.spelling import nearest
from zoo.whole_files import write_text

if TYPE_CHECKING:
    from zoo.pipeline import Pipeline

# Fragments that recipes include; by themselves they lack values.
FRAGMENTS = "base"
# A folder check of many recipes is shared out: another process costs seconds, and memory for a large network.
FILES_A_PROCESS = 8
PROCESSES = 4


@dataclass
class Recipe:
    """A recipe as it was asked for: a file, its includes, and bindings from the command line.

    Attributes:
        path: the file.
        source: its bindings with their places.
        signatures: what the components of the catalogue take.
    """

    path: Path
    source: Source
    signatures: Signatures
    _findings: Findings | None = field(default=None, repr=False)
    _operative: str | None = field(default=None, repr=False)

    @property
    def registry(self) -> Registry:
        return self.signatures.registry

    @property
    def instances(self) -> list[Instance]:
        """The components that building builds, each in its scope."""
        return list(self._checked().instances)

    def check_names(self) -> list[Mistake]:
        """The mistakes that names, types and scopes show, without building anything."""
        return list(self._checked().mistakes)

    def notes(self) -> list[Mistake]:
        """Bindings that restate a default: right, and against the style of recipes."""
        return list(self._checked().notes)

    def require_names(self) -> None:
        """Raises UserError with all the mistakes that `check_names` finds."""
        mistakes = self.check_names()
        if mistakes:
            raise UserError("\n".join(map(str, mistakes)))

    def build(self) -> "Pipeline":
        """Builds the pipeline; afterwards Gin's global configuration is this recipe's.

        Raises:
            UserError: all mistakes of the names, or else the first value that a constructor refuses.
        """
        self.require_names()
        import_tensorflow()
        from zoo import recipe_building

        built = recipe_building.build(self.source, self.instances, self.registry)
        self._operative = built.operative
        return built.root

    def text(self) -> str:
        """The recipe as asked: includes written out, the command line's bindings at the end. It parses again."""
        return self.source.text

    def operative(self) -> str:
        """The recipe as built: every parameter of every component, defaults included."""
        if self._operative is None:
            raise ValueError("operative() needs the recipe built first")
        return self._operative

    def resolved(self) -> str:
        """What the recipe amounts to: every component that is built and every value that is not its default.

        Comments, order, includes, bindings that nothing uses, the seed and what registry.yaml calls knobs leave it as
        it is; so do the command line's bindings where they change none of it.

        Raises:
            UserError: the recipe has mistakes.
        """
        return self._resolution().text()

    def identity(self) -> str:
        """A hash of `resolved`: equal for two recipes that are one experiment."""
        return digest(self.resolved())

    def stages(self) -> list[StageOutline]:
        """The stages as the text tells them: names, training budgets, and what their weights depend on."""
        return self._resolution().stages()

    def samples(self) -> int | None:
        """How many images a run samples."""
        return self._resolution().samples()

    def overrides(self) -> list[str]:
        """The bindings that the command line added, as `plain` gives them."""
        return [f"{found} = {found.value!r}" for found in self.source.bindings if found.section == COMMAND_LINE]

    def _resolution(self) -> Resolution:
        self.require_names()
        return Resolution(self.source, self.instances, self.signatures)

    def freeze(self, workdir: Path) -> None:
        """Writes recipe.gin (as asked) and, once built, operative.gin (as built) into the work directory."""
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "recipe.gin", self.text())
        if self._operative is not None:
            write_text(workdir / "operative.gin", self._operative)

    def _checked(self) -> Findings:
        if self._findings is None:
            self._findings = check_names(self.source, self.signatures)
        return self._findings


def load(path: str | Path, bindings: Sequence[str] = (), signatures: Signatures | None = None) -> Recipe:
    """Reads a recipe; its mistakes are found by `check_names` and `build`.

    Args:
        path: a Gin file, or the name of a recipe in registry.yaml.
        bindings: Gin bindings that are applied last, as of `--gin_bindings`.
        signatures: of the catalogue; registry.yaml's where None. Passed on, it is read once for many recipes.

    Raises:
        UserError: there is no such file.
    """
    signatures = signatures or Signatures(catalogue.load())
    file = _find(str(path), signatures.registry)
    return Recipe(file, parse(file, bindings), signatures)


def plain(bindings: Sequence[str]) -> list[str]:
    """Bindings as Gin reads them: 'SampleSet.count=50_000' is 'SampleSet.count = 50000'."""
    source = parse_bindings(bindings)
    if source.mistakes:
        raise UserError("\n".join(map(str, source.mistakes)))
    return [f"{found} = {found.value!r}" for found in source.bindings]


def _find(path: str, registry: Registry) -> Path:
    if path in registry.recipes:
        return registry.root / registry.recipes[path].file
    file = Path(path)
    for candidate in (file, registry.root / path):
        if candidate.is_file():
            return candidate
    if file.is_dir():
        raise UserError(f"{path} is a folder; name one recipe in it (a folder can only be checked)")
    names = [entry.file for entry in registry.recipes.values()] + list(registry.recipes)
    names += [str(near) for near in file.parent.glob("*.gin")]
    stems = {Path(name).stem: name for name in reversed(names)}  # of the folder and the ending all are alike
    found = nearest(file.stem, stems)
    cure = "python -m zoo.run --list shows what there is" if found is None else f"did you mean '{stems[found]}'?"
    raise UserError(f"there is no recipe {path}; {cure}")


def check(
    path: str | Path, bindings: Sequence[str] = (), depth: str = "full", signatures: Signatures | None = None
) -> int:
    """Checks a recipe, or all recipes of a folder, and prints a line for each; the exit code is 0 if all are right.

    Args:
        path: a Gin file, the name of a recipe in registry.yaml, or a folder.
        bindings: applied to every recipe.
        depth: "names" reads names, types and scopes from source; "full" also builds the pipeline, without weights,
            and looks whether its datasets exist and whether its networks are as large as the catalogue says.
    """
    if depth not in ("names", "full"):
        raise ValueError(f"depth must be 'names' or 'full', got {depth!r}")
    signatures = signatures or Signatures(catalogue.load())
    files = recipes_in(Path(path)) if Path(path).is_dir() else [_find(str(path), signatures.registry)]
    wrong = _check_all(files, bindings, depth, signatures)
    if len(files) > 1:
        say(f"{len(files) - wrong} of {len(files)} recipes are right")
    return 1 if wrong else 0


def _check_all(files: Sequence[Path], bindings: Sequence[str], depth: str, signatures: Signatures) -> int:
    """How many of the recipes are wrong; many that are to be built are shared out among processes."""
    workers = min(os.cpu_count() or 1, len(files) // FILES_A_PROCESS, PROCESSES)
    if depth == "names" or workers < 2:
        return _check_some(files, bindings, depth, signatures)
    # Neighbours share stages, so each process takes a run of files; what they print comes as it is found.
    size = -(-len(files) // workers)
    shares = [files[start : start + size] for start in range(0, len(files), size)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = [pool.submit(_check_share, share, bindings, depth, signatures.registry.file) for share in shares]
        return sum(share.result() for share in made)


def _check_share(files: Sequence[Path], bindings: Sequence[str], depth: str, registry: Path) -> int:
    """The share of a process, which reads the catalogue itself."""
    return _check_some(files, bindings, depth, Signatures(catalogue.load(registry)))


def _check_some(files: Sequence[Path], bindings: Sequence[str], depth: str, signatures: Signatures) -> int:
    known: dict[str, int] = {}
    return sum(not _check_one(load(file, bindings, signatures), depth, known) for file in files)


def _check_one(recipe: Recipe, depth: str, known: dict[str, int]) -> bool:
    """Prints what is wrong with a recipe, or that nothing is; see `_sizes` for `known`."""
    name = shown(recipe.path)
    try:
        recipe.require_names()
        say(f"ok  {name}" + (f"  ({_sizes(recipe, known)})" if depth == "full" else ""))
    except UserError as error:
        say("\n    ".join([f"wrong  {name}", *str(error).splitlines()]))
        return False
    for note in recipe.notes():
        say(f"    note: {note}")
    return True


def recipes_in(folder: Path) -> list[Path]:
    """The recipes of a folder and of those below it, fragments left out."""
    found = sorted(file for file in folder.rglob("*.gin") if FRAGMENTS not in file.relative_to(folder).parts[:-1])
    if not found:
        raise UserError(f"there is no recipe (*.gin) in {folder}")
    return found


def _sizes(recipe: Recipe, known: dict[str, int]) -> str:
    """Builds a recipe without weights; "base 1.2M, sr 0.9M".

    Args:
        known: parameters of the networks that were built before, by what their shapes depend on. Many recipes share
            networks, and a large one takes seconds; what is new in this recipe joins.
    """
    pipeline = recipe.build()
    from zoo import recipe_building, symbolic

    shapes = {stage.name: stage.network for stage in recipe.stages()}
    pairs = [(stage, stage.teacher) for stage in pipeline.makers if stage.teacher is not None]
    # a student whose network is written otherwise than its teacher's is compared with it tensor by tensor
    unlike = {one.name for pair in pairs if len({shapes[part.name] for part in pair}) > 1 for one in pair}
    counts: dict[str, int] = {}
    for stage in pipeline.stages:
        part = "images"
        try:
            stage.images.check()
            part = "network"
            stage.check_classes()
            if shapes[stage.name] not in known or stage.name in unlike:
                known[shapes[stage.name]] = symbolic.build(stage).parameters
                stage.check_network()
            counts[stage.name] = known[shapes[stage.name]]
        except (UserError, ValueError, TypeError) as error:
            instances = recipe.instances
            place = recipe_building.explain_stage(error, stage.name, part, recipe.source, instances)
            raise UserError(str(place)) from error
    _check_catalogue(recipe, counts)
    return ", ".join(f"{name} {short_count(count)}" for name, count in counts.items())


def _check_catalogue(recipe: Recipe, counts: Mapping[str, int]) -> None:
    """Raises UserError where the catalogue has other sizes; bindings of the command line make another recipe."""
    known = recipe.registry
    file = recipe.path.resolve()
    for entry in known.recipes.values():
        said = entry.parameters
        if said and said != counts and not recipe.overrides() and (known.root / entry.file).resolve() == file:
            raise UserError(
                f"{shown(known.file)}: parameters of {entry.name} are {dict(said)}, and the networks have "
                f"{dict(counts)}"
            )
