"""One file from the network: resumable, checked, and whole or not there; and the folder of such files."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zoo.console import UserError, progress, say

CHUNK = 1 << 20
MEGABYTE = 10**6
TIMEOUT = 30.0  # seconds without a byte
SPARE = 1 << 28  # bytes that a download leaves free on the disk
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def asset_folder() -> Path:
    """$ZOO_ASSETS, or the user's cache folder as the XDG base directories name it."""
    given = os.environ.get("ZOO_ASSETS")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion-zoo" / "assets"


def is_offline() -> bool:
    """Whether ZOO_OFFLINE forbids the network; `--offline` of the commands sets it."""
    return os.environ.get("ZOO_OFFLINE", "0") not in ("", "0")


def part_of(path: Path) -> Path:
    """The file that grows while `path` is fetched."""
    return path.with_name(path.name + ".part")


def recorded_hash(path: Path) -> str | None:
    """The SHA-256 that was recorded when a file was fetched."""
    try:
        return _beside(path, ".sha256").read_text().split()[0]
    except (OSError, IndexError):
        return None


def download(address: str, path: Path, title: str, sha256: str | None = None, size: int | None = None) -> None:
    """Fetches a file beside its place and renames it when it is whole; what has come of an earlier try is kept.

    The SHA-256 of what came is recorded in a file beside it, as `sha256sum -c` reads it.

    Args:
        title: for messages and the progress bar.
        sha256: what it must be, where that is known.
        size: what others have reported; another one is told, and does not fail.

    Raises:
        UserError: no network, no such file, no space, cut short, or other content than was published.
    """
    part = part_of(path)
    etag = _beside(part, ".etag")
    with _locked(part, title) as file:
        total = _receive(address, file, path, title)
        if total is not None and file.tell() != total:
            raise UserError(
                f"{title}: {file.tell()} of {total} bytes came before the connection ended; the same command goes on "
                "from there"
            )
        found = _hash(part)
        if sha256 is not None and found != sha256:
            part.unlink()
            etag.unlink(missing_ok=True)
            raise UserError(
                f"{title}: what came from {address} has SHA-256 {found}, and {sha256} was published: it is damaged or "
                "another file, and was removed"
            )
        if size is not None and file.tell() != size:
            say(f"warning: {title} has {file.tell()} bytes, and {size} have been reported")
        _beside(path, ".sha256").write_text(f"{found}  {path.name}\n")
        part.rename(path)
    etag.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path, title: str) -> Iterator[BinaryIO]:
    """The growing file, open at its end and held by this process alone."""
    with _disk(part, title):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{title}: another process is fetching it into {part}") from error
        except OSError:
            pass  # a file system without locks
        yield file


def _receive(address: str, file: BinaryIO, path: Path, title: str) -> int | None:
    """Appends what is missing; the size of the whole where the server says it."""
    etag = _beside(part_of(path), ".etag")
    try:
        with _open(address, file, etag) as response:
            total = _total(response, file)
            _write(response, file, total, path, title, etag)
            return total
    except urllib.error.HTTPError as error:
        raise UserError(f"{title}: {address} answers {error.code} ({error.reason})") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{title}: the connection to {address} failed ({reason}). The same command goes on where this one stopped; "
            f"where there is no network, fetch the file elsewhere and put it at {path}"
        ) from error


def _open(address: str, file: BinaryIO, etag: Path) -> http.client.HTTPResponse:
    """Asks for what is missing, or for the whole where the server has another version than the part is of."""
    headers = {"User-Agent": "diffusion-zoo"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
        if etag.is_file():
            headers["If-Range"] = etag.read_text()
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not file.tell():
            raise
        # Nothing is left to send: the part is whole, or too long, and which of the two nobody says.
        _empty(file)
        return _open(address, file, etag)


def _total(response: http.client.HTTPResponse, file: BinaryIO) -> int | None:
    """The size of the whole; the part is emptied where the server sends the whole again."""
    ranged = RANGE.match(response.headers.get("Content-Range", ""))
    if response.status == 206 and ranged and int(ranged[1]) == file.tell():
        return None if ranged[2] == "*" else int(ranged[2])
    _empty(file)
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _write(
    response: http.client.HTTPResponse, file: BinaryIO, total: int | None, path: Path, title: str, etag: Path
) -> None:
    done = file.tell()
    free = shutil.disk_usage(path.parent).free
    if total is not None and total - done > free - SPARE:
        raise UserError(
            f"{title}: {(total - done) / 1e6:.0f} MB are to come, and {path.parent} has {free / 1e6:.0f} MB left; give "
            "another folder with --folder or ZOO_ASSETS"
        )
    if response.headers.get("ETag", "").startswith('"'):  # a weak one does not vouch for every byte
        etag.write_text(response.headers["ETag"])
    with progress((total or 0) // MEGABYTE, title, "MB", done // MEGABYTE, leave=False) as bar:
        while chunk := response.read(CHUNK):
            with _disk(path, title):
                file.write(chunk)
                file.flush()
            bar.update(file.tell() // MEGABYTE - bar.n)
    with _disk(path, title):
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk(path: Path, title: str) -> Iterator[None]:
    """Turns what a disk refuses into one message."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{title} cannot be written to {path.parent} ({error.strerror}); give another folder with --folder or "
            "ZOO_ASSETS. What has come is kept"
        ) from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
