"""The machines at hand as a tf.distribute strategy: made, checked before work begins, and spoken with."""

import abc
import contextlib
import faulthandler
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from zoo.console import UserError, say, termination

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


class Unreachable(UserError):
    """A device or worker does not answer."""

    code = 69
    """Exit code: EX_UNAVAILABLE."""


# What a collective operation ends with when a worker is gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class Machines(abc.ABC):
    """Contract of the family: a tf.distribute strategy that is made when it is needed, before any tensor."""

    @abc.abstractmethod
    def make(self) -> tf.distribute.Strategy:
        """The strategy.

        Raises:
            UserError: the machines are not there.
        """


class OneDevice(Machines):
    """The first GPU, or the processor."""

    def make(self) -> tf.distribute.Strategy:
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")


class Mirrored(Machines):
    """Several devices of this machine, each with a copy of all weights.

    Args:
        devices: how many: the first GPUs, or where there is no GPU as many logical devices of the processor. None
            takes all GPUs, or the logical devices that there are.
    """

    def __init__(self, devices: int | None = None) -> None:
        if devices is not None and devices < 1:
            raise ValueError(f"devices must be positive or None, got {devices}")
        self.devices = devices

    def make(self) -> tf.distribute.Strategy:
        gpus = tf.config.list_physical_devices("GPU")
        if gpus and self.devices is not None and self.devices > len(gpus):
            raise UserError(f"devices: {self.devices} are asked for, but there are {len(gpus)} GPUs")
        if not gpus and self.devices is not None:
            divide_processor(self.devices)
        found = tf.config.list_logical_devices("GPU" if gpus else "CPU")[: self.devices]
        strategy = tf.distribute.MirroredStrategy([device.name for device in found])
        with time_limit(60, f"the first all-reduce over {len(found)} devices"):
            check_all_reduce(strategy)
        return strategy


class MultiWorker(Machines):
    """Several processes, on one machine or many, as the environment variable TF_CONFIG names them.

    Every worker is started with the same command and a work directory that all of them share; the first one (the
    chief) writes it.

    Args:
        patience: seconds that workers wait for one another at the start.
    """

    def __init__(self, patience: float = 300.0) -> None:
        if patience <= 0:
            raise ValueError(f"patience must be positive, got {patience}")
        self.patience = patience

    def make(self) -> tf.distribute.Strategy:
        addresses, index = read_cluster()
        meet(addresses, index, self.patience)
        with time_limit(self.patience, "the first all-reduce over all workers"):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
            # Else every step asks all workers whether they still have data, and batches lose their static shape.
            strategy.extended.experimental_enable_get_next_as_optional = False
            check_all_reduce(strategy)
        if threading.current_thread() is threading.main_thread():
            termination.install()  # TensorFlow's coordination of workers has put its own handler in its place
        return strategy


class TPU(Machines):
    """A TPU, by name or address.

    Args:
        name: of the TPU in the cloud project, its gRPC address, or "local" on a TPU machine; None looks at the
            environment variable TPU_NAME and then at this machine.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def make(self) -> tf.distribute.Strategy:
        name = self.name or os.environ.get("TPU_NAME") or "local"
        if name == "local" and not tf.config.list_physical_devices("TPU") and not _has_tpu_files():
            raise UserError(
                "--strategy tpu: there is no TPU on this machine; name one by TPU.name or the environment variable "
                "TPU_NAME, install the packages of requirements-tpu.txt on a TPU machine, or use --strategy auto"
            )
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
            with time_limit(300, f"the connection to TPU '{name}'"):
                if name != "local":
                    tf.config.experimental_connect_to_cluster(resolver)
                tf.tpu.experimental.initialize_tpu_system(resolver)
                strategy = tf.distribute.TPUStrategy(resolver)
                check_all_reduce(strategy)
        except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
            raise Unreachable(f"no connection to TPU '{name}': {str(error).splitlines()[0]}") from error
        return strategy


def choose(name: str, devices: int | None = None) -> Machines:
    """Machines by the name of --strategy.

    Args:
        name: "one"; "mirrored"; "multiworker"; "tpu"; or "auto": what TF_CONFIG or TPU_NAME name, else all GPUs where
            there is more than one, else one device.
        devices: of this machine, where the strategy is mirrored.
    """
    if name not in STRATEGIES:
        raise UserError(f"--strategy must be one of {', '.join(STRATEGIES)}, got '{name}'")
    if name == "auto":
        name = _found(devices)
    if devices is not None and name != "mirrored":
        raise UserError(f"--devices is for --strategy mirrored, not for {name}")
    if name == "mirrored":
        return Mirrored(devices)
    return {"one": OneDevice, "multiworker": MultiWorker, "tpu": TPU}[name]()


def _found(devices: int | None) -> str:
    if len(_addresses(_environment())) > 1:
        return "multiworker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    several = devices is not None or len(tf.config.list_physical_devices("GPU")) > 1
    return "mirrored" if several else "one"


def divide_processor(count: int) -> None:
    """Makes `count` logical devices of the processor; before the first tensor of the process."""
    processor = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # TensorFlow has started
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise UserError(
                "devices: TensorFlow has started already: the processor cannot be divided any more"
            ) from error


def _has_tpu_files() -> bool:
    """Whether this is a TPU machine, without starting TensorFlow."""
    return any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))


# ------------------------------------------------------------------ the cluster


def _environment() -> dict:
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"the environment variable TF_CONFIG is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _addresses(config: dict) -> list[str]:
    """The workers' addresses, the chief first."""
    cluster = config.get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]


def read_cluster() -> tuple[list[str], int]:
    """The addresses HOST:PORT of the workers that TF_CONFIG names, the chief first, and which of them this is.

    Raises:
        UserError: TF_CONFIG is missing or incomplete.
    """
    config = _environment()
    addresses, task = _addresses(config), config.get("task", {})
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    if not addresses:
        raise UserError(
            f"--strategy multiworker needs the environment variable TF_CONFIG on every worker, such as {example}"
        )
    listed = config["cluster"].get(task.get("type"), [])
    if not isinstance(task.get("index"), int) or not 0 <= task["index"] < len(listed):
        raise UserError(f"TF_CONFIG must say which of the workers this is, such as {example}; its task is {task}")
    before = len(config["cluster"].get("chief", [])) if task["type"] == "worker" else 0
    return addresses, before + task["index"]


def meet(addresses: list[str], index: int, patience: float) -> None:
    """Waits until every worker has been started.

    TensorFlow waits too, but without an account of whom it waits for, and holding all of Python while it does. So each
    worker listens on its own address until it has reached all others; then TensorFlow's server takes that address over.

    Args:
        addresses: HOST:PORT of all workers.
        index: of this one.
        patience: seconds.
    """
    deadline = time.monotonic() + patience
    told = time.monotonic() + 10
    absent = [(other, address) for other, address in enumerate(addresses) if other != index]
    with _listen(addresses[index]):
        while absent := [(other, address) for other, address in absent if not answers(address)]:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{describe_workers(absent)} did not answer within {patience:g} s; this is worker {index}"
                )
            if time.monotonic() > told:
                say(f"worker {index}: waiting for {describe_workers(absent)}")
                told += 60
            time.sleep(0.2)


def _listen(address: str) -> socket.socket:
    port = address.rpartition(":")[2]
    try:
        return socket.create_server(("", int(port)), backlog=1024)
    except (OSError, ValueError) as error:
        raise Unreachable(f"this worker cannot listen on its address {address} of TF_CONFIG: {error}") from error


def answers(address: str) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def describe_workers(absent: list[tuple[int, str]]) -> str:
    """Workers for a message: "worker 1 (host:port) and worker 3 (host:port)"."""
    return " and ".join(f"worker {index} ({address})" for index, address in absent)


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(index, number) of this worker; the chief, which writes the work directory, has index 0."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    if not jobs:
        return 0, 1
    order = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, [])))]
    return order.index((resolver.task_type, resolver.task_id)), len(order)


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """Replicas of this worker."""
    return strategy.num_replicas_in_sync // worker(strategy)[1]


def agree(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value, on every worker; also a point that none passes before all have reached it."""
    if worker(strategy)[1] == 1:
        return value
    mine = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(value if context.replica_id_in_sync_group == 0 else 0, tf.int64)
    )
    return int(strategy.reduce(tf.distribute.ReduceOp.SUM, mine, axis=None))


@contextlib.contextmanager
def told_of_lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Says in one message that a worker is gone, instead of TensorFlow's pages; nothing can go on without it."""
    try:
        yield
    except LOST as error:
        if worker(strategy)[1] == 1:
            raise
        tasks = sorted(set(re.findall(r"/job:(\w+)/replica:\d+/task:(\d+)", str(error))))
        who = " and ".join(f"{job} {task}" for job, task in tasks) or "another worker"
        raise Unreachable(
            f"{who} is gone (or ended with an error of its own): start the command again on all workers, and it goes "
            "on from the last checkpoint"
        ) from error


def alone(strategy: tf.distribute.Strategy) -> contextlib.AbstractContextManager[Any]:
    """The scope for work that the chief does alone: of several workers none may make variables together then."""
    return strategy.scope() if worker(strategy)[1] == 1 else contextlib.nullcontext()


# ------------------------------------------------------------------ checks before work begins


def check_all_reduce(strategy: tf.distribute.Strategy) -> None:
    """Sums a one over all replicas."""

    @tf.function
    def count() -> tf.Tensor:
        ones = strategy.run(lambda: tf.ones(()))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None)

    found = int(count())
    if found != strategy.num_replicas_in_sync:
        raise UserError(f"the sum of a one over {strategy.num_replicas_in_sync} replicas is {found}: a device is ill")


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Ends the process with an account if the body takes longer; TensorFlow itself would wait for ever.

    Args:
        seconds: until then.
        what: is waited for.
    """
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            print(f"error: {what} did not end within {seconds:.0f} s: a device is stuck", file=sys.stderr, flush=True)
            os._exit(Unreachable.code)  # the main thread is inside TensorFlow, where nothing can be raised

    threading.Thread(target=watch, daemon=True).start()
    # Where TensorFlow holds all of Python while it waits, only this ends the process.
    faulthandler.dump_traceback_later(seconds + 5, exit=True)
    try:
        yield
    finally:
        done.set()
        faulthandler.cancel_dump_traceback_later()


def check_batch(stage: str, batch: int, replicas: int, micro_batches: int) -> None:
    """Raises UserError where the global batch of a stage does not divide; the nearest batches that do are named."""
    unit = replicas * micro_batches
    if batch % unit:
        parts = f" of {micro_batches} micro-batches" if micro_batches > 1 else ""
        raise UserError(
            f"{stage}: Training.batch = {batch} does not divide among {replicas} replicas{parts}{nearest(batch, unit)}"
        )


def nearest(batch: int, unit: int) -> str:
    """The batches next to one that does not divide, for a message."""
    lower, upper = batch // unit * unit, (batch // unit + 1) * unit
    return f"; the nearest that does: {f'{lower} or {upper}' if lower else upper}"
