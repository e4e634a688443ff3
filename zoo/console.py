"""The screen of every command: quiet imports, mistakes without tracebacks, progress with time left."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


class UserError(Exception):
    """A mistake that the user can mend: the message says what was received, what is allowed and what to do."""

    code = 2
    """Exit code of a command that ends with it."""


class Terminated(BaseException):
    """The process was asked to end (SIGTERM), as machines that can be taken away do before they go."""

    code = 75
    """Exit code: EX_TEMPFAIL, run the same command again."""


class Termination:
    """Turns SIGTERM into the exception Terminated: at once, or when the work in hand has been saved."""

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False

    def install(self) -> None:
        """Takes over the signal; in the main thread of a command."""
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._deferred:
            raise Terminated

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the signal only sets `asked`: the body looks at it, saves, and raises Terminated itself."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside `deferred`: work that may be broken off; raises Terminated where the signal has come."""
        before, self._deferred = self._deferred, False
        try:
            if self.asked:
                raise Terminated
            yield
        finally:
            self._deferred = before


termination = Termination()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the C++ lines that TensorFlow writes to descriptor 2 while it is imported.

    TensorFlow writes them whatever TF_CPP_MIN_LOG_LEVEL says, and nothing follows afterwards.
    An exception still reaches the screen: the descriptor is restored first.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without their log lines; every command calls it before anything that needs them."""
    if "tensorflow" in sys.modules:
        return
    with quiet():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.list_physical_devices()


LOGGED_EVERY = 10.0  # seconds between two states of a progress line that goes into a file


def progress(total: int, title: str, unit: str = "", done: int = 0, leave: bool = True) -> "tqdm":
    """A progress line of less than 80 columns, with the time left.

    Args:
        total: units of work.
        title: what is done.
        unit: name of a unit, in the plural; empty where the title says it.
        done: units that an earlier process did.
        leave: whether the line stays when the work is done.
    """
    from tqdm import tqdm  # the networks alone need none

    shape = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}[{elapsed}<{remaining}]{postfix}"
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=f"{unit} " if unit else "",
        bar_format=shape,
        ncols=79,
        mininterval=0.5 if sys.stderr.isatty() else LOGGED_EVERY,
        leave=leave,
    )


def say(text: str = "") -> None:
    """Prints a line at once, also when the output goes into a file."""
    print(text, flush=True)


def command(main: Callable[[], int | None], at_once: bool = False) -> None:
    """Runs `main` as a program: a UserError becomes one message and its exit code (2), Ctrl-C 130, SIGTERM 75.

    `at_once` ends the process without Python's own clearing up, which takes TensorFlow's graphs apart for seconds;
    for programs whose files are all written and closed by then.
    """
    code = 0
    termination.install()
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except Terminated as stopped:
        print("\nstopped by SIGTERM; the same command goes on from here", file=sys.stderr)
        code = stopped.code
    except KeyboardInterrupt:
        print("\nstopped by the keyboard; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
