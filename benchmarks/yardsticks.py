"""What figures are held against, measured in the same run: matrix products, disk, Pillow, scipy; and the machine.

Every benchmark writes {name, machine, figures} with `write_figures`. Figures are numbers by name, or groups of them.
The names say the unit: `seconds`, `per_second`, `bytes`, `rate` (FLOP/s), `fraction` and `ratio` (of what the rest of
the name says), `count`. Nothing is imported before it is used: benchmarks of other backends have no TensorFlow.
"""

import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("tensorflow", "keras", "jax", "numpy", "scipy", "pillow")
Figures = Mapping[str, Any]  # numbers by name, or groups of them


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call: the median of some, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


# ---- the machine


def machine() -> dict[str, Any]:
    """Processor, cores, memory, device, versions and load of this machine; names no host."""
    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    found = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "device": _device(),
        "python": platform.python_version(),
        "versions": versions,
        "load": round(os.getloadavg()[0], 1),
    }
    return found | {"words": in_words(found)}


def in_words(found: Mapping[str, Any]) -> str:
    """One line that names a machine, such as `2 cores of AMD EPYC, 23 GB, CPU; tensorflow 2.21.0, keras 3.15.1`."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    memory = found["memory_bytes"] / 2**30
    return (
        f"{found['cores']} cores of {found['processor']}, {memory:.0f} GiB, {found['device']}; "
        f"Python {found['python']}, {versions}; load {found['load']}"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Model and the instruction sets that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    model = facts.get("model name", platform.machine())
    return f"{model} ({', '.join(sets)})" if sets else model


def _device() -> str:
    """Kind of the device that the backend computes on."""
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    import tensorflow as tf

    for kind in ("TPU", "GPU"):
        devices = tf.config.list_logical_devices(kind)
        if devices:
            details = tf.config.experimental.get_device_details(tf.config.list_physical_devices(kind)[0])
            return f"{len(devices)} x {details.get('device_name', kind)}"
    return "CPU"


# ---- yardsticks


def matrix_rate(dtype: str = "float32", size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of TensorFlow's matrix product of two square matrices, the median of some."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((size, size)), dtype)
    product = tf.function(lambda x: tf.matmul(x, x))
    return 2 * size**3 / median_seconds(lambda: product(a)[0, 0].numpy(), repeats)


def disk_rates(folder: Path | None = None, size: int = 256 * 2**20) -> tuple[float, float]:
    """Bytes/s of writing (until it is on the disk) and of reading (not from memory) one file."""
    data = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(size // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        write = size / (time.perf_counter() - began)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        with open(file.name, "rb", buffering=0) as written:
            while written.read(2**20):
                pass
        return write, size / (time.perf_counter() - began)


def pillow_rates(encoded: Sequence[bytes], cut: Callable[[Any, int], Any], size: int) -> tuple[float, float]:
    """Images/s, and images a second of processor time, of one process that does all with Pillow, files in memory.

    Args:
        encoded: JPEG files.
        cut: a crop's `cut`, which crops and resizes a picture by Pillow's own operations.
        size: side of the crop.

    Returns:
        The two rates of decoding, cropping, resizing and handing over a uint8 [size, size, 3].
    """
    from PIL import Image

    def one(data: bytes) -> np.ndarray:
        return np.asarray(cut(Image.open(io.BytesIO(data)).convert("RGB"), size))

    one(encoded[0])
    began, worked = time.perf_counter(), time.process_time()
    for data in encoded:
        one(data)
    return len(encoded) / (time.perf_counter() - began), len(encoded) / (time.process_time() - worked)


def sqrtm_seconds(dimensions: int = 512) -> float:
    """Seconds of scipy's square root of a product of two covariance matrices."""
    from scipy import linalg

    generator = np.random.default_rng(0)
    one, other = (np.cov(generator.standard_normal((2 * dimensions, dimensions)), rowvar=False) for _ in range(2))
    began = time.perf_counter()
    linalg.sqrtm(one @ other)
    return time.perf_counter() - began


# ---- figures


def write_figures(path: Path, name: str, figures: Figures) -> None:
    """Writes what a benchmark measured, with the machine, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"name": name, "machine": machine(), "figures": figures}, indent=2, default=float)
    path.write_text(text + "\n", encoding="utf-8")
