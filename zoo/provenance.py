"""What a result says of how it came about: components as plain data, versions of packages, the commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np

PACKAGES = ("tensorflow", "keras", "numpy", "gin-config", "tensorflow-datasets", "tensorflow-gan", "scipy", "pillow")


def parts_of(component: Any) -> Any:
    """A component as plain data: its class and what it was made with, all the way down."""
    if isinstance(component, str | int | float | bool | type(None)):
        return component
    if isinstance(component, list | tuple):
        return [parts_of(part) for part in component]
    if isinstance(component, keras.layers.Layer):
        return type(component).__name__
    # Tables follow from what a component was made with.
    given = {name: part for name, part in vars(component).items() if not isinstance(part, np.ndarray)}
    return {"class": type(component).__name__, **{name: parts_of(part) for name, part in given.items()}}


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The commit of this project, with a mark where the tree has changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found}+changes" if changed else found
