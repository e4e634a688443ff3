"""Imports go downward only, read from the source without importing anything. docs/design.md, 'Layers', says why."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = {"tensorflow", "jax", "jaxlib", "torch", "tensorflow_datasets", "tensorflow_gan", "tensorflow_hub"}
HEAVY = BACKENDS | {"keras", "keras_hub", "matplotlib", "scipy"}

# From the top down. A module belongs to the layer with the longest prefix of its name; a file directly in zoo/
# that is not named here (recipe, registry, pipeline, ...) is assembly.
LAYERS = {
    "commands": ["zoo.run", "zoo.convert", "harness"],
    "assembly": [],
    "machinery": [
        "zoo.training",
        "zoo.sampling",
        "zoo.likelihood",
        "zoo.latents",
        "zoo.device_batches",
        "zoo.origins",
        "zoo.sample_files",
        "zoo.locks",
        "zoo.data",
    ],
    "method": [
        f"zoo.diffusion.{name}"
        for name in ("objective", "samplers", "dpm_solver", "guidance", "distillation", "conditioning", "bound")
    ],
    "mathematics": ["zoo.diffusion"],
    "networks": ["zoo.networks"],
    "console": ["zoo.console", "zoo.whole_files"],
}
RANKS = {"commands": 5, "assembly": 4, "machinery": 3, "method": 2, "mathematics": 1, "networks": 1, "console": 0}
HARNESS_MAY_IMPORT = (
    "zoo.data",
    "zoo.recipe",
    "zoo.registry",
    "zoo.console",
    "zoo.devices",
    "zoo.download",
    "zoo.sharing",
    "zoo.convert.torch_file",
    "zoo.whole_files",
)


class Import(NamedTuple):
    """One import statement's target, and where it stands."""

    target: str
    line: int
    at_import: bool
    """Whether it runs when the module is imported: not inside a function, nor under TYPE_CHECKING."""
    for_types: bool
    """Whether it stands under TYPE_CHECKING, and so never runs."""


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for path in sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("harness/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def walk(node: ast.AST, at_import: bool = True, for_types: bool = False) -> Iterator[Import]:
    """The imports under a node; `from package import module` gives the module where it is one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_import, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in modules() else str(child.module), child.lineno, at_import, for_types)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            runs = at_import and not function and not typing_only
            yield from walk(child, runs, for_types or typing_only)


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(walk(ast.parse(modules()[module].read_text(encoding="utf-8"))))


def starts_with(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> str:
    """The layer of a module; `zoo` itself is the doorway for Python programs, a command like the others."""
    prefixes = {prefix: name for name, listed in LAYERS.items() for prefix in listed if starts_with(module, prefix)}
    if prefixes:
        return prefixes[max(prefixes, key=len)]
    assert module.count(".") <= 1, f"{module} belongs to no layer: name its folder in LAYERS and in docs/design.md"
    return "assembly" if "." in module else "commands"


def own_imports() -> Iterator[tuple[str, Import]]:
    for module in modules():
        for found in imports(module):
            if found.target.split(".")[0] in ("zoo", "harness"):
                yield module, found


def places(offences: list[tuple[str, Import]]) -> str:
    return "\n".join(
        f"{modules()[module].relative_to(ROOT)}:{found.line} imports {found.target}" for module, found in offences
    )


def test_every_module_has_a_layer():
    assert len(modules()) > 10
    for module in modules():
        assert layer(module) in RANKS


def test_imports_go_downward():
    """The names of types may point upward: what takes a stage says so, and never runs the import."""
    allowed_upward = {("zoo.run", "harness")}
    offences = [
        (module, found)
        for module, found in own_imports()
        if RANKS[layer(module)] < RANKS[layer(found.target)]
        and not found.for_types
        and (module, found.target.split(".")[0]) not in allowed_upward
    ]
    assert not offences, places(offences)


def test_mathematics_and_networks_do_not_know_one_another():
    pair = {"mathematics", "networks"}
    offences = [(module, found) for module, found in own_imports() if {layer(module), layer(found.target)} == pair]
    assert not offences, places(offences)


def test_zoo_imports_harness_only_in_functions_of_run():
    offences = [
        (module, found)
        for module, found in own_imports()
        if module.startswith("zoo")
        and starts_with(found.target, "harness")
        and (module != "zoo.run" or found.at_import)
    ]
    assert not offences, places(offences)


def test_harness_imports_little_of_zoo():
    offences = [
        (module, found)
        for module, found in own_imports()
        if module.startswith("harness")
        and starts_with(found.target, "zoo")
        and not any(starts_with(found.target, allowed) for allowed in HARNESS_MAY_IMPORT)
    ]
    assert not offences, places(offences)


def test_method_and_networks_import_no_backend():
    offences = [
        (module, found)
        for module in modules()
        for found in imports(module)
        if module.startswith(("zoo.diffusion", "zoo.networks")) and found.target.split(".")[0] in BACKENDS | {"gin"}
    ]
    assert not offences, places(offences)


def test_gin_has_one_doorway():
    """Recipe (with the files it is split into), registry and run; a component never sees Gin."""
    offences = [
        (module, found)
        for module in modules()
        for found in imports(module)
        if starts_with(found.target, "gin")
        and module not in ("zoo.recipe", "zoo.registry", "zoo.run")
        and not module.startswith("zoo.recipe_")
    ]
    assert not offences, places(offences)


def test_no_import_cycles():
    """Modules that import one another when they are imported work only in one order."""
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " imports ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for found in imports(module):
            if found.at_import and found.target in modules() and found.target != module:
                visit(found.target, (*trail, module))
        done.add(module)

    for module in modules():
        visit(module, ())


def run_at_import(module: str) -> dict[str, str]:
    """What is imported when `module` is, packages included: each target, and the file and line that asks for it."""
    asked: dict[str, str] = {}
    waiting = [module]
    seen = set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in modules():
            continue
        seen.add(current)
        if "." in current:
            waiting.append(current.rpartition(".")[0])
        for found in imports(current):
            if found.at_import:
                asked.setdefault(found.target, f"{modules()[current].relative_to(ROOT)}:{found.line}")
                waiting.append(found.target)
    return asked


LIGHT = ["zoo", "zoo.console", "zoo.registry", "zoo.recipe", "zoo.run", "harness.tables", "harness.assets"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str):
    """`--help`, `--list`, the check of names and the tables answer at once, so they do not wait for TensorFlow."""
    asked = run_at_import(module)
    heavy = [f"{place} imports {target}" for target, place in asked.items() if target.split(".")[0] in HEAVY]
    assert module in modules(), f"{module} is not there"
    assert not heavy, "\n".join(heavy)


def test_light_modules_import_no_tensorflow_when_run():
    """The same, seen from outside: other people's packages may import TensorFlow in turn."""
    program = f"import sys, {', '.join(LIGHT)}; print(*sorted({BACKENDS | {'keras'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
