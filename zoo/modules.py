"""Reads Python modules without running them: classes, and what the names in a module stand for."""

import ast
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Class:
    """A class found in source text."""

    module: str
    node: ast.ClassDef

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.node.name}"


@dataclass(frozen=True)
class Alias:
    """A module-level assignment such as `Denoiser = Callable[...]`."""

    module: str
    value: ast.expr


@dataclass(frozen=True)
class External:
    """A name from outside the project, such as keras.Model, or a builtin."""

    qualified: str


Meaning = Class | Alias | External


@dataclass(frozen=True)
class _Names:
    classes: dict[str, ast.ClassDef]
    aliases: dict[str, ast.expr]
    imports: dict[str, str]


class Modules:
    """The project's modules as syntax trees, each parsed once.

    Importing a component's module would import TensorFlow, which takes seconds; its signature does not need that.

    Args:
        packages: top-level packages (or modules) that are read; every other name is External.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)
        self._files: dict[str, Path | None] = {}
        self._names: dict[str, _Names] = {}

    def file(self, module: str) -> Path | None:
        """The source file of a module of the project; None for a module that is not there or is not ours."""
        if module not in self._files:
            self._files[module] = self._find(module)
        return self._files[module]

    def find(self, qualified: str) -> Meaning:
        """What a dotted name such as zoo.networks.unet.UNet stands for, following re-exports."""
        parts = qualified.split(".")
        for length in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:length])
            if self.file(module) is not None:
                return self._look_up(module, parts[length:], qualified)
        return External(qualified)

    def resolve(self, module: str, name: str) -> Meaning:
        """What `name` (possibly dotted) stands for inside `module`."""
        return self._look_up(module, name.split("."), name)

    def classes(self, module: str) -> list[str]:
        """The names of the classes that a module defines."""
        return list(self._read(module).classes)

    def _look_up(self, module: str, parts: list[str], qualified: str) -> Meaning:
        names = self._read(module)
        head, rest = parts[0], parts[1:]
        if head in names.classes and not rest:
            return Class(module, names.classes[head])
        if head in names.imports:
            return self.find(".".join([names.imports[head], *rest]))
        if head in names.aliases and not rest:
            return Alias(module, names.aliases[head])
        return External(qualified)

    def _find(self, module: str) -> Path | None:
        top, *inner = module.split(".")
        if top not in self._packages:
            return None
        # Only the top-level name is given to the import system: for a dotted one it would import the parents.
        spec = importlib.util.find_spec(top)
        if spec is None:
            return None
        if spec.submodule_search_locations is None:
            return Path(spec.origin) if spec.origin and not inner else None
        for folder in spec.submodule_search_locations:
            place = Path(folder, *inner)
            for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                if (inner or candidate.name == "__init__.py") and candidate.is_file():
                    return candidate
        return None

    def _read(self, module: str) -> _Names:
        if module not in self._names:
            file = self.file(module)
            names = _Names({}, {}, {})
            if file is not None:
                package = module if file.name == "__init__.py" else module.rpartition(".")[0]
                _collect(ast.parse(file.read_text(encoding="utf-8"), str(file)).body, package, names)
            self._names[module] = names
        return self._names[module]


def _collect(body: Iterable[ast.stmt], package: str, names: _Names) -> None:
    """Adds what module-level statements define, also inside `if TYPE_CHECKING:` and `try:`."""
    for statement in body:
        match statement:
            case ast.ClassDef():
                names.classes[statement.name] = statement
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names.aliases[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names.aliases[name] = value
            case ast.Import(names=imported):
                for alias in imported:
                    # `import a.b` binds a; `import a.b as c` binds c to a.b.
                    local = alias.asname or alias.name.partition(".")[0]
                    names.imports[local] = alias.name if alias.asname else local
            case ast.ImportFrom():
                base = _absolute(statement, package)
                for alias in statement.names:
                    names.imports[alias.asname or alias.name] = f"{base}.{alias.name}"
            case ast.If() | ast.Try():
                _collect(statement.body, package, names)
                _collect(statement.orelse, package, names)


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    """The module of a `from ... import`, with leading dots resolved against the package."""
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - statement.level + 1]
    return ".".join([*kept, *([statement.module] if statement.module else [])])
