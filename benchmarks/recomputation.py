"""What recomputation of blocks saves and costs: activation memory and seconds of a training step with and without it.

    python benchmarks/recomputation.py [--recipe benchmarks/recomputation.gin] [--batch 4] [--steps 2] [--json FILE]

Each runs in a process of its own, whose largest resident memory is read when it ends. Activation memory is that, less
what the process took before the network was made, less five times the weights: weights, gradients, two slots of Adam,
moving average. On a processor; accelerators reserve their memory in advance.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from network import POLICIES, TensorFlow, choose, example, timed
from yardsticks import write_figures

from zoo.console import command, say

COPIES = 5
UNIT = 2**20  # MiB; ru_maxrss counts in KiB


def peak() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory and time of one of the two, in this process."""
    backend, before = TensorFlow(), peak()
    stage = choose(arguments)
    network = stage.build_network(0, POLICIES[arguments.precision], backend.recompute if arguments.recompute else None)
    weights = 4 * sum(math.prod(variable.shape) for variable in network.trainable_variables) / UNIT
    seconds = timed(backend.training_step(stage, network, example(stage, arguments.batch)), arguments.steps)
    return {
        "peak_mib": peak(),
        "process_mib": before,
        "weights_mib": weights,
        "activations_mib": peak() - before - COPIES * weights,
        "seconds": seconds.median,
        "processor_seconds": seconds.processor,
        "first_seconds": seconds.first,
    }


def in_a_process(recompute: bool) -> dict[str, Any]:
    given = [sys.executable, __file__, *sys.argv[1:], "--child", *(["--recompute"] if recompute else [])]
    done = subprocess.run(given, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "benchmarks" / "recomputation.gin"))
    parser.add_argument("--stage", help="by name; the first where it is left out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after the first")
    parser.add_argument("--precision", choices=list(POLICIES), default="float32")
    parser.add_argument("--gin_bindings", action="append", default=[], help="as of zoo.run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        say(json.dumps(measure(arguments)))
        return
    # in turn, twice: the faster of two is the one that was disturbed less
    pairs = [(in_a_process(recompute=False), in_a_process(recompute=True)) for _ in range(2)]
    kept, again = (min(found, key=lambda one: float(one["seconds"])) for found in zip(*pairs, strict=True))
    names = {"memory": "activations_mib", "time": "seconds", "processor_time": "processor_seconds"}
    ratios = {f"{ratio}_ratio": again[name] / kept[name] for ratio, name in names.items()}
    for name, found in (("kept", kept), ("recomputed", again)):
        say(
            f"{name:11} activations {found['activations_mib']:6.0f} MiB (peak {found['peak_mib']:.0f}, weights "
            f"{found['weights_mib']:.0f}); step {found['seconds']:.2f} s ({found['processor_seconds']:.2f} s of "
            f"processor), first {found['first_seconds']:.1f} s"
        )
    say(
        f"recomputation takes {ratios['memory_ratio']:.2f} of the activation memory, {ratios['time_ratio']:.2f} times "
        f"as long and {ratios['processor_time_ratio']:.2f} times the time of processor"
    )
    if arguments.json is not None:
        groups = {"kept": kept, "recomputed": again}
        write_figures(
            arguments.json,
            "recomputation",
            {
                **{f"{group}_step_seconds": found["seconds"] for group, found in groups.items()},
                **{f"{group}_activations_bytes": found["activations_mib"] * 2**20 for group, found in groups.items()},
                **{f"{group}_peak_bytes": found["peak_mib"] * 2**20 for group, found in groups.items()},
                **ratios,
            },
        )


if __name__ == "__main__":
    command(main)
