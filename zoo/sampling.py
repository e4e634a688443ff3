"""Sample sets: images by index, in shards, from a cascade of stages."""

import abc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.console import UserError, progress
from zoo.data.captions import Captions
from zoo.device_batches import DeviceBatches
from zoo.diffusion.conditioning import asked_class
from zoo.diffusion.objective import Prediction
from zoo.diffusion.process import Process
from zoo.diffusion.samplers import Memory
from zoo.sample_files import claimed, is_whole, level_path, shard_path, tidy, write_shard
from zoo.training import randomness
from zoo.training.gradients import input_gradient

if TYPE_CHECKING:
    from zoo.learner import Learner
    from zoo.pipeline import Stage

STEPS = 10  # of a walk in one call of the compiled function: a signal is heard between two calls


class Labels(abc.ABC):
    """Contract of the family: the label of image i is a function of (seed, i) alone."""

    @abc.abstractmethod
    def __call__(self, indices: np.ndarray, classes: int, seed: int) -> np.ndarray:
        """int64 labels of the images `indices`, each in 0 .. classes - 1."""


class BalancedLabels(Labels):
    """Every class equally often: image i has label i mod classes."""

    def __call__(self, indices: np.ndarray, classes: int, seed: int) -> np.ndarray:
        return indices.astype(np.int64) % classes


class DrawnLabels(Labels):
    """Labels drawn as the data has them: uniformly, or with the `frequencies` of its classes."""

    def __init__(self, frequencies: tuple[float, ...] | None = None) -> None:
        if frequencies is not None and (min(frequencies) < 0 or sum(frequencies) <= 0):
            raise ValueError(f"frequencies must not be negative, nor all zero, got {frequencies}")
        self.frequencies = frequencies

    def __call__(self, indices: np.ndarray, classes: int, seed: int) -> np.ndarray:
        weights = np.ones(classes) if self.frequencies is None else np.array(self.frequencies, np.float64)
        if len(weights) != classes:
            raise UserError(f"DrawnLabels.frequencies has {len(weights)} entries for {classes} classes")
        edges = np.cumsum(weights / weights.sum())
        uniform = [np.random.default_rng([seed, int(index), 1]).random() for index in indices]
        return np.minimum(np.searchsorted(edges, uniform, side="right"), classes - 1).astype(np.int64)


class GivenLabels(Labels):
    """The labels of a list, in turn."""

    def __init__(self, labels: tuple[int, ...]) -> None:
        if not labels:
            raise ValueError("labels must not be empty")
        self.labels = tuple(labels)

    def __call__(self, indices: np.ndarray, classes: int, seed: int) -> np.ndarray:
        wrong = [label for label in self.labels if not 0 <= label < classes]
        if wrong:
            raise UserError(f"labels must be in 0 .. {classes - 1}, got {wrong}")
        return np.array(self.labels, np.int64)[indices % len(self.labels)]


class SampleSet:
    """How many images are sampled, with which labels, in batches and shards of what size.

    Args:
        count: images.
        labels: of class-conditional models, and of those that a classifier guides.
        batch: images in one call of the network, on one device; the last batch is padded.
        shard: images a file.
        captions: of models that are told a text; None where none is.
    """

    def __init__(
        self, count: int, labels: Labels, batch: int = 64, shard: int = 512, captions: Captions | None = None
    ) -> None:
        for name, value in (("count", count), ("batch", batch), ("shard", shard)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self.count, self.labels, self.batch, self.shard, self.captions = count, labels, batch, shard, captions

    def shards(self) -> list[np.ndarray]:
        """The image indices of every shard: shard k holds k shard .. (k + 1) shard - 1, whatever the count."""
        starts = range(0, self.count, self.shard)
        return [np.arange(start, min(start + self.shard, self.count)) for start in starts]


class Guide(NamedTuple):
    """A trained classifier that guides samples."""

    network: keras.Model
    process: Process
    """That it was trained on: it is told the noise level as this process tells it."""


class StageSampler(DeviceBatches):
    """Samples images of one stage with given weights, a padded batch on every device of the current strategy.

    Args:
        stage: of the recipe.
        network: built, with any weights.
        batch: images in one call of the network, on one device. The same batch gives the same pixels to the bit,
            on however many devices.
        guide: the classifier that the guidance of the stage's sampler asks; None leaves such guidance out.

    Attributes:
        walks: the first step of every walk down the process.
    """

    def __init__(self, stage: "Stage", network: keras.Model, batch: int, guide: Guide | None = None) -> None:
        super().__init__(batch)
        self.stage, self.network, self.guide = stage, network, guide
        self.process = stage.sampler.plan(stage.objective.process)
        self.walks = stage.sampler.walks(stage.objective.process)
        self.shape = (batch, *stage.images.shape)
        self._start = self._compiled(self._prepare)
        self._remember = self._compiled(stage.sampler.start)
        self._walk = self._compiled(self._reverse_steps)
        self._again = self._compiled(self._corrupt)

    def sample(
        self, key: tf.Tensor, indices: np.ndarray, batch: dict[str, np.ndarray], weights: Sequence[tf.Variable]
    ) -> np.ndarray:
        """Images float32 [n, H, W, C] in [-1, 1]; see `walk`."""
        return self.walk(key, indices, batch, weights)[0]

    def walk(
        self,
        key: tf.Tensor,
        indices: np.ndarray,
        batch: dict[str, np.ndarray],
        weights: Sequence[tf.Variable],
        levels: Sequence[int] = (),
    ) -> dict[int, np.ndarray]:
        """Images float32 [n, H, W, C] in [-1, 1] under 0, and what the walk has come to at each level s asked for.

        Args:
            key: of the stage and the seed; all that is random for image i depends on it and on i alone.
            indices: int [n], n at most `at_once`.
            batch: `label` [n], told or guided to (of a mix of classes [n, K], with `label_weight` [n, K]); `text`
                [n, L, D]; and, for super-resolution, `low_resolution` [n, h, w, C] in [-1, 1] or, of truncated
                augmentation, `z_s` [n, h, w, C]. `start` [n, H, W, C] is taken in the place of the noise that it starts
                from.
            weights: of the network, in the order of its trainable variables.
            levels: each the beginning of a step of the plan (CDM, section 3.3: one pass keeps them all), or 0.
        """
        if "label" in batch:
            batch = {**batch, "label": batch["label"].astype(np.int32)}
        own, given = self._split(indices.astype(np.int32)), {name: self._split(value) for name, value in batch.items()}
        asked = [] if self.guide is None else self.guide.network.trainable_variables
        values = self._values([*weights, *(variable.value for variable in asked)])
        z, inputs = self._start(key, own, given)
        kept: dict[int, Any] = {}
        stops = {self.stage.step_after(s): s for s in levels if s}
        for walk, first in enumerate(self.walks):
            # one key a step of the process: those of a restart lie beyond the steps of the first walk
            own_key = key if walk == 0 else randomness.fold(key, self.process.steps + walk)
            if walk > 0:
                z = self._again(own_key, own, z, tf.constant(first))
            at, memory = first, self._remember(z)
            while at >= 0:
                if at in stops:
                    kept[stops[at]] = z
                last = max([at - STEPS + 1, *(stop + 1 for stop in stops if stop < at), 0])
                z, memory = self._walk(values, z, memory, inputs, tf.constant(at), tf.constant(last), own_key, own)
                at = last - 1
        return {s: self._gathered(z)[: len(indices)] for s, z in {0: z, **kept}.items()}

    # ---- one device

    def _prepare(
        self, key: tf.Tensor, indices: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        drawn = {} if "start" in batch else {"start": ("normal", self.shape)}
        draws = {**drawn, **self.stage.conditioning_draws(self._shapes(batch))}
        random = {**batch, **randomness.draw_each(key, indices, draws)}
        asked = {} if self.guide is None else asked_class(batch)  # of the guide, if not of the network too
        return random["start"], {**asked, **self.stage.sampling_inputs(batch, random)}

    def _corrupt(self, key: tf.Tensor, indices: tf.Tensor, z: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """z_0 made noisy again, to where step `first` of the plan begins."""
        noise = randomness.draw_each(key, indices, {"restart": ("normal", self.shape)})["restart"]
        return self.process.corrupt(z, noise, self.process.level(tf.fill((self.batch,), first)))

    def _shapes(self, batch: dict[str, tf.Tensor]) -> dict[str, tuple[int, ...]]:
        return {"image": self.shape, **{name: tuple(value.shape) for name, value in batch.items()}}

    def _reverse_steps(
        self,
        weights: list[tf.Tensor],
        z: tf.Tensor,
        memory: Memory,
        inputs: dict[str, tf.Tensor],
        first: tf.Tensor,
        last: tf.Tensor,
        key: tf.Tensor,
        indices: tf.Tensor,
    ) -> tuple[tf.Tensor, Memory]:
        """From step `first` of the plan down to step `last`, that one included."""

        def body(index: tf.Tensor, z: tf.Tensor, memory: Memory) -> tuple[tf.Tensor, tf.Tensor, Memory]:
            return index - 1, *self._reverse_step(weights, z, memory, inputs, index, key, indices)

        state = first, z, memory
        return tf.while_loop(lambda index, *_: index >= last, body, state, parallel_iterations=1)[1:]

    def _reverse_step(
        self,
        weights: list[tf.Tensor],
        z: tf.Tensor,
        memory: Memory,
        inputs: dict[str, tf.Tensor],
        index: tf.Tensor,
        key: tf.Tensor,
        indices: tf.Tensor,
    ) -> tuple[tf.Tensor, Memory]:
        steps = tf.fill((self.batch,), index)
        sampler = self.stage.sampler
        prediction = self._predict(weights, z, inputs, steps)
        noise = tf.zeros_like(z)
        if sampler.random:
            # one key a step of the trained process: 0 is the image, and "start" has a stream of its own
            draws = {"noise": ("normal", self.shape)}
            noise = sampler.scaled(randomness.draw_each(randomness.fold(key, index), indices, draws)["noise"])
        return sampler.advance(prediction, z, steps, noise, self.process, memory)

    def _predict(
        self, weights: list[tf.Tensor], z: tf.Tensor, inputs: dict[str, tf.Tensor], steps: tf.Tensor
    ) -> Prediction:
        """What the network says about z, guided.

        Args:
            weights: of the network; after them those of the guide.
            inputs: the same over all steps.
            steps: int [B], of the plan.
        """
        own = len(self.network.trainable_variables)
        sampler, guidance, level = self.stage.sampler, self.stage.sampler.guidance, self.process.level(steps)
        denoise = _with_weights(self.network, weights[:own])
        given = {**inputs, **level.inputs, "image": z}
        unknown = {} if self.stage.conditioned_on_class else asked_class(given)
        told = {name: value for name, value in given.items() if name not in unknown}
        output = denoise(told) if guidance is None else guidance.answer(denoise, told)
        prediction = sampler.predict(self.stage.objective, tf.cast(output, z.dtype), z, level, self.process)
        if guidance is None or self.guide is None:
            return prediction
        classify = _with_weights(self.guide.network, weights[own:])
        # The step as the classifier was told it in training: of all steps, not of those that the plan keeps.
        noise_level = sampler.plan(self.guide.process).level(steps).inputs
        label, weight = inputs["label"], inputs.get("label_weight")
        pull = guidance.pull(classify, {**noise_level, "image": z}, label, input_gradient, weight)
        return sampler.shift(prediction, pull, z, steps, self.process)


def _with_weights(network: keras.Model, weights: list[tf.Tensor]) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """The network as a function, with these weights instead of its own."""
    return lambda inputs: network.stateless_call(weights, [], inputs)[0]


def embedded(stage: "Stage", captions: Captions | None, indices: np.ndarray, seed: int) -> tuple[list[str], np.ndarray]:
    """The captions of the images `indices` [n] and their embeddings [n, L, D], for a stage that is told a text."""
    text = stage.images.text
    if text is None or captions is None:
        raise UserError(
            f"stage '{stage.name}' is told a text, and nobody says which: bind SampleSet.captions = @DrawnCaptions(), "
            "or ask for one (--prompts)"
        )
    found = captions(indices, stage.images.source, seed)
    return found, text(found)


def keep_captions(stage: "Stage", samples: SampleSet, seed: int) -> None:
    """Computes the embeddings of the captions of a sample set, if nobody has and the stage is told a text."""
    if stage.images.text is not None and samples.captions is not None:
        found = samples.captions(np.arange(samples.count), stage.images.source, seed)
        stage.images.text.keep(found, f"captions of {samples.count:,} samples")


def told(stage: "Learner", examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network is told of examples of the dataset, as `Images.examples` gives them [n, ...], but the images.

    Of several captions of an image it is told the first.
    """
    batch = {name: value for name, value in examples.items() if name not in ("image", "captions")}
    if "low_resolution" in batch:
        batch["low_resolution"] = batch["low_resolution"].astype(np.float32) / 127.5 - 1
    if stage.images.text is not None:
        batch["text"] = stage.images.text.chosen(examples["captions"], np.zeros(len(examples["image"])))
    return batch


def sample_stage(
    stage: "Stage",
    network: keras.Model,
    samples: SampleSet,
    folder: Path,
    identity: dict[str, Any],
    seed: int,
    before: Path | None,
    levels: Sequence[int] = (),
    part: tuple[int, int] = (1, 1),
    guide: Guide | None = None,
) -> str:
    """Writes the sample set of one stage, shard by shard; whole shards that are there already are kept.

    Called in the scope of the strategy that the network was built in, as `StageSampler` is.

    Args:
        stage: of the recipe.
        network: with the weights to sample from.
        samples: how many, and with which labels.
        folder: WORKDIR/samples/NAME.
        identity: what the images depend on (weights, sampler, seed, the set before); shards of another identity
            are removed.
        seed: of the run.
        before: the sample folder of the stage before, whose images a super-resolution stage enlarges.
        levels: z_s of these s is also stored as float32, for a next stage that does not take rounded images (s = 0)
            or takes truncated ones.
        part: (i, n): of n independent workers this is number i, which makes every n-th shard.
        guide: the classifier that the guidance of the stage's sampler asks.

    Returns:
        The hash of the identity.

    Raises:
        UserError: another process makes this set or this part of it, or the disk is full.
    """
    with claimed(folder, identity, part) as digest:
        if part == (1, 1):  # one of several workers may have been given another count than the rest
            tidy(folder, len(samples.shards()))
        sampler = StageSampler(stage, network, samples.batch, guide)
        keep_captions(stage, samples, seed)
        key = randomness.key(seed, f"{stage.name}/sampling")
        weights = [variable.value for variable in network.trainable_variables]
        todo = list(enumerate(samples.shards()))[part[0] - 1 :: part[1]]
        total = sum(len(indices) for _, indices in todo)
        with progress(total, f"sampling {stage.name}", "images") as bar:
            for number, indices in todo:
                path = shard_path(folder, number)
                if all(is_whole(at, len(indices)) for at in (path, *(level_path(path, s) for s in levels))):
                    bar.update(len(indices))
                    continue
                batch = _inputs(stage, samples, indices, seed, before)
                captions = batch.pop("captions", None)
                made = []
                for start in range(0, len(indices), sampler.at_once):
                    rows = slice(start, start + sampler.at_once)
                    given = {name: value[rows] for name, value in batch.items()}
                    made.append(sampler.walk(key, indices[rows], given, weights, levels))
                    bar.update(len(indices[rows]))
                kept = {s: np.concatenate([images[s] for images in made]) for s in made[0]}
                write_shard(path, kept[0], batch.get("label"), {s: kept[s] for s in levels}, part, captions)
    return digest


def _inputs(
    stage: "Stage", samples: SampleSet, indices: np.ndarray, seed: int, before: Path | None
) -> dict[str, np.ndarray]:
    """Labels, captions and their embeddings, and low-resolution images; where these have labels of their own, those."""
    batch: dict[str, np.ndarray] = {}
    if stage.labelled:
        batch["label"] = samples.labels(indices, stage.images.classes, seed)
    if stage.conditioned_on_text:
        captions, batch["text"] = embedded(stage, samples.captions, indices, seed)
        batch["captions"] = np.array(captions)
    if stage.oriented:  # sets of images of one shape: none was turned
        batch["portrait"] = np.zeros(len(indices), np.int32)
    if stage.low_resolution is not None:
        given = stage.low_resolution_images(indices, before, samples.shard)
        batch |= given if stage.labelled else {name: given[name] for name in given if name != "label"}
    return batch
