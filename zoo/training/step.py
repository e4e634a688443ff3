"""One optimizer step on every replica, several of them a call: what is compiled and what a checkpoint holds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from zoo.training import randomness
from zoo.training.level_history import LevelHistory
from zoo.training.optimizers import average

if TYPE_CHECKING:
    from zoo.learner import Learner

Group = dict[str, tf.Variable]


class State:
    """All that a checkpoint holds: raw and averaged weights, the optimizer's slots, the scale of the loss and what a
    level sampler remembers.

    Every group is in one order of names: the paths of the network's variables.
    """

    def __init__(self, stage: "Learner", seed: int) -> None:
        training = stage.training
        self.network = stage.build_network(seed)
        self.names, self.raw = trained_variables(self.network)
        self.averages = [
            [tf.Variable(value, trainable=False, dtype=value.dtype) for value in self.raw] for _ in training.decays
        ]
        self.slots = training.optimizer.slots(self.raw)
        levels = stage.levels
        self.levels = None if levels is None else LevelHistory(levels, stage.level_steps, training.batch)
        precision = training.precision
        self.scale = tf.Variable(precision.initial_scale, trainable=False, dtype=tf.float32)
        self.sound_steps = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._scaled = precision.scaled
        self._decays = training.decays

    @property
    def ema(self) -> list[tf.Variable]:
        """The average that is sampled from: that of the first decay."""
        return self.averages[0]

    @property
    def groups(self) -> dict[str, Group]:
        """Every variable, by what it is and by name."""
        lists = {"raw": self.raw, **self.slots}
        lists |= {average_name(self._decays, i): variables for i, variables in enumerate(self.averages)}
        groups = {group: dict(zip(self.names, variables, strict=True)) for group, variables in lists.items()}
        if self._scaled:
            groups["loss_scale"] = {"scale": self.scale, "sound_steps": self.sound_steps}
        if self.levels is not None:
            groups["levels"] = self.levels.variables
        return groups


def trained_variables(network: Any) -> tuple[list[str], list[tf.Variable]]:
    """The names and the variables that training changes."""
    trained = network.trainable_variables
    # The first part of a path is the name of the model, which Keras numbers within a process.
    return [variable.path.split("/", 1)[1] for variable in trained], [variable.value for variable in trained]


def average_name(decays: tuple[float, ...], index: int) -> str:
    """The group of a moving average in a checkpoint: "ema" for the first, which is sampled from, "ema_0.999"."""
    return "ema" if index == 0 else f"ema_{decays[index]:g}"


class StepResult(NamedTuple):
    """What some optimizer steps gave."""

    loss: float
    """Mean over the steps that were taken; of the raw weights."""
    gradient_norm: float
    """Mean of the global norms, before clipping."""
    taken: int
    """Steps that were taken: with a scaled loss those that did not overflow, else all."""
    scale: float
    """Of the loss, after the last step."""
    stop: bool
    """Whether a worker was asked to stop."""


class TrainingStep:
    """Optimizer steps of one stage on a strategy; the state is made from the seed."""

    def __init__(self, stage: "Learner", strategy: tf.distribute.Strategy, seed: int) -> None:
        self.stage, self.training, self.strategy = stage, stage.training, strategy
        with strategy.scope():
            stage.build_asked(seed)
            self.state = State(stage, seed)
        self.key = randomness.key(seed, f"{stage.name}/training")
        self._compiled = tf.function(self._steps)
        self._part_gradients = self._part if self.training.compiler is None else self.training.compiler(self._part)

    def __call__(self, batches: Iterator[Any], step: int, position: int, count: int, stop: bool = False) -> StepResult:
        """Takes steps.

        Args:
            batches: global batches, distributed by the strategy.
            step: optimizer steps taken before.
            position: of the first batch in the stream of batches; all that is random depends on it.
            count: steps.
            stop: whether this worker was asked to stop; every worker's result says so then.
        """
        # tensors: numbers would be traced anew for every other distance between two events
        numbers = tf.constant([step, position], tf.int64), tf.constant(count), tf.constant(float(stop))
        loss, norm, taken, asked, scale = self._compiled(batches, *numbers).numpy().tolist()
        return StepResult(loss, norm, round(taken), scale, asked > 0)

    def _steps(self, batches: Iterator[Any], first: tf.Tensor, count: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        """`count` optimizer steps; [mean loss, mean norm, steps taken, workers that were asked to stop, scale]."""
        sums = tf.zeros((4,))
        for i in tf.range(count):
            numbers = first + tf.cast(i, tf.int64)
            result = self.strategy.run(self.replica_step, args=(next(batches), numbers[0], numbers[1], stop))
            # alike on all replicas: they are sums over them already
            sums += self.strategy.reduce(tf.distribute.ReduceOp.MEAN, result, axis=None)
        # without a step taken 0 / 0: not a number
        return tf.stack([sums[0] / sums[2], sums[1] / sums[2], sums[2], sums[3], self.state.scale.read_value()])

    def replica_step(
        self, batch: dict[str, tf.Tensor], step: tf.Tensor, position: tf.Tensor, stop: tf.Tensor | float = 0.0
    ) -> tf.Tensor:
        """One optimizer step on this replica's share of the batch; [loss, gradient norm, taken, stop] of all."""
        context = tf.distribute.get_replica_context()
        key = randomness.fold(self.key, position, context.replica_id_in_sync_group)
        random = self.draw(batch, key, position)
        loss, gradients, losses = self.gradients(batch, random, key)
        levels = self.state.levels
        told = [] if levels is None else levels.shares(random, losses, context.replica_id_in_sync_group)
        # Sums over replicas: the loss of each was divided by the global batch.
        # the identity brings `stop` into the graph of the loop, without which it cannot be reduced
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, tf.identity(stop), *told, *gradients])
        loss, stop, gradients = summed[0], summed[1], summed[2 + len(told) :]
        if levels is not None:
            levels.learn(*summed[2 : 2 + len(told)])
        norm = tf.linalg.global_norm(gradients)
        if not self.training.precision.scaled:
            self._apply(gradients, norm, step)
            return tf.stack([loss, norm, 1.0, stop])
        sound = tf.math.is_finite(norm)
        tf.cond(sound, lambda: self._apply(gradients, norm, step), lambda: None)
        self._adjust_scale(sound)
        taken = tf.cast(sound, tf.float32)
        return tf.stack([tf.where(sound, loss, 0.0), tf.where(sound, norm, 0.0), taken, stop])

    def draw(self, batch: dict[str, tf.Tensor], key: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        """All that is random for this replica's share of the batch at `position`, but the dropout masks."""
        shapes = {name: tuple(value.shape) for name, value in batch.items()}
        random = randomness.draw(key, self.stage.randomness(shapes))
        return random if self.state.levels is None else self.state.levels.choose(random)

    def _apply(self, gradients: list[tf.Tensor], norm: tf.Tensor, step: tf.Tensor) -> None:
        """Clips, updates the weights and their averages."""
        if self.training.clip is not None:  # after the all-reduce: clipping before it limits each replica instead
            gradients, _ = tf.clip_by_global_norm(gradients, self.training.clip, use_norm=norm)
        self.training.optimizer.apply(self.state.raw, self.state.slots, gradients, step)
        for decay, averages in zip(self.training.decays, self.state.averages, strict=True):
            average(averages, self.state.raw, decay, step)

    def _adjust_scale(self, sound: tf.Tensor) -> None:
        """Halves the scale of the loss after an overflow, doubles it after enough steps without one."""
        scale, count = self.state.scale.read_value(), self.state.sound_steps.read_value() + 1
        grown = count >= self.training.precision.growth_every
        assign(self.state.scale, tf.where(sound, tf.where(grown, 2 * scale, scale), 0.5 * scale))
        assign(self.state.sound_steps, tf.where(sound & ~grown, count, tf.zeros_like(count)))

    def gradients(
        self, batch: dict[str, tf.Tensor], random: dict[str, tf.Tensor], key: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """Loss and gradients of this replica's examples, divided by the global batch; and the loss of each [b], without
        the weight of its level.
        """
        parts = self.training.micro_batches
        if parts == 1:
            return self._part_gradients(batch, random, key)
        # [B, ...] -> [parts, B / parts, ...]; the sums are carried through a loop that is traced once
        split = tf.nest.map_structure(lambda x: tf.reshape(x, (parts, -1, *x.shape[1:])), (batch, random))
        size = split[0]["image"].shape[1]

        def body(i: tf.Tensor, loss: tf.Tensor, losses: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            examples, draws = tf.nest.map_structure(lambda x: tf.ensure_shape(x[i], (size, *x.shape[2:])), split)
            part, gradients, each = self._part_gradients(examples, draws, randomness.fold(key, i))
            losses = tf.tensor_scatter_nd_update(losses, [[i]], [each])
            return i + 1, loss + part, losses, *(total + new for total, new in zip(sums, gradients, strict=True))

        start = [tf.constant(0), tf.constant(0.0), tf.zeros((parts, size))]
        start += [tf.zeros(variable.shape) for variable in self.state.raw]
        _, loss, losses, *sums = tf.while_loop(lambda i, *_: i < parts, body, start, parallel_iterations=1)
        return loss, list(sums), tf.reshape(losses, (-1,))

    def _part(
        self, batch: dict[str, tf.Tensor], random: dict[str, tf.Tensor], key: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        scaled = self.training.precision.scaled
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.state.raw)
            losses = self.stage.training_loss(self.state.network, batch, random, key)  # [B]
            weighted = losses * random["level_weight"] if "level_weight" in random else losses
            loss = tf.reduce_sum(weighted) / self.training.batch
            objective = loss * self.state.scale.read_value() if scaled else loss
        gradients = tape.gradient(objective, self.state.raw, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # An embedding's come as slices, a class as often as the batch has it: their norm is not that of their sum.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if scaled:
            inverse = 1 / self.state.scale.read_value()
            gradients = [gradient * inverse for gradient in gradients]
        return loss, gradients, losses


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Sets the variable of the replica that calls it; Python's own `assign` would ask how replicas are combined."""
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
