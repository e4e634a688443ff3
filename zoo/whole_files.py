"""Files that are whole or not there: written beside their place and renamed, so that a kill leaves no part of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from zoo.console import UserError

CURE = "make room or choose another place; what was finished is kept, and the same command goes on from there"


@contextlib.contextmanager
def writing(path: Path, cure: str = CURE) -> Iterator[IO[bytes]]:
    """A file beside the place, renamed when whole: a reader sees the old file or the new one, never a part.

    Args:
        cure: what the message of a full disk tells the user to do.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        beside = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {cure}") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file, or none; see `writing`."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file in UTF-8, or none; see `writing`."""
    write_bytes(path, text.encode())
