"""Runs the benchmarks one after another, and writes docs/benchmarks.md from their figures.

    python benchmarks/run.py                        all of them, on a quiet machine
    python benchmarks/run.py --only start_up        one (again for more); what the others measured stays
    python benchmarks/run.py --render               the page alone, from benchmarks/results/

Each writes benchmarks/results/NAME.json. On the page only what stands between `<!-- figures: NAME -->` and
`<!-- end -->` is written here; the text around it is by hand.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from yardsticks import Figures

from zoo.console import UserError, command, say

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
# A figure whose name begins so, or has one of these words, is what the others are held against.
YARDSTICKS = ("fraction", "ratio", "matrix_rate", "sqrtm", "pillow", "disk", "yardstick")
NOT_MEASURED = "-"


class Benchmark(NamedTuple):
    """A script of this folder and its place on the page."""

    title: str
    script: str
    arguments: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The command as a person types it."""
        return shlex.join(["python", f"benchmarks/{self.script}", *self.arguments])


BENCHMARKS = {
    "training_step": Benchmark("Training step", "training_step.py"),
    "network": Benchmark("A recipe's network", "network.py", ("--recipe", "benchmarks/training_step.gin")),
    "precision": Benchmark("Precision", "precision.py"),
    "recomputation": Benchmark("Recomputation", "recomputation.py"),
    "sampling": Benchmark("Sampling", "sampling.py"),
    "sampling_memory": Benchmark("Memory of sampling", "sampling_memory.py"),
    "adm_compute": Benchmark("ADM's throughput and compute", "adm_compute.py"),
    "latency": Benchmark("Latency of a distilled model", "latency.py"),
    "input_pipeline": Benchmark("Input", "input_pipeline.py"),
    "harness_metrics": Benchmark("Metrics", "harness_metrics.py"),
    "evaluation_memory": Benchmark("Memory of an evaluation", "evaluation_memory.py"),
    "start_up": Benchmark("Start", "start_up.py"),
}


def measure(name: str, extra: list[str]) -> bool:
    """Runs one script; whether it wrote its figures."""
    benchmark = BENCHMARKS[name]
    say(f"\n== {benchmark.words} {shlex.join(extra)}".rstrip())
    if not (HERE / benchmark.script).is_file():
        say(f"left out: there is no benchmarks/{benchmark.script}")
        return True
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    unfinished = path.with_suffix(".unfinished")
    places = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    program = [sys.executable, str(HERE / benchmark.script), *benchmark.arguments, *extra]
    code = subprocess.run(
        [*program, "--json", str(unfinished)], cwd=HERE.parent, env=environment, check=False
    ).returncode
    if code == 0 and unfinished.is_file():
        unfinished.replace(path)
        return True
    unfinished.unlink(missing_ok=True)
    say(f"{name}: no figures, exit code {code}")
    return False


# ---- the page


def render() -> None:
    """Writes the figures that are there into the page, and leaves the rest of it alone."""
    text = PAGE.read_text(encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        opening = f"<!-- figures: {name} -->"
        block = f"{opening}\n\n{section(name, benchmark)}\n\n<!-- end -->"
        found = re.compile(re.escape(opening) + r".*?<!-- end -->", re.DOTALL)
        if opening in text:
            text = found.sub(lambda _, block=block: block, text, count=1)  # type: ignore[misc]
        else:
            text = f"{text.rstrip()}\n\n## {benchmark.title}\n\n{block}\n"
    PAGE.write_text(text, encoding="utf-8")
    say(f"wrote {PAGE.relative_to(HERE.parent)}")


def section(name: str, benchmark: Benchmark) -> str:
    """Command, machine and table of one benchmark."""
    lines = [f"    {benchmark.words}", ""]
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return "\n".join([*lines, "Not measured yet."])
    result = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join([*lines, f"On {result['machine']['words']}.", "", *table(result["figures"])])


def table(figures: Figures) -> list[str]:
    """Markdown lines: a row for each group, its figures beside their yardsticks."""
    groups: dict[str, Any] = {key: value for key, value in figures.items() if isinstance(value, dict)}
    alone = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    lines = ["| what | measured | beside its yardstick |", "|---|---|---|"]
    for title, group in (({"all": alone} if alone else {}) | groups).items():
        plain = [worded(key, value) for key, value in group.items() if not is_yardstick(key)]
        held = [worded(key, value) for key, value in group.items() if is_yardstick(key)]
        lines.append(f"| {title} | {', '.join(plain) or NOT_MEASURED} | {', '.join(held) or NOT_MEASURED} |")
    return lines


def is_yardstick(key: str) -> bool:
    """Whether a figure is a yardstick or a share of one."""
    return any(word in key for word in YARDSTICKS)


def worded(key: str, value: Any) -> str:
    """A figure with its name and the unit that the name says."""
    words = key.replace("_", " ")
    if value is None:
        return f"{words} {NOT_MEASURED}"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return f"{words} {value}"
    if key.endswith("bytes_per_second"):
        return f"{words.removesuffix(' bytes per second')} {value / 1e6:,.0f} MB/s"
    if key.endswith("per_second"):
        return f"{words.removesuffix(' per second')} {short(value)}/s"
    if "fraction" in key or "ratio" in key:
        return f"{words} **{value:.2f}**"
    if key.endswith("seconds"):
        words = words.removesuffix("seconds").strip()
        return f"{words} {short(value)} s".strip()
    if key.endswith("rate"):
        return f"{words} {value / 1e9:,.0f} GFLOP/s"
    if "flops" in key:
        return f"{words.replace('flops', '').strip()} {value / 1e9:,.2f} GFLOP".strip()
    if "bytes" in key:
        words = words.replace("bytes", "").replace("  ", " ").strip()
        return f"{words} {value / 2**20:,.1f} MiB" if value >= 2**20 else f"{words} {value / 2**10:,.1f} KiB"
    return f"{words} {short(value)}"


def short(value: float) -> str:
    """A number with three digits, whole if they are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=tuple(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("arguments", nargs="*", help="after --: more for the script of --only")
    arguments = parser.parse_args()
    names = arguments.only or list(BENCHMARKS)
    if arguments.arguments and len(names) > 1:
        raise UserError("arguments after -- belong to one script: name it with --only")
    failed = [] if arguments.render else [name for name in names if not measure(name, arguments.arguments)]
    render()
    return 1 if failed else 0


if __name__ == "__main__":
    command(main)
