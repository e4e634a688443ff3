"""Measures a stage on the devices at hand: seconds a training step and a sampling step, and the memory they take."""

import contextlib
import copy
import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf

from zoo.console import say
from zoo.sampling import Guide, StageSampler
from zoo.training import randomness
from zoo.training.distribution import check_batch
from zoo.training.step import TrainingStep

if TYPE_CHECKING:
    from zoo.learner import Learner
    from zoo.pipeline import Pipeline, Stage

# Seconds that the steps of a stage may take, without what compiling takes; more images than fit are left out.
LIMIT = 40.0
STEPS = (3, 10)
"""At least and at most so many steps are timed."""
SAMPLING_STEPS = 2


@dataclass(frozen=True)
class Measurement:
    """Of one stage.

    Attributes:
        replicas: that worked at once.
        images: a training step, of all replicas: the batch, or less where that would take too long.
        micro_batches: of each replica.
        first_step_seconds: building, tracing and the first step.
        step_seconds: median of the later ones.
        steps: so many.
        memory_bytes: a replica, at the worst moment; None where the system does not say.
        sampling_step_seconds: median, of one network evaluation and step of the sampler.
        sampled: images in it; 0 of a classifier, which makes none.
    """

    replicas: int
    images: int
    micro_batches: int
    first_step_seconds: float
    step_seconds: float
    steps: int
    memory_bytes: float | None
    sampling_step_seconds: float
    sampled: int

    @property
    def images_per_second(self) -> float:
        """In training."""
        return self.images / self.step_seconds


def measure(
    pipeline: "Pipeline", strategy: tf.distribute.Strategy, plans: dict[str, tuple[int, int]], limit: float = LIMIT
) -> dict[str, Measurement]:
    """Short runs of the real training and sampling steps on synthetic images, by the name of the stage.

    Args:
        pipeline: freshly built, not one that was described; its networks get weights.
        strategy: the machines.
        plans: (images of all replicas, micro-batches) of the stages to measure, from `describe.plans`.
        limit: seconds for the timed steps of a stage.
    """
    found = {}
    for stage in pipeline.stages:
        if stage.name not in plans:
            continue
        images, micro_batches = plans[stage.name]
        less = f" of the batch of {stage.training.batch:,}" if images < stage.training.batch else ""
        say(f"measuring {stage.name}: steps of {images:,} images{less} for up to {limit:.0f} s, after compiling ...")
        found[stage.name] = measure_stage(stage, strategy, images, micro_batches, pipeline.samples.batch, limit)
        gc.collect()
    return found


def measure_stage(
    stage: "Learner", strategy: tf.distribute.Strategy, images: int, micro_batches: int, sampled: int, limit: float
) -> Measurement:
    """One stage, which keeps its weights and its own `training`."""
    replicas = strategy.num_replicas_in_sync
    stage = copy.copy(stage)
    stage.training = copy.copy(stage.training)
    stage.training.batch, stage.training.micro_batches = images, micro_batches
    check_batch(stage.name, images, replicas, micro_batches)
    memory = _Memory(strategy)
    began = time.perf_counter()
    step = TrainingStep(stage, strategy, seed=0)
    batches = iter(strategy.experimental_distribute_dataset(_synthetic(stage, images)))
    step(batches, 0, 0, 0)  # compiles, and takes no step
    memory.restart()
    step(batches, 0, 0, 1)
    first = time.perf_counter() - began
    seconds = _timed(lambda i: step(batches, i + 1, i + 1, 1), limit)
    peak = memory.peak
    sampled = min(sampled, max(1, images // replicas)) if stage.sampler_steps else 0
    walking = _sampling(cast("Stage", stage), step, strategy, sampled, limit / 4) if sampled else 0.0
    return Measurement(
        replicas,
        images,
        micro_batches,
        first,
        float(np.median(seconds)),
        len(seconds),
        peak,
        walking,
        sampled * replicas,
    )


def _timed(step: Any, limit: float) -> list[float]:
    """Seconds of each of some steps: as many as fit into the limit, within the bounds."""
    least, most = STEPS
    seconds: list[float] = []
    while len(seconds) < most and (len(seconds) < least or sum(seconds) + seconds[-1] < limit):
        began = time.perf_counter()
        step(len(seconds))
        seconds.append(time.perf_counter() - began)
    return seconds


def _synthetic(stage: "Learner", images: int) -> tf.data.Dataset:
    """Batches of noise with labels, of the shapes that the stage trains on."""
    random = np.random.default_rng(0)
    spec = stage.input_spec(images)
    batch: dict[str, Any] = {"label": np.zeros(images, np.int32)}
    for name in ("image", "low_resolution", "text"):
        if name in spec:
            batch[name] = random.uniform(-1, 1, spec[name][0]).astype(np.float32)
    return tf.data.Dataset.from_tensors(batch).repeat()


def _sampling(stage: "Stage", step: TrainingStep, strategy: tf.distribute.Strategy, images: int, limit: float) -> float:
    """Median seconds of one step of the walk, for `images` on each replica."""
    with strategy.scope():
        classifier, guide = stage.classifier, None
        if classifier is not None:  # untrained: it takes as long
            guide = Guide(classifier.build_network(0), classifier.process)
        sampler = StageSampler(stage, step.state.network, images, guide)
        # A walk of a few steps: what one of them takes does not depend on their number.
        steps = min(SAMPLING_STEPS, sampler.process.steps)
        sampler.walks = [steps - 1]
        count = images * strategy.num_replicas_in_sync
        spec = stage.input_spec(count)
        given: dict[str, np.ndarray] = {}
        if stage.labelled:
            given["label"] = np.zeros(count, np.int64)
        given |= {name: np.zeros(spec[name][0], np.float32) for name in ("low_resolution", "text") if name in spec}
        key, indices = randomness.key(0, "measure"), np.arange(count)
        sampler.sample(key, indices, given, step.state.raw)
        seconds = _timed(lambda _: sampler.sample(key, indices, given, step.state.raw), limit)
    return float(np.median(seconds)) / steps


# ------------------------------------------------------------------ memory


# Less is a toy network, most of whose tensors the allocator leaves out.
SEEN_BYTES = 32 * 2**20


class _Memory:
    """The most memory that a replica takes from here on, as TensorFlow's allocator counts it.

    On a processor the allocator leaves tensors below 256 kB out, which are nearly all of a toy network.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        gpus = tf.config.list_logical_devices("GPU")
        self.device = "GPU:0" if gpus else "CPU:0"
        # Logical devices of a processor share its memory.
        self.replicas = 1 if gpus else strategy.num_replicas_in_sync
        gc.collect()
        self.before = self._told("current")

    @property
    def peak(self) -> float | None:
        """Bytes a replica beyond what there was at the start; None where nobody counts, or hardly anything is seen."""
        peak = self._told("peak")
        if peak is None or self.before is None or peak - self.before < SEEN_BYTES:
            return None
        return (peak - self.before) / self.replicas

    def restart(self) -> None:
        """Forgets the peak up to here."""
        with contextlib.suppress(ValueError, tf.errors.OpError):
            tf.config.experimental.reset_memory_stats(self.device)

    def _told(self, key: str) -> int | None:
        try:
            return tf.config.experimental.get_memory_info(self.device)[key]
        except (ValueError, tf.errors.OpError):  # the allocator keeps no account: TensorFlow without oneDNN
            return None
