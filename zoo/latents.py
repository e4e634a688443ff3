"""Real images as the noise that DDIM makes them from, and what lies between two of them (ADM, appendix F)."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from zoo.console import UserError, progress
from zoo.data.pictures import to_bytes
from zoo.diffusion.samplers import DDIMSampler
from zoo.sampling import STEPS, Guide, StageSampler
from zoo.training import randomness

if TYPE_CHECKING:
    from zoo.pipeline import Stage


class Encoder(StageSampler):
    """The walk of DDIM backwards: from an image to the noise that it is made from."""

    def __init__(self, stage: "Stage", sampler: DDIMSampler, network: keras.Model, batch: int) -> None:
        super().__init__(_sampled_by(stage, sampler), network, batch)
        self.sampler = sampler
        self._climb = self._compiled(self._forward_steps)

    def encode(self, batch: dict[str, np.ndarray], weights: list[Any], bar: Any) -> np.ndarray:
        """Latents float32 [n, H, W, C] of images.

        All steps but the last of the plan are reversed, 249 of 250: where the last one would end nothing is left of
        the image, and the paper finds its reconstructions worse. The image stands for z of the first step.

        Args:
            batch: `start` float32 [n, H, W, C] in [-1, 1], n at most `at_once`; `label` [n].
            weights: of the network, in the order of its trainable variables.
            bar: progress, in evaluations of the network an image.
        """
        count, indices = len(batch["start"]), np.arange(len(batch["start"]), dtype=np.int32)
        values = self._values(weights)
        given = {name: self._split(value) for name, value in batch.items()}
        z, inputs = self._start(randomness.key(0, "encoding"), self._split(indices), given)
        for first in range(0, self.process.steps - 1, STEPS):
            last = min(first + STEPS, self.process.steps - 1)
            z = self._climb(values, z, inputs, tf.constant(first), tf.constant(last))
            bar.update(count * (last - first))
        return self._gathered(z)[:count]

    def _forward_steps(
        self, weights: list[tf.Tensor], z: tf.Tensor, inputs: dict[str, tf.Tensor], first: tf.Tensor, last: tf.Tensor
    ) -> tf.Tensor:
        """From step `first` of the plan up to step `last`."""

        def body(index: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            steps = tf.fill((self.batch,), index)
            return index + 1, self.sampler.invert(self._predict(weights, z, inputs, steps), z, steps, self.process)

        return tf.while_loop(lambda index, _: index < last, body, (first, z), parallel_iterations=1)[1]


class Latents:
    """Images of one trained stage, encoded and decoded by deterministic DDIM in the steps of its sampler.

    The network alone encodes, as in the public code; guidance, where the sampler has some, has its part in decoding.

    Args:
        stage: one that starts from noise alone.
        network: with the weights to be used; made in the strategy's scope, as all calls here must be.
        batch: images in one call of the network, on one device.
        guide: the classifier that the sampler's guidance asks.
    """

    def __init__(self, stage: "Stage", network: keras.Model, batch: int, guide: Guide | None = None) -> None:
        if stage.low_resolution is not None:
            raise UserError(
                f"stage '{stage.name}' enlarges images: only a stage that starts from noise alone encodes them; name "
                "one by --stage"
            )
        if stage.conditioned_on_text:
            raise UserError(
                f"stage '{stage.name}' is told a text: only images of models that are told none are encoded"
            )
        sampler = stage.sampler
        self.stage = stage
        self._weights = [variable.value for variable in network.trainable_variables]
        alone = DDIMSampler(sampler.steps, clipping=sampler.clipping, process=sampler.process)
        guided = copy.copy(alone)
        guided.guidance = sampler.guidance
        self._encoder = Encoder(stage, alone, network, batch)
        self._decoder = StageSampler(_sampled_by(stage, guided), network, batch, guide)

    @property
    def steps(self) -> int:
        """Steps of the sampler: all but one are reversed, and all are walked back."""
        return self._encoder.process.steps

    def encode(self, images: np.ndarray, labels: list[int] | None = None) -> np.ndarray:
        """Latents float32 [N, H, W, C]; they are distributed nearly as standard normal noise.

        Args:
            images: uint8 [N, H, W, C].
            labels: one an image, of a model that is told the class.

        Raises:
            UserError: the images are not of the stage's size, or labels are missing or out of range.
        """
        self._check(images, labels)
        batch = {"start": images.astype(np.float32) / 127.5 - 1}
        if self.stage.conditioned_on_class and labels is not None:
            batch["label"] = np.array(labels, np.int32)
        evaluations = len(images) * (self.steps - 1)
        with progress(evaluations, f"encoding {self.stage.name}", "evaluations") as bar:
            return self._in_batches(batch, lambda rows, _: self._encoder.encode(rows, self._weights, bar))

    def decode(self, latents: np.ndarray, labels: Any = None, weights: np.ndarray | None = None) -> np.ndarray:
        """Images uint8 [N, H, W, C].

        Args:
            latents: float32 [N, H, W, C].
            labels: int [N], one an image; or [N, K], a mix of classes.
            weights: float [N, K] of a mix.
        """
        batch = {"start": latents.astype(np.float32)}
        if self.stage.labelled:
            batch["label"] = np.array(labels, np.int32)
            if weights is not None:
                batch["label_weight"] = np.array(weights, np.float32)
        key = randomness.key(0, "decoding")  # nothing is drawn
        with progress(len(latents), f"decoding {self.stage.name}", "images") as bar:

            def decoded(rows: dict[str, np.ndarray], indices: np.ndarray) -> np.ndarray:
                images = self._decoder.sample(key, indices, rows, self._weights)
                bar.update(len(images))
                return images

            return to_bytes(self._in_batches(batch, decoded))

    def interpolate(self, first: np.ndarray, second: np.ndarray, labels: Any = None, count: int = 9) -> np.ndarray:
        """Images uint8 [N, count, H, W, C] between pairs of images; the first and last are their reconstructions.

        Latents, class embeddings and the log-probabilities of the guide are mixed as cos(theta) a + sin(theta) b, with
        theta in equal steps from 0 to pi / 2: that keeps the variance of the noise.

        Args:
            first: uint8 [N, H, W, C].
            second: the same.
            labels: int [N, 2] of models that have classes.
            count: images from one to the other.
        """
        if count < 2:
            raise UserError(f"count must be at least 2, the two ends, got {count}")
        if first.shape != second.shape:
            raise UserError(f"an image is interpolated with one: got {first.shape} and {second.shape}")
        flat = None if labels is None else np.asarray(labels).reshape(-1, 2).T.ravel().tolist()
        latents = np.split(self.encode(np.concatenate([first, second]), flat), 2)
        theta = np.linspace(0, np.pi / 2, count)
        mix = np.stack([np.cos(theta), np.sin(theta)], axis=1)  # [count, 2]
        mixed = np.einsum("ck,knhwd->nchwd", mix, np.stack(latents))
        shape = mixed.shape
        pairs = None if labels is None else np.repeat(np.asarray(labels).reshape(-1, 2), count, axis=0)
        images = self.decode(mixed.reshape(-1, *shape[2:]), pairs, np.tile(mix, (len(first), 1)))
        return images.reshape(shape)

    def _check(self, images: np.ndarray, labels: list[int] | None) -> None:
        stage = self.stage
        shape = stage.images.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UserError(
                f"images of stage '{stage.name}' must be uint8 {['N', *shape]}, got {images.dtype} {list(images.shape)}"
            )
        if not stage.labelled:
            if labels is not None:
                raise UserError(f"labels are for models that have classes: stage '{stage.name}' has none")
            return
        if labels is None or len(labels) != len(images):
            given = "none" if labels is None else len(labels)
            raise UserError(
                f"labels must be one an image, {len(images)}: stage '{stage.name}' has classes; got {given}"
            )
        wrong = [label for label in labels if not 0 <= label < stage.images.classes]
        if wrong:
            raise UserError(f"labels must be in 0 .. {stage.images.classes - 1}, got {wrong}")

    def _in_batches(
        self, batch: dict[str, np.ndarray], function: Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]
    ) -> np.ndarray:
        size, count = self._encoder.at_once, len(batch["start"])
        parts = [slice(at, at + size) for at in range(0, count, size)]
        return np.concatenate(
            [function({name: v[rows] for name, v in batch.items()}, np.arange(count)[rows]) for rows in parts]
        )


def _sampled_by(stage: "Stage", sampler: DDIMSampler) -> "Stage":
    """The same stage with another sampler."""
    other = copy.copy(stage)
    other.sampler = sampler
    return other
