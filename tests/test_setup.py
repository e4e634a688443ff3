"""What is declared, pinned, listed and written down agrees with what is there."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".gin", ".json", ".csv", ".html", ""}


@functools.cache
def project_files() -> tuple[Path, ...]:
    """What a clone would hold: tracked files and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return tuple(path for path in map(ROOT.joinpath, listed.stdout.splitlines()) if path.is_file())
    places = ["zoo", "harness", "recipes", "tests", "docs", "benchmarks", "results", ".ci", ".github"]
    deep = [path for place in places for path in (ROOT / place).rglob("*")]
    return tuple(path for path in [*ROOT.iterdir(), *deep] if path.is_file() and path.suffix != ".pyc")


def pins() -> dict[str, str]:
    """constraints.txt as name -> exact version."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = {}
    for line in filter(None, lines):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"constraints.txt: {line} is not an exact version"
        assert requirement.url is None, f"constraints.txt: {line} names a place"
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_declared_dependency_is_pinned(extra: str):
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        version = pins().get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} has no exact version in constraints.txt"
        assert version in requirement.specifier, f"{requirement.name}=={version} is not {requirement.specifier}"


def test_every_third_party_import_is_declared():
    """In an environment with more in it than the project asks for, a missing declaration would not show."""
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    declared |= {canonicalize_name(Requirement(text).name) for texts in EXTRAS.values() for text in texts}
    distributions = metadata.packages_distributions()
    own = {"zoo", "harness", *(path.stem for path in ROOT.glob("benchmarks/*.py"))}
    missing = []
    for path in [*ROOT.glob("zoo/**/*.py"), *ROOT.glob("harness/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - own:
                owners = {canonicalize_name(name) for name in distributions.get(top, [top])}
                if top not in sys.stdlib_module_names and not owners & declared:
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {top}")
    assert not missing, "\n".join(missing)


def components() -> dict[str, dict[str, str]]:
    return yaml.safe_load((ROOT / "registry.yaml").read_text())["components"]


def test_every_component_is_where_the_registry_says():
    for name, entry in components().items():
        module, _, cls = entry["target"].rpartition(".")
        assert cls == name, f"{name}: its target ends in {cls}; the key is the class's name"
        base = ROOT.joinpath(*module.split("."))
        path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
        assert path, f"{name}: there is no module {module}"
        classes = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
        assert cls in classes, f"{name}: {path.relative_to(ROOT)} defines no such class"
        assert entry["family"], name


def test_recipes_and_registry_agree():
    """Every listed recipe exists, and every recipe that stands alone is listed."""
    listed = {entry["file"] for entry in yaml.safe_load((ROOT / "registry.yaml").read_text())["recipes"].values()}
    alone = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "recipes").rglob("*.gin")
        if not {"base", "ablations"} & set(path.relative_to(ROOT / "recipes").parts)
    }
    assert listed >= alone, f"not in registry.yaml: {sorted(alone - listed)}"
    assert all((ROOT / file).is_file() for file in listed), sorted(
        file for file in listed if not (ROOT / file).is_file()
    )


def house() -> list[str]:
    """The lines of the tree under 'The house' in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text()
    section = text.split("\n## The house\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("    ")]


def test_the_design_knows_every_file():
    """docs/design.md names each source file in its tree, and no file that is not there unless it says `later`."""
    present = [line for line in house() if "(later" not in line]
    named = {name for line in present for name in re.findall(r"\b\w+\.py\b", line)} - {"__init__.py"}
    there = {p.name for p in [*ROOT.glob("zoo/**/*.py"), *ROOT.glob("harness/**/*.py")] if not p.name.startswith("__")}
    assert not there - named, f"docs/design.md, 'The house', leaves out: {sorted(there - named)}"
    assert not named - there, f"docs/design.md, 'The house', names what is not there: {sorted(named - there)}"


def test_no_file_names_a_place_on_one_machine():
    """Absolute paths of somebody's machine, and paths that leave the project, hold for one person only."""
    anchors = "|".join(["root", "work", "home", "Users", "mnt", "opt"])
    pattern = re.compile(rf"(?<![\w.}}*-])/(?:{anchors})/[\w.]+|\.\./" + "shared")
    found = []
    for path in project_files():
        if path.suffix in TEXT and path.stat().st_size < 2_000_000:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if match := pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)
