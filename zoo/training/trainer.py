"""The training loop: one strategy, keyed randomness, averages beside the raw weights, whole checkpoints."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from zoo.console import say
from zoo.training import randomness
from zoo.training.checkpoints import Checkpoints
from zoo.training.distribution import check_batch
from zoo.training.monitors import Monitor, Monitoring
from zoo.training.optimizers import Optimizer, average

if TYPE_CHECKING:
    from zoo.pipeline import Stage


class Training:
    """How a stage is trained, in the papers' units.

    Args:
        batch: global batch, whatever the number of devices.
        steps: optimizer steps.
        optimizer: with its learning rate.
        monitoring: what is written while training, and how often.
        ema: decay of the moving average of the weights, which is what is sampled from.
        clip: largest global norm of the gradient, after the all-reduce; None does not clip.
        micro_batches: parts in which a replica works through its share of the batch; changes memory, not the result.
        steps_per_call: optimizer steps in one call of the compiled function.
    """

    def __init__(
        self,
        batch: int,
        steps: int,
        optimizer: Optimizer,
        monitoring: Monitoring,
        ema: float = 0.9999,
        clip: float | None = None,
        micro_batches: int = 1,
        steps_per_call: int = 10,
    ) -> None:
        for name, value in (("batch", batch), ("micro_batches", micro_batches), ("steps_per_call", steps_per_call)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {ema}")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        self.batch, self.steps, self.optimizer, self.monitoring = batch, steps, optimizer, monitoring
        self.ema, self.clip, self.micro_batches, self.steps_per_call = ema, clip, micro_batches, steps_per_call


class State:
    """All that a checkpoint holds: raw and averaged weights and the optimizer's slots, in one order of names."""

    def __init__(self, stage: "Stage", seed: int) -> None:
        self.network = stage.build_network(seed)
        trained = self.network.trainable_variables
        # The first part of a path is the name of the model, which Keras numbers within a process.
        self.names = [variable.path.split("/", 1)[1] for variable in trained]
        self.raw = [variable.value for variable in trained]
        self.ema = [tf.Variable(variable.value, trainable=False) for variable in trained]
        self.slots = stage.training.optimizer.slots(self.raw)

    @property
    def groups(self) -> dict[str, list[tf.Variable]]:
        """Every variable, by what it is."""
        return {"raw": self.raw, "ema": self.ema, **self.slots}


class Trainer:
    """Trains one stage in its folder, and goes on where the last whole checkpoint of that folder ends."""

    def __init__(self, stage: "Stage", strategy: tf.distribute.Strategy, folder: Path, seed: int) -> None:
        self.stage, self.training, self.strategy, self.seed = stage, stage.training, strategy, seed
        check_batch(self.training.batch, strategy.num_replicas_in_sync, self.training.micro_batches)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.training.monitoring.keep)
        with strategy.scope():
            self.state = State(stage, seed)
        self.key = randomness.key(seed, f"{stage.name}/training")
        self.monitor = Monitor(stage, self.state, folder, seed)
        self._compiled = tf.function(self._steps)

    def run(self) -> None:
        """Trains up to `Training.steps`; returns at once where that is done."""
        step = self._resume()
        total, monitoring = self.training.steps, self.training.monitoring
        if step >= total:
            say(f"{self.stage.name}: trained, {step} steps")
            return
        self.monitor.start(step, total)
        batches = self._batches(step)
        while step < total:
            count = min([self.training.steps_per_call, total - step, *monitoring.until_event(step)])
            began = time.perf_counter()
            # tensors: numbers would be traced anew for every other distance between two events
            results = self._compiled(batches, tf.constant(step, tf.int64), tf.constant(count))
            loss, norm = (float(value) for value in results)
            step += count
            self.monitor.progress(step, loss, norm, time.perf_counter() - began)
            if step % monitoring.checkpoint_every == 0 or step == total:
                self.checkpoints.save(step, self.state.groups, self.state.names)
                self.monitor.checkpointed(step)
        self.monitor.finish()

    def _resume(self) -> int:
        step = self.checkpoints.latest()
        if step is None:
            if self.training.steps == 0:  # an untrained network is a checkpoint too: it can be sampled
                self.checkpoints.save(0, self.state.groups, self.state.names)
            return 0
        self.checkpoints.restore(step, self.state.groups, self.state.names)
        if step < self.training.steps:
            say(f"{self.stage.name}: going on from step {step}")
        return step

    def _batches(self, step: int) -> Iterator[Any]:
        """Global batches from `step` on: the stream is a function of (seed, position)."""
        first, last = step * self.training.batch, self.training.steps * self.training.batch
        stream = self.stage.images.stream(self.seed, first, count=last - first)
        batches = stream.batch(self.training.batch, drop_remainder=True).prefetch(4)
        return iter(self.strategy.experimental_distribute_dataset(batches))

    def _steps(self, batches: Iterator[Any], first: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`count` optimizer steps; the mean loss and gradient norm over them."""
        sums = tf.zeros((2,))
        for i in tf.range(count):
            step = first + tf.cast(i, tf.int64)
            result = self.strategy.run(self.replica_step, args=(next(batches), step))
            sums += self.strategy.reduce(tf.distribute.ReduceOp.MEAN, result, axis=None)
        return sums[0] / tf.cast(count, tf.float32), sums[1] / tf.cast(count, tf.float32)

    def replica_step(self, batch: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """One optimizer step on this replica's share of the batch; [loss, gradient norm] of the whole batch."""
        context = tf.distribute.get_replica_context()
        key = randomness.fold(self.key, step, context.replica_id_in_sync_group)
        loss, gradients = self.gradients(batch, self.draw(batch, key), key)
        # Sums over replicas: the loss of each was divided by the global batch.
        loss, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, *gradients])
        norm = tf.linalg.global_norm(gradients)
        if self.training.clip is not None:  # after the all-reduce: clipping before it limits each replica instead
            gradients, _ = tf.clip_by_global_norm(gradients, self.training.clip, use_norm=norm)
        self.training.optimizer.apply(self.state.raw, self.state.slots, gradients, step)
        average(self.state.ema, self.state.raw, self.training.ema, step)
        return tf.stack([loss, norm])

    def draw(self, batch: dict[str, tf.Tensor], key: tf.Tensor) -> dict[str, tf.Tensor]:
        """All that is random for this replica's share of the batch, but the dropout masks."""
        shapes = {name: tuple(value.shape) for name, value in batch.items()}
        return randomness.draw(key, self.stage.randomness(shapes))

    def gradients(
        self, batch: dict[str, tf.Tensor], random: dict[str, tf.Tensor], key: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Loss and gradients of this replica's examples, divided by the global batch."""
        parts = self.training.micro_batches
        if parts == 1:
            return self._part(batch, random, key)
        # [B, ...] -> [parts, B / parts, ...]; the sums are carried through a loop that is traced once
        split = tf.nest.map_structure(lambda x: tf.reshape(x, (parts, -1, *x.shape[1:])), (batch, random))
        size = split[0]["image"].shape[1]

        def body(i: tf.Tensor, loss: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            examples, draws = tf.nest.map_structure(lambda x: tf.ensure_shape(x[i], (size, *x.shape[2:])), split)
            part, gradients = self._part(examples, draws, randomness.fold(key, i))
            return i + 1, loss + part, *(total + new for total, new in zip(sums, gradients, strict=True))

        start = [tf.constant(0), tf.constant(0.0), *(tf.zeros(variable.shape) for variable in self.state.raw)]
        _, loss, *sums = tf.while_loop(lambda i, *_: i < parts, body, start, parallel_iterations=1)
        return loss, list(sums)

    def _part(
        self, batch: dict[str, tf.Tensor], random: dict[str, tf.Tensor], key: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.state.raw)
            losses = self.stage.training_loss(self.state.network, batch, random, key)  # [B]
            loss = tf.reduce_sum(losses) / self.training.batch
        gradients = tape.gradient(loss, self.state.raw, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # An embedding's come as slices, a class as often as the batch has it: their norm is not that of their sum.
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


def restore_network(stage: "Stage", folder: Path, which: str, seed: int) -> tuple[keras.Model, str, int]:
    """The network of a trained stage with its averaged weights.

    Args:
        stage: of the recipe.
        folder: WORKDIR/stages/NAME.
        which: "last" or a step.
        seed: of the initial weights, which are all replaced.

    Returns:
        The network, the hash of its checkpoint, and its step.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.choose(which)
    network = stage.build_network(seed)
    trained = network.trainable_variables
    names = [variable.path.split("/", 1)[1] for variable in trained]
    digest = checkpoints.restore(step, {"ema": [variable.value for variable in trained]}, names)
    return network, digest, step
