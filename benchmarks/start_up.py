"""Seconds from the command to the screen, and to the first training step of a network of 10.7 million parameters.

    python benchmarks/start_up.py [--repeats 3] [--json FILE]

Each is a process of its own, as a person starts it; the median of some. The first step is there when its row stands in
metrics.csv; the recipe is benchmarks/training_step.gin. Starting Python with NumPy alone is the yardstick.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from yardsticks import write_figures

from zoo.console import say

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "benchmarks" / "training_step.gin")
FIRST_STEP_LIMIT = 600  # seconds until it is given up
PROGRAMS = {
    "Python and NumPy": ["-c", "import numpy"],
    "TensorFlow": ["-c", "import tensorflow"],
    "TensorFlow and Keras, as every command imports them": [
        "-c",
        "from zoo.console import import_tensorflow; import_tensorflow()",
    ],
    "--help": ["-m", "zoo.run", "--help"],
    "--list": ["-m", "zoo.run", "--list"],
    "--do check --names_only": ["-m", "zoo.run", "--recipe", RECIPE, "--do", "check", "--names_only"],
    "--do check": ["-m", "zoo.run", "--recipe", RECIPE, "--do", "check"],
    "--do describe": ["-m", "zoo.run", "--recipe", RECIPE, "--do", "describe"],
}


def environment() -> dict[str, str]:
    """This program's, with the project found from any folder."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def seconds_of(arguments: list[str]) -> float:
    """Seconds of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - began


def first_step(folder: Path) -> float:
    """Seconds from the start of a training command to the end of its first step; the command is stopped there."""
    metrics = folder / "stages" / "base" / "metrics.csv"
    command = [sys.executable, "-m", "zoo.run", "--recipe", RECIPE, "--do", "train", "--workdir", str(folder)]
    bindings = ["--gin_bindings", "Monitoring.log_every = 1"]
    began = time.perf_counter()
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            [*command, *bindings], cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 1):
                if process.poll() is not None or time.perf_counter() - began > FIRST_STEP_LIMIT:
                    text = (folder / "output").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"no first step within {FIRST_STEP_LIMIT} s, or the command ended:\n{text}")
                time.sleep(0.02)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of every program; the median is shown")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = {}
    for title, program in PROGRAMS.items():
        seconds = float(np.median([seconds_of(program) for _ in range(arguments.repeats)]))
        figures[title] = {"seconds": seconds}
        say(f"{title}: {seconds:.2f} s")
    steps = []
    for _ in range(arguments.repeats):
        with TemporaryDirectory() as folder:
            steps.append(first_step(Path(folder)))
    figures["first training step"] = {"seconds": float(np.median(steps)), "most_seconds": max(steps)}
    say(f"first training step: {np.median(steps):.1f} s after the start ({min(steps):.1f} to {max(steps):.1f})")
    if arguments.json:
        from zoo.console import import_tensorflow

        import_tensorflow()  # the machine's device is asked of it
        write_figures(arguments.json, "start-up", figures)


if __name__ == "__main__":
    main()
