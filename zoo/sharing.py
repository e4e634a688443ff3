"""Folders that several work directories have in common: links to them, and second names for their files."""

import os
import shutil
from pathlib import Path

from zoo.console import UserError


def link(place: Path, target: Path) -> None:
    """Makes `place` a link to the folder `target`, which is made where it is not there.

    Raises:
        UserError: something else is in the place.
    """
    target.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    wanted = os.path.relpath(target.resolve(), place.parent.resolve())
    if place.is_symlink():
        if os.readlink(place) == wanted:
            return
        place.unlink()
    if place.exists():
        raise UserError(f"{place} is in the way of a link to {target}: move it away, or choose another --workdir")
    place.symlink_to(wanted, target_is_directory=True)


def copy(source: Path, target: Path) -> None:
    """A second name for every file of a folder, on the disk once where the file system can do that.

    Files that are being written, which are hidden until they are whole, are left out.
    """
    beside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside, copy_function=_hard_link, ignore=shutil.ignore_patterns(".*"))
    beside.rename(target)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
