"""The machines at hand as a tf.distribute strategy, and the batch that fits them."""

import tensorflow as tf

from zoo.console import UserError

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """A strategy by name; one device is a strategy of one.

    Args:
        name: "one", "mirrored" (all GPUs, or all logical CPUs), "multiworker" (by TF_CONFIG), "tpu", or "auto":
            mirrored where there is more than one GPU, else one.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in gpus or tf.config.list_logical_devices("CPU")])
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy()
    raise UserError(f"--strategy must be one of {', '.join(STRATEGIES)}, got '{name}'")


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            "--strategy tpu: no TPU was found here; name one by the TPU_NAME environment variable, "
            "or use --strategy auto"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def check_batch(batch: int, replicas: int, micro_batches: int) -> None:
    """Raises UserError where a global batch does not divide; the nearest batches that do are named."""
    unit = replicas * micro_batches
    if batch % unit:
        lower, upper = batch // unit * unit, (batch // unit + 1) * unit
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise UserError(
            f"Training.batch = {batch} does not divide among {replicas} replicas of {micro_batches} micro-batches; "
            f"the nearest that does: {nearest}"
        )
