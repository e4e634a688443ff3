"""Trains ResNet-50 on labelled images as the classifiers of ImageNet are, on every device; goes on after a crash."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harness.features.crops import random_crop
from harness.features.resnet import build_resnet
from zoo.console import progress, say

READ = 64  # images taken from the file at a time


@dataclass(frozen=True)
class ResNetPlan:
    """The network and its schedule; the defaults are those of Cloud TPU's ResNet-50.

    Attributes:
        size: pixels a side of a crop.
        width: channels of the stem.
        epochs, batch: passes over the images; images a step, on all devices together.
        learning_rate: for a batch of 256; it grows in proportion to the batch.
        warm_up: epochs over which the rate rises from zero.
        drops: epochs at which the rate falls to a tenth.
        weight_decay: of all weights but the normalisations', as part of the loss.
        seed: of initial weights, order and crops.
    """

    size: int = 224
    width: int = 64
    epochs: int = 90
    batch: int = 1024
    learning_rate: float = 0.1
    warm_up: int = 5
    drops: tuple[int, ...] = (30, 60, 80)
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "width", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("warm_up", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if list(self.drops) != sorted(self.drops) or any(drop < self.warm_up for drop in self.drops):
            raise ValueError(f"drops must be rising epochs, none before warm_up = {self.warm_up}, got {self.drops}")

    def rate(self, epoch: float) -> float:
        """The learning rate at a moment in epochs."""
        peak = self.learning_rate * self.batch / 256
        if epoch < self.warm_up:
            return peak * epoch / self.warm_up
        return peak * 0.1 ** sum(epoch >= drop for drop in self.drops)


def train_resnet(
    plan: ResNetPlan, images: np.ndarray, labels: np.ndarray, classes: int, folder: Path, title: str
) -> keras.Model:
    """A network trained on images uint8 [N, H, W, 3] with labels int32 [N].

    A batch is spread over the devices of the current strategy, each with normalisation statistics of its own. A last
    batch that is not full is left out. After every epoch all that training needs is written under `folder`, and the
    same call goes on from there; without a crash in between it is a function of its arguments on one kind of device.
    """
    strategy = tf.distribute.get_strategy()
    batch = min(plan.batch, len(images)) // strategy.num_replicas_in_sync * strategy.num_replicas_in_sync
    steps = len(images) // batch
    with strategy.scope():
        network = build_resnet(plan.size, classes, plan.seed, plan.width)
        # Keras keeps the rate inside the velocity: for some ten steps after a drop the old rate lingers.
        optimizer = keras.optimizers.SGD(learning_rate=plan.learning_rate, momentum=0.9, nesterov=True)
        optimizer.build(network.trainable_variables)
        done = tf.Variable(0, dtype=tf.int64, trainable=False, name="epochs")
    state = tf.train.Checkpoint(network=network, optimizer=optimizer, done=done)
    manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
    if manager.latest_checkpoint:
        state.restore(manager.latest_checkpoint).assert_consumed()
    first = int(done.numpy())
    if first:
        say(f"{title}: goes on after epoch {first} of {plan.epochs}")
    step_function = _step_function(strategy, network, optimizer, plan, batch)
    with progress(plan.epochs * steps, title, "steps", done=first * steps, leave=False) as bar:
        for epoch in range(first, plan.epochs):
            stream = strategy.experimental_distribute_dataset(_epoch(plan, images, labels, batch, epoch))
            for step, one in enumerate(stream):
                optimizer.learning_rate.assign(plan.rate(epoch + step / steps))
                loss = step_function(one)
                bar.update()
            bar.set_postfix_str(f"loss {float(loss):.3f}")
            done.assign(epoch + 1)
            manager.save()
    return network


def forget(folder: Path) -> None:
    """Removes what `train_resnet` wrote, when its network has been tested."""
    shutil.rmtree(folder, ignore_errors=True)


def _epoch(plan: ResNetPlan, images: np.ndarray, labels: np.ndarray, batch: int, epoch: int) -> tf.data.Dataset:
    """Batches of one pass, in an order of its own: float32 [batch, S, S, 3], int32 [batch]."""
    count = len(images)
    order = np.random.default_rng([plan.seed, epoch]).permutation(count)[: count // batch * batch]
    positions = epoch * count + np.arange(len(order), dtype=np.int64)

    def read(chosen: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(lambda rows: images[rows], [chosen], tf.uint8, stateful=False)
        return tf.ensure_shape(found, [None, *images.shape[1:]]), tf.gather(labels, chosen), positions

    def prepare(image: tf.Tensor, label: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return random_crop(image, plan.size, tf.stack([tf.constant(plan.seed, tf.int64), position])), label

    stream = tf.data.Dataset.from_tensor_slices((order, positions)).batch(READ)
    stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    stream = stream.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return stream.batch(batch, drop_remainder=True).prefetch(2)


def _step_function(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    plan: ResNetPlan,
    batch: int,
) -> tf.types.experimental.PolymorphicFunction:
    """One optimizer step as a graph: a batch on all devices -> the mean loss without weight decay."""
    variables = network.trainable_variables
    # 'kernel' and the last layer's 'bias'; those of the normalisations are 'gamma' and 'beta'.
    decayed = [variable.name in ("kernel", "bias") for variable in variables]

    def on_replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            _, logits = network(images, training=True)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)) / batch
        gradients = tape.gradient(loss, variables)
        # The optimizer adds up the replicas' gradients, so each gives its part of the decay.
        share = plan.weight_decay / strategy.num_replicas_in_sync
        terms = zip(gradients, variables, decayed, strict=True)
        optimizer.apply([g + share * w.value if decays else g for g, w, decays in terms], variables)
        return loss

    @tf.function
    def step(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_replica, args=one), axis=None)

    return step
