"""A small residual classifier of small images, and its training: seconds to minutes on a laptop."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from harness.features.accuracy import count_hits
from harness.features.devices import on_one_device
from harness.images import ImageSet
from zoo.console import progress

BATCH = 500  # images a forward pass on one device, when testing
SMALLEST = 8  # pixels a side


@dataclass(frozen=True)
class Plan:
    """How a classifier is trained.

    Attributes:
        epochs, batch: passes over the images, images a step.
        learning_rate: peak of the triangle schedule.
        shift: largest shift of a batch in pixels, borders reflected.
        mirror: probability that an image is mirrored; 0 where a mirror image is of another class.
        seed: of weights, order and augmentation.
    """

    epochs: int
    batch: int
    learning_rate: float
    shift: int
    mirror: float
    seed: int

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, got {self.batch}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, got {self.shift}")
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"mirror must be a probability, got {self.mirror}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: up over the first quarter, then down to zero."""
        return self.learning_rate * min((step + 1) / (0.25 * steps), (steps - step) / (0.75 * steps), 1.0)


@on_one_device
def build_network(shape: tuple[int, int, int], classes: int, width: int, seed: int) -> keras.Model:
    """uint8 or float images [B, H, W, C] in 0..255 -> (features [B, 4 width], logits [B, classes]).

    A stem of stride 2, then per halving a convolution, a pooling and a residual convolution, down to about 4x4.
    """
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def convolution(x: keras.KerasTensor, channels: int, stride: int = 1) -> keras.KerasTensor:
        initial = keras.initializers.HeNormal(seed=next(seeds))
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, kernel_initializer=initial)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))

    image = keras.Input(shape)
    x = convolution(layers.Rescaling(1 / 127.5, -1.0)(image), width, stride=2)
    halvings = max(1, round(np.log2(min(shape[:2]) / 8)))
    for level in range(1, halvings + 1):
        channels = width * min(2**level, 4)
        x = layers.MaxPooling2D(2)(convolution(x, channels))
        x = layers.Add()([x, convolution(x, channels)])
    features = layers.GlobalAveragePooling2D()(convolution(x, 4 * width))
    initial = keras.initializers.GlorotUniform(seed=next(seeds))
    logits = layers.Dense(classes, kernel_initializer=initial)(features)
    return keras.Model(image, (features, logits))


@on_one_device
def train_network(
    shape: tuple[int, int, int],
    classes: int,
    width: int,
    plan: Plan,
    images: np.ndarray,
    labels: np.ndarray,
    title: str,
) -> keras.Model:
    """Trains a new network on images uint8 [N, H, W, C] with labels [N]; a function of its arguments, on one device.

    Stochastic gradient descent with Nesterov momentum: at this length of training it is ahead of Adam.
    """
    network = build_network(shape, classes, width, plan.seed)
    optimizer = keras.optimizers.SGD(learning_rate=plan.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    optimizer.build(network.trainable_variables)
    step_function = _step_function(network, optimizer, plan, images, labels)
    batch = min(plan.batch, len(images))
    steps_an_epoch = len(images) // batch
    steps = plan.epochs * steps_an_epoch
    generator = np.random.default_rng(plan.seed)
    with progress(steps, title, "steps", leave=False) as bar:
        for epoch in range(plan.epochs):
            order = generator.permutation(len(images)).astype(np.int32)
            for start in range(steps_an_epoch):
                step = epoch * steps_an_epoch + start
                chosen = order[start * batch : (start + 1) * batch]
                key = tf.constant([plan.seed, step], tf.int32)
                step_function(chosen, key, tf.constant(plan.rate(step, steps), tf.float32))
                bar.update()
    return network


def _step_function(
    network: keras.Model, optimizer: keras.optimizers.Optimizer, plan: Plan, images: np.ndarray, labels: np.ndarray
) -> tf.types.experimental.PolymorphicFunction:
    """One training step as a graph: (indices [b], seed [2], learning rate) -> None."""
    all_images, all_labels = tf.constant(images), tf.constant(labels.astype(np.int32))

    @tf.function(reduce_retracing=True)
    def step(chosen: tf.Tensor, seed: tf.Tensor, rate: tf.Tensor) -> None:
        batch = augment(tf.cast(tf.gather(all_images, chosen), tf.float32), seed, plan.shift, plan.mirror)
        with tf.GradientTape() as tape:
            _, logits = network(batch, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(all_labels, chosen), logits)
            loss = tf.reduce_mean(losses)
        optimizer.learning_rate.assign(rate)
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)

    return step


def augment(images: tf.Tensor, seed: tf.Tensor, shift: int, mirror: float) -> tf.Tensor:
    """Mirrors each image [B, H, W, C] with a probability and shifts the batch by up to `shift` pixels."""
    shape = images.shape
    mirrored = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < mirror
    images = tf.where(mirrored, images[:, :, ::-1], images)
    if shift:
        padded = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]], mode="REFLECT")
        corner = tf.random.stateless_uniform([2], seed + 1, 0, 2 * shift + 1, tf.int32)
        images = tf.slice(padded, [0, corner[0], corner[1], 0], [-1, shape[1], shape[2], -1])
    return tf.ensure_shape(images, shape)


def accuracies(network: keras.Model, images: ImageSet) -> tuple[float, float]:
    """Shares of images whose class is the first, and among the first five, of the logits."""
    hits = count_hits(network, images, network.outputs[1].shape[-1], BATCH)
    return hits.top1, hits.top5
