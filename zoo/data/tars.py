"""Where the members of a tar file lie, also of one inside another. Only headers are read.

Python's tarfile reads the headers; its own walk knows no end but that of the file, and keeps an object for each member.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo.console import UserError


class Member(NamedTuple):
    """A file inside a tar file."""

    name: str
    offset: int  # bytes from the beginning of the (outermost) tar file
    size: int  # bytes


def members(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """The regular files of a tar file, or of one that lies in the bytes `start` to `stop` of another.

    Raises:
        UserError: the file is cut off, or is no tar file.
    """
    with path.open("rb", buffering=0) as file:
        stop = os.fstat(file.fileno()).st_size if stop is None else stop
        position = start
        while position < stop:
            header = os.pread(file.fileno(), tarfile.BLOCKSIZE, position)
            if len(header) == tarfile.BLOCKSIZE and not any(header):
                return  # an empty block ends the archive
            try:
                found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise UserError(
                    f"{path} is cut off or damaged at byte {position:,}, where the header of a member should stand "
                    f"({error}); copy or download it again"
                ) from None
            data = position + tarfile.BLOCKSIZE
            if data + found.size > stop:
                raise UserError(
                    f"{path} is cut off inside {found.name}, which should end at byte {data + found.size:,} "
                    f"(the last is {stop:,}); copy or download it again"
                )
            if found.isreg():
                yield Member(found.name, data, found.size)
            position = data + -(-found.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def member_name(path: Path, offset: int) -> str:
    """Name of the member whose data begin at `offset`."""
    with path.open("rb", buffering=0) as file:
        header = os.pread(file.fileno(), tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
    return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
