"""Bits per dimension of real images under a trained stage: the variational bound, one step after the other.

    WORKDIR/likelihood/NAME/shard-*.npz   what is known of a range of the split; killed and run again, the rest is made

Of an image of D = H W C numbers the bound says how many bits the model needs to send it, divided by D: L_T + L_(T-1) +
... + L_0 of DDPM, equation 5, every term estimated with one noise. The public codes of Improved DDPM and ADM do the
same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.console import UserError, progress
from zoo.device_batches import DeviceBatches
from zoo.diffusion import bound
from zoo.sample_files import claimed, shard_path, tidy, whole_arrays, write_arrays
from zoo.sampling import told
from zoo.training import randomness

if TYPE_CHECKING:
    from zoo.pipeline import Stage

STEPS = 10  # in one call of the compiled function: a signal is heard between two calls
ORDER = 0  # seed of the order of a split, so that a part of it is a fair one
KINDS = bound.Terms._fields


class Likelihood:
    """Which images are measured, and in how many steps.

    Args:
        split: 'train' or 'test', which Images names.
        count: images; None takes the whole split. A part of it is drawn once, and a larger part holds the smaller.
        steps: respaces the trained process as `Sampler.steps` does; None pays for every step.
        batch: images in one call of the network, on one device; the last batch is padded.
        shard: images a file.
    """

    def __init__(
        self,
        split: str = "test",
        count: int | None = None,
        steps: int | str | None = None,
        batch: int = 64,
        shard: int = 512,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', which Images names, got '{split}'")
        for name, value in (("count", count), ("batch", batch), ("shard", shard)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self.split, self.count, self.steps, self.batch, self.shard = split, count, steps, batch, shard

    def of(self, count: int | None) -> "Likelihood":
        """The same of another count; None leaves it."""
        return self if count is None else Likelihood(self.split, count, self.steps, self.batch, self.shard)

    def records(self, stage: "Stage") -> int:
        """How many records of the split are measured.

        Raises:
            UserError: the data are missing, or fewer than are asked for.
        """
        problem = stage.images.source.missing()
        if problem:
            raise UserError(f"stage '{stage.name}': {problem}")
        name = stage.images.split(self.split)
        there = stage.images.source.count(name)
        if self.count is not None and self.count > there:
            raise UserError(
                f"Likelihood.count must be at most {there:,}, the images of split '{name}' of "
                f"{stage.images.source.name}, got {self.count:,}"
            )
        return there if self.count is None else self.count

    def ranges(self, records: int) -> list[tuple[int, int]]:
        """First record of every shard, and the one behind its last: shard k begins at k shard, whatever the count."""
        return [(first, min(first + self.shard, records)) for first in range(0, records, self.shard)]


class Found(NamedTuple):
    """What is known of some images. Sums over images are float64, so that they do not depend on batches."""

    prior: np.ndarray
    """L_T of each image [N], bits per dimension."""
    total: np.ndarray
    """The whole bound of each [N]."""
    sums: np.ndarray
    """[3, T]: sums over the images of what `bound.Terms` names, at each step."""


class StageLikelihood(DeviceBatches):
    """The bound of images under one stage, a padded batch on every device of the current strategy.

    Args:
        stage: of the recipe.
        network: built, with the weights to be measured.
        settings: steps and batch.

    Attributes:
        process: whose steps are paid for.
    """

    def __init__(self, stage: "Stage", network: keras.Model, settings: Likelihood) -> None:
        super().__init__(settings.batch)
        self.stage, self.network = stage, network
        self.process = stage.objective.process.respace(settings.steps)
        self.shape = (self.batch, *stage.images.shape)
        self._start = self._compiled(self._prepare)
        self._some = self._compiled(self._terms)

    def measure(
        self, key: tf.Tensor, indices: np.ndarray, batch: dict[str, np.ndarray], weights: Sequence[Any], bar: Any = None
    ) -> Found:
        """The bound of images.

        Args:
            key: of the stage and the seed; the noise of image i at step t depends on it, i and t alone.
            indices: int [n], n at most `at_once`: their numbers.
            batch: `image` uint8 [n, H, W, C], and what `zoo.sampling.told` gives with it.
            weights: of the network, in the order of its trainable variables.
            bar: progress, updated by evaluations of the network an image.
        """
        own, given = self._split(indices.astype(np.int32)), {name: self._split(value) for name, value in batch.items()}
        values = self._values(weights)
        x, inputs, prior = self._start(key, own, given)
        count, parts = len(indices), []
        for first in range(0, self.process.steps, STEPS):
            last = min(first + STEPS, self.process.steps)
            some = self._some(values, x, inputs, tf.constant(first), tf.constant(last), key, own)
            parts.append(self._gathered(some)[:count])  # [n, steps, 3]
            if bar is not None:
                bar.update(count * (last - first))
        terms = np.concatenate(parts, axis=1)
        priors = self._gathered(prior)[:count]
        return Found(priors, priors + terms[:, :, 0].sum(axis=1), terms.sum(axis=0).T)

    # ---- one device

    def _prepare(
        self, key: tf.Tensor, indices: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
        # float64: at step 0 two probabilities that are almost alike are subtracted, and next to the network it is cheap
        x = tf.cast(batch["image"], tf.float64) / 127.5 - 1
        given = {name: value for name, value in batch.items() if name != "image"}
        shapes = {"image": self.shape, **{name: tuple(value.shape) for name, value in given.items()}}
        random = randomness.draw_each(key, indices, self.stage.conditioning_draws(shapes))
        return x, self.stage.sampling_inputs(given, random), bound.prior(x, self.process)

    def _terms(
        self,
        weights: list[tf.Tensor],
        x: tf.Tensor,
        inputs: dict[str, tf.Tensor],
        first: tf.Tensor,
        last: tf.Tensor,
        key: tf.Tensor,
        indices: tf.Tensor,
    ) -> tf.Tensor:
        """[B, last - first, 3] float64: what `bound.Terms` names, from step `first` to before `last`."""
        steps = tf.range(first, last)
        found = tf.map_fn(
            lambda index: self._step(weights, x, inputs, index, key, indices),
            steps,
            fn_output_signature=tf.TensorSpec((self.batch, len(KINDS)), tf.float64),
            parallel_iterations=1,
        )
        return tf.transpose(found, (1, 0, 2))

    def _step(
        self,
        weights: list[tf.Tensor],
        x: tf.Tensor,
        inputs: dict[str, tf.Tensor],
        index: tf.Tensor,
        key: tf.Tensor,
        indices: tf.Tensor,
    ) -> tf.Tensor:
        level = self.process.level(tf.fill((self.batch,), index), "float64")
        # by the step of the trained process: one noise a level, however the process is respaced
        own = randomness.fold(key, tf.gather(tf.constant(self.process.timestep_map, tf.int32), index))
        noise = tf.cast(randomness.draw_each(own, indices, {"noise": ("normal", self.shape)})["noise"], x.dtype)
        z = self.process.corrupt(x, noise, level)
        noise_level = {name: tf.cast(value, tf.float32) for name, value in level.inputs.items()}
        given = {**inputs, **noise_level, "image": tf.cast(z, tf.float32)}
        output, _ = self.network.stateless_call(weights, [], given)
        clip = self.stage.sampler.clipping
        found = bound.terms(self.stage.objective, tf.cast(output, x.dtype), x, noise, level, self.process, clip)
        return tf.stack(found, axis=-1)


def measure_stage(
    stage: "Stage",
    network: keras.Model,
    settings: Likelihood,
    folder: Path,
    identity: dict[str, Any],
    seed: int,
    part: tuple[int, int] = (1, 1),
) -> None:
    """Measures a split shard by shard; what is there already is kept.

    Called in the scope of the strategy that the network was built in.

    Args:
        stage: of the recipe.
        network: with the weights to be measured.
        settings: split, count, steps.
        folder: WORKDIR/likelihood/NAME.
        identity: what the numbers depend on; shards of another identity are removed.
        seed: of the noise.
        part: (i, n): of n independent workers this is number i, which makes every n-th shard.

    Raises:
        UserError: another process makes this part, or the disk is full.
    """
    with claimed(folder, identity, part, "likelihoods"):
        ranges = settings.ranges(settings.records(stage))
        if part == (1, 1):
            tidy(folder, len(ranges))
        measuring = StageLikelihood(stage, network, settings)
        weights = [variable.value for variable in network.trainable_variables]
        key = randomness.key(seed, f"{stage.name}/likelihood")
        todo = list(enumerate(ranges))[part[0] - 1 :: part[1]]
        steps = measuring.process.steps
        total = steps * sum(last - first for _, (first, last) in todo)
        with progress(total, f"likelihood {stage.name}", "evaluations") as bar:
            for number, (first, last) in todo:
                path = shard_path(folder, number)
                if read_shard(path, first, last) is None:
                    found = _measure_range(measuring, settings, first, last, key, weights, bar)
                    write_arrays(path, {"range": np.array([first, last]), **found._asdict()}, part)
                else:
                    bar.update(steps * (last - first))


def _measure_range(
    measuring: StageLikelihood,
    settings: Likelihood,
    first: int,
    last: int,
    key: tf.Tensor,
    weights: Sequence[Any],
    bar: Any,
) -> Found:
    """The bound of the records from `first` to before `last`; corrupt ones are left out."""
    stage, done = measuring.stage, []
    examples = stage.images.examples(settings.split, seed=ORDER, first=first, last=last)
    at = first
    for found in examples.batch(measuring.at_once).as_numpy_iterator():
        batch = {"image": found["image"], **told(stage, found)}
        count = len(batch["image"])
        done.append(measuring.measure(key, np.arange(at, at + count), batch, weights, bar))
        at += count
    steps = measuring.process.steps
    bar.update(steps * (last - at))  # of those that were left out
    empty = Found(np.zeros(0), np.zeros(0), np.zeros((len(KINDS), steps)))
    found = [empty, *done]
    return Found(
        np.concatenate([some.prior for some in found]),
        np.concatenate([some.total for some in found]),
        np.sum([some.sums for some in found], axis=0),
    )


def read_shard(path: Path, first: int, last: int) -> Found | None:
    """A shard that is there, whole, and of these records."""
    arrays = whole_arrays(path)
    if arrays is None or arrays.get("range", np.zeros(0)).tolist() != [first, last]:
        return None
    return Found(*(arrays[name] for name in Found._fields))


def collect(settings: Likelihood, records: int, folder: Path) -> tuple[Found, list[int]]:
    """All shards together, and the numbers of those that are not there."""
    shards = [read_shard(shard_path(folder, k), *ends) for k, ends in enumerate(settings.ranges(records))]
    there = [shard for shard in shards if shard is not None]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    if not there:
        return Found(np.zeros(0), np.zeros(0), np.zeros((len(KINDS), 0))), missing
    prior, total = (np.concatenate([getattr(shard, name) for shard in there]) for name in ("prior", "total"))
    return Found(prior, total, np.sum([shard.sums for shard in there], axis=0)), missing


def summary(found: Found, steps: Sequence[int]) -> dict[str, Any]:
    """The numbers of a result, as plain data.

    Args:
        found: of all images.
        steps: of the trained process, [T].

    Raises:
        UserError: there is no image, or a number is not finite.
    """
    count = len(found.total)
    if not count:
        raise UserError("no image of the split could be read: nothing was measured")
    if not np.isfinite(found.total).all():
        bad = np.flatnonzero(~np.isfinite(found.total))
        raise UserError(
            f"the bound of {len(bad)} images is not finite (the first: image {bad[0]}): look at the weights"
        )
    means = dict(zip(KINDS, found.sums / count, strict=True))
    error = found.total.std(ddof=1) / np.sqrt(count) if count > 1 else None
    return {
        "images": count,
        "bits_per_dimension": float(found.total.mean()),
        "standard_error": None if error is None else float(error),
        "prior": float(found.prior.mean()),
        "divergences": float(means["bound"][1:].sum()),
        "last_bits": float(means["bound"][0]),
        "terms": {"step": [int(step) for step in steps], **{kind: means[kind].tolist() for kind in KINDS}},
    }
