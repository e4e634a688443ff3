"""What devices can do: memory, rates by precision, bandwidth; those of the data sheets and the one at hand."""

import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from zoo.console import UserError
from zoo.spelling import nearest

GIB = 2**30
TERA = 1e12
# The part of the peak that a training step of a U-Net reaches on an accelerator: the published ADM models took 29 to
# 41 % of a V100's with fused normalisation and optimizer, 18 to 25 % without (ADM, table 7).
ACCELERATOR_FRACTION = 0.35
# The same of a processor, of the rate of its matrix products (docs/benchmarks.md).
PROCESSOR_FRACTION = 0.5
# What the runtime, its workspaces and fragmentation leave of a device's memory.
USABLE = 0.92

FLOAT32, BFLOAT16, FLOAT16 = "float32", "mixed_bfloat16", "mixed_float16"


@dataclass(frozen=True)
class Device:
    """One replica's device.

    Attributes:
        name: what --device calls it.
        title: for the screen.
        kind: "GPU", "TPU" or "CPU".
        memory_bytes: all of it.
        peak: FLOP/s of matrix products by Keras policy; a policy that the device has no arithmetic for is missing.
        bandwidth: of its memory, bytes/s; None where it is not known.
        fraction: of the peak, that a training step is assumed to reach.
        measured: whether `peak` was measured, not read in a data sheet.
    """

    name: str
    title: str
    kind: str
    memory_bytes: float
    peak: Mapping[str, float]
    bandwidth: float | None
    fraction: float = ACCELERATOR_FRACTION
    measured: bool = False

    @property
    def usable_bytes(self) -> float:
        """What a training step can have of the memory."""
        return USABLE * self.memory_bytes

    @property
    def half(self) -> str | None:
        """The policy in half precision that the device computes fast: bfloat16, which needs no scaling, first."""
        return next((policy for policy in (BFLOAT16, FLOAT16) if policy in self.peak), None)

    def rate(self, policy: str) -> float:
        """FLOP/s that a training step is assumed to reach under a Keras policy.

        Raises:
            UserError: the device has no arithmetic for it.
        """
        if policy not in self.peak:
            raise UserError(f"{self.title} does not compute in {policy}; it has {', '.join(self.peak)}")
        return self.fraction * self.peak[policy]


def _gpu(
    name: str, title: str, gib: float, single: float, half: float, bandwidth: float, has_bfloat16: bool = True
) -> Device:
    peak = {FLOAT32: single * TERA, **({BFLOAT16: half * TERA} if has_bfloat16 else {}), FLOAT16: half * TERA}
    return Device(name, title, "GPU", gib * GIB, peak, bandwidth * TERA)


def _tpu(name: str, title: str, gib: float, rate: float, bandwidth: float) -> Device:
    # A float32 product is one pass in bfloat16 with sums in float32, unless a higher precision is asked for.
    peak = {FLOAT32: rate * TERA, BFLOAT16: rate * TERA}
    return Device(name, title, "TPU", gib * GIB, peak, bandwidth * TERA)


# Dense products: the sheets of Hopper print twice the rate, with sparsity. From Ampere on TensorFlow computes float32
# products and convolutions in TF32.
DEVICES = {
    device.name: device
    for device in (
        # NVIDIA V100 data sheet (January 2020), SXM2: 15.7 TFLOP/s single, 125 "deep learning", 900 GB/s.
        # No bfloat16, no TF32.
        _gpu("v100-16", "NVIDIA V100 16 GB", 16, 15.7, 125, 0.9, has_bfloat16=False),
        _gpu("v100-32", "NVIDIA V100 32 GB", 32, 15.7, 125, 0.9, has_bfloat16=False),
        # NVIDIA A100 data sheet (June 2021), SXM: TF32 156, BF16 and FP16 312, 1,555 and 2,039 GB/s.
        _gpu("a100-40", "NVIDIA A100 40 GB", 40, 156, 312, 1.555),
        _gpu("a100-80", "NVIDIA A100 80 GB", 80, 156, 312, 2.039),
        # NVIDIA H100 data sheet (2023), SXM: with sparsity TF32 989, BF16 and FP16 1,979; 3.35 TB/s.
        _gpu("h100", "NVIDIA H100 80 GB", 80, 494.7, 989.4, 3.35),
        # NVIDIA H200 data sheet (2024), SXM: the H100's rates, 141 GB (here decimal), 4.8 TB/s.
        _gpu("h200", "NVIDIA H200 141 GB", 141e9 / GIB, 494.7, 989.4, 4.8),
        # Jouppi et al. 2020, table 3: a chip of TPU v2 has two cores, 46 TFLOP/s in bfloat16, 16 GiB, 700 GB/s.
        _tpu("tpu-v2", "TPU v2 core", 8, 23, 0.35),
        # Google Cloud, "TPU v3": a chip has two cores, 123 TFLOP/s in bfloat16, 32 GiB, 900 GB/s; a replica is a core.
        _tpu("tpu-v3", "TPU v3 core", 16, 61.5, 0.45),
        # Google Cloud, "TPU v4": a chip has 275 TFLOP/s in bfloat16, 32 GiB, 1,200 GB/s; its two cores act as one.
        _tpu("tpu-v4", "TPU v4 chip", 32, 275, 1.2),
    )
}


def find(name: str) -> Device:
    """A device of the data sheets, by the name that --device gives."""
    found = DEVICES.get(name.lower())
    if found is None:
        best = nearest(name, DEVICES)
        hint = f"; did you mean '{best}'?" if best else ""
        raise UserError(f"--device must be one of {', '.join(DEVICES)}, got '{name}'{hint}")
    return found


def here(replicas: int | None = None, policies: Iterable[str] = (FLOAT32, BFLOAT16)) -> tuple[Device, int]:
    """The device at hand and how many replicas `--strategy auto` would make of this machine.

    The rates of a processor are measured, a third of a second each; those of a GPU are its data sheet's.

    Args:
        replicas: of the processor, which share its memory and its rate; or GPUs, as many as there are or fewer.
        policies: to measure.

    Raises:
        UserError: nothing is known of the devices at hand.
    """
    if tf.config.list_physical_devices("TPU"):
        raise UserError(
            "which TPU this is cannot be asked: name it by --device tpu-v2, tpu-v3 or tpu-v4, with --devices"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        count = replicas or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count
        peak = {policy: measure_rate(policy) / count for policy in dict.fromkeys(policies)}
        cores = os.cpu_count() or 1
        title = f"this processor ({cores} cores)" if count == 1 else f"1/{count} of this processor ({cores} cores)"
        return Device("cpu", title, "CPU", memory, peak, None, PROCESSOR_FRACTION, measured=True), count
    title = str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    found = _listed(title)
    if found is None:
        raise UserError(f"{title} is in no data sheet here: name a like one by --device: {', '.join(DEVICES)}")
    return found, min(replicas or len(gpus), len(gpus))


def _listed(title: str) -> Device | None:
    """The device of the data sheets that a driver's name such as "NVIDIA A100-SXM4-80GB" speaks of."""
    words = title.lower().replace("-", " ").replace("gb", "").split()
    fitting = [device for device in DEVICES.values() if device.name.partition("-")[0] in words]
    exact = [device for device in fitting if device.name.partition("-")[2] in words]
    return next(iter(exact or fitting), None)


def resident_bytes() -> float:
    """Memory of this process now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most that it was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_rate(policy: str = FLOAT32, side: int = 1536, seconds: float = 0.25) -> float:
    """FLOP/s of a matrix product through TensorFlow: the yardstick of this machine, the best of its repeats."""
    matrix = tf.random.stateless_uniform([side, side], seed=[0, 0])
    matrix = tf.cast(matrix, policy.removeprefix("mixed_"))
    # The first product also starts the threads.
    tf.linalg.matmul(matrix, matrix).numpy()
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds or not best:
        before = time.perf_counter()
        tf.linalg.matmul(matrix, matrix)[0, 0].numpy()
        best = max(best, 2 * side**3 / (time.perf_counter() - before))
    return best
