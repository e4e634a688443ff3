"""Kills a mini run again and again, damages its checkpoints, and compares it with one that was left alone.

    python tests/chaos.py [--kills 25] [--seed 0] [--recipe tests/recipes/chaos.gin] [--keep FOLDER]

Two runs of one recipe with --deterministic. The first is left alone. The second is killed at random moments of its
training, some of them inside the writing of a checkpoint, some by SIGTERM; between two kills one checkpoint is cut
short and a byte of another is flipped. Then its sampling is killed likewise. Nothing is mended by hand: the same
command is given again. In the end weights, averages and optimizer slots must be equal to the bit, and the npz files
byte for byte. Exit code 1 where they are not.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
STAGES = ("base", "sr")


class Run:
    """One run of the recipe in its work directory."""

    def __init__(self, recipe: str, workdir: Path) -> None:
        self.recipe, self.workdir = recipe, workdir

    def start(self, action: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "zoo.run", "--recipe", self.recipe, "--workdir", str(self.workdir)]
        with self.workdir.with_suffix(".log").open("ab") as log:
            return subprocess.Popen([*command, "--do", action, "--deterministic"], cwd=ROOT, stdout=log, stderr=log)

    def finish(self, action: str) -> float:
        """Runs an action to its end; the seconds that it took."""
        began = time.monotonic()
        process = self.start(action)
        if process.wait() != 0:
            sys.exit(f"{action} failed:\n{self.workdir.with_suffix('.log').read_text()[-3000:]}")
        return time.monotonic() - began

    def kill(self, action: str, due: Callable[[], bool], delay: float, by: signal.Signals) -> bool:
        """Starts an action and kills it `delay` seconds after it is due; False where it ended before."""
        process = self.start(action)
        while process.poll() is None and not due():
            time.sleep(0.0005)
        end = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.0005)
        if process.poll() is not None:
            return False
        process.send_signal(by)
        code = process.wait()
        expected = -signal.SIGKILL if by == signal.SIGKILL else 75
        if code not in (expected, 0, -by):  # -SIGTERM: before the program had taken the signal over
            sys.exit(f"{action} ended with {code}:\n{self.workdir.with_suffix('.log').read_text()[-3000:]}")
        return True

    def checkpoints(self) -> list[Path]:
        """All of them, the stage that is trained now first."""
        found = [sorted(self.workdir.glob(f"stages/{stage}/checkpoints/[0-9]*")) for stage in reversed(STAGES)]
        return next((paths for paths in found if paths), [])

    def writing(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(self.workdir.glob("stages/*/checkpoints/.partial-*/*"))

    def rows(self) -> int:
        """Rows of all metrics, which tell that training proceeds."""
        return sum(path.read_bytes().count(b"\n") for path in self.workdir.glob("stages/*/metrics.csv"))

    def shards(self) -> int:
        return len(list(self.workdir.glob("samples/*/shard-*.npz")))


def damage(path: Path, how: str) -> None:
    """Cuts the variables of a checkpoint short, or flips one bit of them."""
    data = next(path.glob("*.data-*"))
    content = bytearray(data.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 16
    data.write_bytes(bytes(content))


def train_in_chaos(run: Run, kills: int, dice: random.Random) -> int:
    """Kills training so often; returns how often in the end."""
    done, damages = 0, {kills // 3: "cut", 2 * kills // 3: "flip"}
    while done < kills:
        kind = dice.choice(["start", "training", "training", "writing", "writing"])
        rows = run.rows()
        due = {
            "start": lambda: True,
            "training": lambda rows=rows: run.rows() > rows,
            "writing": lambda rows=rows: run.rows() > rows and run.writing(),
        }[kind]
        delay = dice.uniform(0, {"start": 8, "training": 1.5, "writing": 0.004}[kind])
        by = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        if not run.kill("train", due, delay, by):
            break
        done += 1
        last = run.checkpoints()
        half = "one half written" if run.writing() else ""
        where = f"{last[-1].parent.parent.name} {last[-1].name}" if last else "no checkpoint"
        print(f"{done:3d}  {by.name} {kind:8s} {where} {half}", flush=True)
        how = damages.get(done)
        if how and len(last) > 1:
            damage(last[-1], how)
            print(f"     {last[-1].name} {how}", flush=True)
    return done


def sample_in_chaos(run: Run, kills: int, dice: random.Random) -> int:
    """Kills sampling so often, and cuts one shard short."""
    for done in range(kills):
        shards = run.shards()
        if not run.kill("sample", lambda shards=shards: run.shards() > shards, dice.uniform(0, 0.4), signal.SIGKILL):
            return done
        print(f"{done + 1:3d}  SIGKILL sampling, {run.shards()} shards", flush=True)
        if done == 1:
            shard = sorted(run.workdir.glob("samples/*/shard-*.npz"))[0]
            shard.write_bytes(shard.read_bytes()[:-100])
            print(f"     {shard.parent.name}/{shard.name} cut", flush=True)
    return kills


def variables(run: Run, stage: str) -> dict[str, np.ndarray]:
    """Everything in the last checkpoint of a stage."""
    from zoo.console import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    folder = sorted((run.workdir / "stages" / stage / "checkpoints").glob("[0-9]*"))[-1]
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name != "_CHECKPOINTABLE_OBJECT_GRAPH"}


def compare(alone: Run, other: Run) -> int:
    """Differences between two finished runs, each printed."""
    wrong = 0
    for stage in STAGES:
        one, two = variables(alone, stage), variables(other, stage)
        differing = sorted(set(one) ^ set(two)) + [n for n in one if n in two and not np.array_equal(one[n], two[n])]
        size = sum(value.size for value in one.values())
        print(f"{stage}: {len(one)} variables, {size:,} numbers: {len(differing)} variables differ {differing[:3]}")
        files = sorted(path.name for path in (alone.workdir / "samples" / stage).glob("shard-*.npz"))
        unlike = [
            name
            for name in files
            if (alone.workdir / "samples" / stage / name).read_bytes()
            != (other.workdir / "samples" / stage / name).read_bytes()
        ]
        print(f"{stage}: {len(files)} npz files: {len(unlike)} differ {unlike[:3]}")
        wrong += len(differing) + len(unlike) + (not files)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="of training (default %(default)s)")
    parser.add_argument("--sample-kills", type=int, default=5, help="of sampling (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", default="tests/recipes/chaos.gin")
    parser.add_argument("--keep", type=Path, help="a folder for both runs, instead of a temporary one")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        alone, other = Run(options.recipe, place / "alone"), Run(options.recipe, place / "chaos")
        seconds = alone.finish("train"), alone.finish("sample")
        print(f"left alone: trained in {seconds[0]:.0f} s, sampled in {seconds[1]:.0f} s", flush=True)
        killed = train_in_chaos(other, options.kills, dice)
        other.finish("train")
        sampling = sample_in_chaos(other, options.sample_kills, dice)
        other.finish("sample")
        print(f"killed {killed} times in training, {sampling} times in sampling")
        wrong = compare(alone, other)
    print("equal to the bit" if not wrong else "NOT EQUAL")
    return int(wrong > 0 or killed < options.kills)


if __name__ == "__main__":
    sys.exit(main())
