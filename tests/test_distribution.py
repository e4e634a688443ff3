"""One device, two logical devices and two worker processes train alike; who is missing is named; locks hold."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo import registry
from zoo.console import UserError
from zoo.training import distribution
from zoo.training.distribution import Machines, Unreachable, check_batch, choose, meet, read_cluster, worker
from zoo.training.step import TrainingStep

# Beside one device. Two of them wait for processes that take minutes on slow cores: `make test-slow` has them.
OTHERS = ["mirrored", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("one-4", "multiworker"))]
LIMIT = 300


def free_ports(count: int) -> list[int]:
    with socket.create_server(("localhost", 0)) as first, socket.create_server(("localhost", 0)) as second:
        return [server.getsockname()[1] for server in (first, second)][:count]


def cluster(index: int, ports: list[int]) -> str:
    """TF_CONFIG of a worker."""
    workers = [f"localhost:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def start(kind: str, out: Path, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(tiny.ROOT / "tests" / "machines.py"), kind, str(out)],
        cwd=tiny.ROOT,
        env=tiny.environment() | {"PYTHONPATH": str(tiny.ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Figures(dict[str, dict[str, np.ndarray]]):
    """What each kind of machines made of the same training, in processes of its own that start when it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, kind: str) -> dict[str, np.ndarray]:
        out = self.folder / f"{kind}.npz"
        if kind in ("multiworker", "second worker"):
            out, ports = self.folder / "multiworker.npz", free_ports(2)
            processes = [start("multiworker", out, TF_CONFIG=cluster(i, ports)) for i in range(2)]
            files = {"multiworker": out.with_suffix(".0.npz"), "second worker": out.with_suffix(".1.npz")}
        else:
            processes, files = [start(kind, out)], {kind: out}
        for process in processes:
            _, errors = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, errors[-3000:]
        self |= {name: dict(np.load(path)) for name, path in files.items()}
        return self[kind]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return Figures(tmp_path_factory.mktemp("machines"))


def tensors(figures: dict[str, np.ndarray], group: str) -> list[np.ndarray]:
    return [figures[f"{group}/{i}"] for i in range(sum(name.startswith(f"{group}/") for name in figures))]


@pytest.mark.parametrize("kind", ["one", *OTHERS])
def test_replicas(figures: Figures, kind: str):
    assert figures[kind]["replicas"] == (2 if kind in ("mirrored", "multiworker") else 1)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("group", ["gradient", "sgd"])
def test_gradients_and_twenty_steps_of_sgd(figures: Figures, kind: str, group: str):
    """To 1e-5 of each tensor's norm, with the same batches and the same injected noise."""
    for one, other in zip(tensors(figures["one"], group), tensors(figures[kind], group), strict=True):
        norm = np.linalg.norm(one)
        assert norm > 1e-6  # else the comparison says nothing of that tensor
        assert np.linalg.norm(one - other) <= 1e-5 * norm


@pytest.mark.parametrize("kind", OTHERS)
def test_losses_with_adam(figures: Figures, kind: str):
    losses = figures["one"]["adam-losses"]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(figures[kind]["adam-losses"], losses, rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
def test_losses_of_steps_are_remembered_alike(figures: Figures, kind: str):
    """Of all replicas' examples, so that the same steps are chosen next."""
    remembered = figures["one"]["remembered"]
    assert (remembered > 0).all()  # every step was seen as often as is remembered, so they are no longer uniform
    np.testing.assert_allclose(figures[kind]["remembered"], remembered, rtol=1e-3)


@pytest.mark.parametrize(
    "kind", ["mirrored", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("multiworker", "second worker"))]
)
def test_all_replicas_hold_the_same_state(figures: Figures, kind: str):
    assert [int(figures[kind][f"{label}-differing"]) for label in ("sgd", "adam")] == [0, 0]


@pytest.mark.slow
def test_both_workers_hold_the_same_state(figures: Figures):
    for label in ("sgd", "adam"):
        for one, other in zip(
            tensors(figures["multiworker"], label), tensors(figures["second worker"], label), strict=True
        ):
            assert np.array_equal(one, other)
    assert "sgd-losses" not in figures["second worker"]  # the chief alone writes


def test_replicas_draw_different_noise(figures: Figures):
    first, second = figures["mirrored"]["noise"]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    for drawn in (first, second):
        assert drawn.mean() == pytest.approx(0, abs=0.1)
        assert drawn.std() == pytest.approx(1, abs=0.1)
        assert (drawn**4).mean() == pytest.approx(3, abs=0.6)


def test_clipping_acts_on_the_reduced_gradient(figures: Figures):
    """Clipped before the all-reduce, two replicas of unlike gradients would move by another length."""
    assert figures["mirrored"]["reported_norm"] > 0.05
    assert figures["mirrored"]["update_norm"] == pytest.approx(0.01, rel=1e-3)


# ---- the whole command on two workers


@pytest.mark.slow
def test_two_workers_share_a_run(tmp_path: Path):
    """Training, samples and scores by two processes; SIGTERM to one stops both, SIGKILL too, and both go on."""
    workdir, ports = tmp_path / "run", free_ports(2)
    flags = ("--gin_bindings", "Monitoring.checkpoint_every = 1000", "--gin_bindings", "base/Training.steps = 100")

    def launch(*more: str) -> list[subprocess.Popen]:
        environments = [tiny.environment() | {"TF_CONFIG": cluster(i, ports)} for i in range(2)]
        return [
            subprocess.Popen(
                tiny.command(workdir, *flags, *more),
                cwd=tiny.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for environment in environments
        ]

    workers = launch()
    metrics, deadline = workdir / "stages/base/metrics.csv", time.monotonic() + LIMIT
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        assert workers[0].poll() is None, workers[0].communicate()[1][-3000:]
        time.sleep(0.01)
    workers[1].terminate()
    for process in workers:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 75, errors[-3000:]
    (step,) = [int(path.name) for path in (workdir / "stages/base/checkpoints").iterdir() if path.name != "00000000"]
    assert 4 <= step < 100

    workers = launch()  # one is killed: the other says so, and ends
    before = len(metrics.read_text().splitlines())
    while len(metrics.read_text().splitlines()) <= before:
        assert time.monotonic() < deadline
        assert workers[0].poll() is None, workers[0].communicate()[1][-3000:]
        time.sleep(0.01)
    workers[1].kill()
    _, errors = workers[0].communicate(timeout=LIMIT)
    workers[1].communicate()
    assert workers[0].returncode == 69
    assert "error: worker 1 is gone (or ended with an error of its own): start the command again on all" in errors

    workers = launch()
    chief, other = [process.communicate(timeout=LIMIT) for process in workers]
    assert [process.returncode for process in workers] == [0, 0], chief[1][-3000:] + other[1][-3000:]
    assert f"base: going on from step {step}" in chief[0]
    assert "2 replicas on 2 workers" in chief[0]
    assert "FID-60 (shapes classifier)" in chief[0]
    assert other[0] == ""
    assert len(list((workdir / "samples/sr").glob("shard-*.npz"))) == tiny.IMAGES // tiny.SHARD


# ---- who is missing


def test_a_missing_worker_is_named():
    mine, other = free_ports(2)
    began = time.monotonic()
    message = rf"^worker 1 \(localhost:{other}\) did not answer within 0.3 s; .* worker 0$"
    with pytest.raises(Unreachable, match=message):
        meet([f"localhost:{mine}", f"localhost:{other}"], 0, patience=0.3)
    assert time.monotonic() - began < 5
    with socket.create_server(("", mine)), pytest.raises(Unreachable, match="cannot listen on its address"):
        meet([f"localhost:{mine}", f"localhost:{other}"], 0, patience=0.3)


def test_workers_meet():
    mine, other = free_ports(2)
    with socket.create_server(("localhost", other)):
        meet([f"localhost:{mine}", f"localhost:{other}"], 0, patience=5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", r"needs the environment variable TF_CONFIG on every worker, such as \{"),
        ("{", "TF_CONFIG is not JSON"),
        ('{"cluster": {"worker": ["a:1"]}}', "must say which of the workers this is"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "its task is .*'index': 1"),
    ],
)
def test_a_wrong_cluster(monkeypatch: pytest.MonkeyPatch, config: str, message: str):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=message):
        read_cluster()


def test_the_chief_comes_first(monkeypatch: pytest.MonkeyPatch):
    workers = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers, "task": {"type": "worker", "index": 1}}))
    assert read_cluster() == (["a:1", "b:1", "c:1"], 2)


# ---- the choice


def test_unknown_strategy():
    with pytest.raises(UserError, match=r"--strategy must be one of auto, one, .*, got 'two'"):
        choose("two")
    with pytest.raises(UserError, match="--devices is for --strategy mirrored, not for one"):
        choose("one", devices=2)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert type(choose("auto")).__name__ == "OneDevice"
    assert choose("auto", devices=2).devices == 2
    monkeypatch.setenv("TPU_NAME", "pod")
    assert choose("auto").name is None  # it reads the variable when it is made
    assert type(choose("auto")).__name__ == "TPU"
    monkeypatch.setenv("TF_CONFIG", cluster(0, [1, 2]))
    assert type(choose("auto")).__name__ == "MultiWorker"


def test_a_tpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    monkeypatch.setattr(distribution, "_has_tpu_files", lambda: False)
    with pytest.raises(UserError, match=r"there is no TPU on this machine; name one by TPU\.name"):
        choose("tpu").make()


@pytest.mark.parametrize("name", [name for name, c in registry.load().components.items() if c.family == "machines"])
def test_contract_of_machines(name: str):
    made = registry.load().components[name].load()()  # every parameter has a default, and making it does no work
    assert isinstance(made, Machines)


def test_one_device():
    strategy = choose("one").make()
    assert strategy.num_replicas_in_sync == 1
    assert worker(strategy) == (0, 1)
    assert worker(tf.distribute.get_strategy()) == (0, 1)


@pytest.mark.parametrize(
    ("batch", "replicas", "micro_batches", "nearest"),
    [(10, 4, 1, "8 or 12"), (3, 2, 4, "8"), (100, 8, 3, "96 or 120")],
)
def test_a_batch_that_does_not_divide_names_the_nearest(batch: int, replicas: int, micro_batches: int, nearest: str):
    with pytest.raises(
        UserError, match=f"base: Training.batch = {batch} does not divide .* the nearest that does: {nearest}$"
    ):
        check_batch("base", batch, replicas, micro_batches)
    for better in map(int, nearest.split(" or ")):
        check_batch("base", better, replicas, micro_batches)


# ---- the nearest proof of a TPU that a processor allows


def test_the_replica_step_compiles_by_xla():
    """Static shapes, no host work: the whole step, with optimizer and averages, as one XLA program."""
    stage = tiny.stage("sr", "Training.ema = (0.9, 0.99)")
    step = TrainingStep(stage, choose("one").make(), seed=0)
    batch, zero = tiny.batch_of(stage, tiny.BATCH), tf.constant(0, tf.int64)
    plain = TrainingStep(tiny.stage("sr", "Training.ema = (0.9, 0.99)"), choose("one").make(), seed=0)

    @tf.function(jit_compile=True)
    def compiled(batch: Any) -> tf.Tensor:
        return step.replica_step(batch, zero, zero)

    expected = plain.strategy.run(tf.function(plain.replica_step), args=(batch, zero, zero))
    found = step.strategy.run(compiled, args=(batch,))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for one, other in zip(step.state.averages[1], plain.state.averages[1], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)  # Adam makes full steps of rounding
