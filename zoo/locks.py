"""Locks on the folders of a run: two processes never write into one, and a killed process leaves none behind."""

import contextlib
import datetime
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.console import UserError, say

# What a file system says that has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(path: Path, what: str, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Holds a lock; the operating system gives it back when the process ends, however it ends.

    Args:
        path: the lock file, made where it is not there; its content names the last process that held it alone.
        what: is in use, for the message: "the stage folder runs/x/stages/base".
        shared: held together with other shared holders, but not with one that holds it alone.
        patience: seconds to wait for another holder to end.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            _acquire(file.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + patience)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{what} is in use by {file.read().strip() or 'another process'}: wait for it to end, stop it, or "
                "choose another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"no locks on this file system: see to it that no other process writes into {what}")
        if not shared:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
            file.flush()
        yield


def _acquire(descriptor: int, kind: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)
