"""A run on disk: trains the stages of a pipeline, samples from them, and keeps its own account."""

import contextlib
import datetime
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo import embedding, provenance
from zoo.console import UserError, say
from zoo.data.captions import GivenCaptions
from zoo.data.pictures import to_bytes, write_grid
from zoo.latents import Latents
from zoo.learner import Learner
from zoo.locks import locked
from zoo.pipeline import Evaluation, Pipeline, Stage
from zoo.provenance import parts_of
from zoo.recipe import Recipe
from zoo.sample_files import missing, read_images
from zoo.sampling import GivenLabels, Guide, StageSampler, embedded, keep_captions, sample_stage
from zoo.training import randomness
from zoo.training.checkpoints import Checkpoints, named, of_stage
from zoo.training.distribution import agree, alone, check_batch, worker
from zoo.training.trainer import Trainer, restore_network
from zoo.whole_files import write_text


class Experiment:
    """A pipeline and its work directory.

    Args:
        recipe: what was asked.
        pipeline: as built from it.
        workdir: everything is written below it, and nothing elsewhere.
        strategy: the machines; None is one device. Of several workers the chief writes what there is one of.
    """

    def __init__(
        self, recipe: Recipe, pipeline: Pipeline, workdir: Path, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self.recipe, self.pipeline, self.workdir = recipe, pipeline, workdir
        self.strategy = strategy or tf.distribute.get_strategy()
        self.worker, self.workers = worker(self.strategy)
        self._latents: dict[tuple[str, str, float | None], Latents] = {}
        self._samplers: dict[tuple[str, str, float | None], tuple[StageSampler, list[Any]]] = {}

    def __repr__(self) -> str:
        trained = {
            stage: Checkpoints(self.stage_folder(stage) / "checkpoints").steps() for stage in self.pipeline.stages
        }
        stages = [f"{s.name} {s.size}x{s.size} at step {steps[-1] if steps else 0:,}" for s, steps in trained.items()]
        return f"Experiment({self.workdir}: {', '.join(stages)})"

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what there is one of: recipe, checkpoints, results."""
        return self.worker == 0

    def record(self) -> None:
        """Adds an entry to run.json, and keeps the recipe of a run that begins."""
        if self.is_chief:
            with locked(self.workdir / ".run.lock", f"the work directory {self.workdir}", patience=30):
                self._record()

    def _record(self) -> None:
        trained = any(self.workdir.glob("stages/*/checkpoints/*/manifest.json"))
        if not trained or not (self.workdir / "recipe.gin").is_file():  # stages may come from another run
            self.keep_recipe()
        path = self.workdir / "run.json"
        account = json.loads(path.read_text()) if path.is_file() else {"invocations": []}
        account["recipe"] = str(self.origin())
        account["invocations"].append(
            {
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": " ".join(["python -m zoo.run", *sys.argv[1:]]),
                "commit": provenance.commit(),
                "seed": self.pipeline.seed,
                "strategy": type(self.strategy).__name__,
                "replicas": self.strategy.num_replicas_in_sync,
                "versions": provenance.versions(),
            }
        )
        write_text(path, json.dumps(account, indent=1))

    def keep_recipe(self) -> None:
        """Writes recipe.gin and operative.gin; of a run that has checkpoints only after these were found to fit."""
        write_text(self.workdir / "recipe.gin", self.recipe.text())
        write_text(self.workdir / "operative.gin", self.recipe.operative())

    def stage_folder(self, stage: Learner) -> Path:
        """Checkpoints, metrics and grids of a stage."""
        return self.workdir / "stages" / stage.name

    # ---- training

    def train(self, stages: Sequence[Learner], scored: bool = False) -> None:
        """Trains stages one after the other; each goes on where its last checkpoint ends.

        Args:
            stages: of the pipeline.
            scored: whether samples will be scored next: then what scoring needs must be there before days of training.
        """
        for position, stage in enumerate(stages):  # all of them before the first is trained
            training = stage.training
            check_batch(stage.name, training.batch, self.strategy.num_replicas_in_sync, training.micro_batches)
            stage.check_ready(self.workdir / "stages", stages[:position])
            problem = stage.images.source.missing()
            if problem:
                raise UserError(f"stage '{stage.name}': {problem}")
            try:
                stage.check_classes()
            except ValueError as error:
                raise UserError(str(error)) from error
        if scored and self.pipeline.evaluation is not None and self.pipeline.cascade and self.is_chief:
            self.pipeline.evaluation.check_features(self.pipeline.last.images)
        self.embed(stages, scored)
        for stage in stages:
            self._train(stage)

    def embed(self, stages: Sequence[Learner], sampled: bool = True) -> None:
        """Computes the embeddings of captions that training needs and, where samples are made, those of the samples."""
        for stage in stages:
            embedding.for_training(stage, self.pipeline.seed)
            if sampled and isinstance(stage, Stage):
                keep_captions(stage, self.pipeline.samples, self.pipeline.seed)

    def _train(self, stage: Learner) -> None:
        folder = self.stage_folder(stage)
        with self._writing(folder / ".lock", f"the stage folder {folder}"):
            found = Checkpoints(folder / "checkpoints").resume_from() if self.is_chief else None
            done = agree(self.strategy, -1 if found is None else found)
            if done >= stage.training.steps:
                if self.is_chief:
                    say(f"{stage.name}: trained, {done} steps")
                return
            Trainer(stage, self.strategy, folder, self.pipeline.seed, self.workdir / "cache").run()
            if self.is_chief:
                self.keep_recipe()
            agree(self.strategy, 0)  # no worker reads the last checkpoint before it is written

    def _writing(self, path: Path, what: str) -> contextlib.AbstractContextManager[None]:
        """The lock of a folder that one process writes: the chief takes it for all workers."""
        return locked(path, what) if self.is_chief else contextlib.nullcontext()

    # ---- sample sets

    def sample_set(
        self,
        stages: Sequence[Learner],
        checkpoint: str,
        part: tuple[int, int] = (1, 1),
        decay: float | None = None,
        levels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Writes the sample sets of stages, in the order of the cascade; whole shards are kept.

        Args:
            stages: of the pipeline; classifiers among them are passed over and, where there are several, teachers.
            checkpoint: "last", "best" or a step; of single stages "NAME=STEP,NAME=STEP". A classifier that guides is
                the last one unless it is named.
            part: (i, n): the shards of number i of n independent processes; workers of one strategy share them out.
            decay: of the averaged weights; None takes the first of Training.ema.
            levels: s of the z_s that are kept of a stage besides those that the next one takes: other sample sets may
                be made from them.
        """
        if self.workers > 1:
            part = self.worker + 1, self.workers
        makers = [stage for stage in stages if isinstance(stage, Stage)]
        if not makers:
            raise UserError(f"{', '.join(stage.name for stage in stages)} makes no images: it is a classifier")
        if len(makers) > 1:  # of a stage whose samples the next one does not take none are made
            makers = [stage for stage in makers if stage in self.pipeline.cascade]
            makers = [stage for stage in makers if stage is makers[-1] or self.pipeline.after(stage)]
        for stage in makers:  # what is not there is found before anything is sampled
            self.weights(stage, checkpoint)
            if stage.classifier is not None:
                self.weights(stage.classifier, checkpoint)
        for stage in makers:
            before = self.pipeline.before(stage)
            if before is None and stage.images.low_resolution is not None and stage.origin.chained:
                raise UserError(f"stage '{stage.name}' enlarges images: give them by --low_resolution FILE.npz")
            folder = self.workdir / "samples" / stage.name
            with self.strategy.scope():
                network, digest, step = restore_network(
                    stage, self.stage_folder(stage), checkpoint, self.pipeline.seed, decay
                )
                guide, asked = self._guide(stage, checkpoint)
                sample_stage(
                    stage,
                    network,
                    self.pipeline.samples,
                    folder,
                    self.set_identity(stage, {"step": step, "hash": digest}, decay, asked),
                    self.pipeline.seed,
                    None if before is None else self.workdir / "samples" / before.name,
                    sorted({*self.pipeline.kept_levels(stage), *(levels or {}).get(stage.name, ())}),
                    part,
                    guide,
                )
            agree(self.strategy, 0)  # the next stage reads the shards of all workers

    def weights(self, stage: Learner, checkpoint: str) -> dict[str, Any]:
        """`step` and `hash` of the checkpoint that --checkpoint means of a stage.

        Raises:
            UserError: it is not there, or names a stage that this recipe does not have.
        """
        self._check_named(checkpoint)
        checkpoints = Checkpoints(self.stage_folder(stage) / "checkpoints")
        step = checkpoints.choose(_of(stage, checkpoint))
        return {"step": step, "hash": checkpoints.digest(step)}

    def _check_named(self, checkpoint: str) -> None:
        known = [stage.name for stage in self.pipeline.stages]
        for name in named(checkpoint):
            if name not in known:
                raise UserError(f"--checkpoint names the stage '{name}'; the stages are {', '.join(known)}")

    def _guide(self, stage: Stage, checkpoint: str) -> tuple[Guide | None, dict[str, Any] | None]:
        """The classifier that guides a stage, and `step` and `hash` of its checkpoint; made in the strategy's scope."""
        classifier = stage.classifier
        if classifier is None:
            return None, None
        which = _of(classifier, checkpoint)
        network, digest, step = restore_network(classifier, self.stage_folder(classifier), which, self.pipeline.seed)
        return Guide(network, classifier.process), {"step": step, "hash": digest}

    def set_identity(
        self,
        stage: Stage,
        checkpoint: dict[str, Any],
        decay: float | None,
        classifier: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the images of a stage depend on.

        Args:
            checkpoint: its `step` and `hash`.
            decay: of the averaged weights.
            classifier: `step` and `hash` of the classifier that guides it.
        """
        before = self.pipeline.before(stage)
        return {
            "stage": stage.name,
            "checkpoint": checkpoint,
            **({} if decay is None else {"ema": decay}),
            **({} if classifier is None else {"classifier": classifier}),
            "seed": self.pipeline.seed,
            "shard": self.pipeline.samples.shard,
            "batch": self.pipeline.samples.batch,
            "labels": parts_of(self.pipeline.samples.labels),
            **self._words(stage),
            "objective": parts_of(stage.objective),
            "sampler": parts_of(stage.sampler),
            "conditioning": parts_of(stage.conditioning),
            "before": None if before is None else _set_hash(self.workdir / "samples" / before.name),
            **stage.origin.identity(stage.images),
        }

    def _words(self, stage: Stage) -> dict[str, Any]:
        """Captions and encoder of a stage that is told a text."""
        captions, images = self.pipeline.samples.captions, stage.images
        if images.text is None or captions is None:
            return {}
        return {"captions": [parts_of(captions), captions.identity(images.source)], "text": images.text.identity()}

    def provenance(self) -> dict[str, Any]:
        """What a result must say of where its samples came from."""
        last = self.pipeline.last
        sets = {}
        for stage in self.pipeline.cascade:
            marker = self.workdir / "samples" / stage.name / "set.json"
            sets[stage.name] = json.loads(marker.read_text()) if marker.is_file() else None
        return {
            "recipe": str(self.origin()),
            "recipe_hash": hashlib.sha256(self.recipe.text().encode()).hexdigest(),
            "recipe_identity": self.recipe.identity(),
            "stage": last.name,
            "samples": sets,
            "seed": self.pipeline.seed,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
        }

    def origin(self) -> Path:
        """The recipe that this run was made from; a run that is continued from its own recipe.gin remembers it."""
        if self.recipe.path.resolve() != (self.workdir / "recipe.gin").resolve():
            return self.recipe.path
        path = self.workdir / "run.json"
        return Path(json.loads(path.read_text())["recipe"]) if path.is_file() else self.recipe.path

    def score(self, evaluation: Evaluation, rows: list[str]) -> dict[str, Any]:
        """Scores the sample set of the last stage; writes results/NAME.json and a picture of the first samples.

        Args:
            evaluation: of the recipe.
            rows: the published rows that the result is shown beside.
        """
        last = self.pipeline.last
        samples, results = self.workdir / "samples" / last.name, self.workdir / "results"
        absent = missing(samples, self.pipeline.samples)
        if absent:
            raise UserError(
                f"{len(absent)} of the {len(self.pipeline.samples.shards())} files of {samples} are missing or damaged "
                f"(shard {_few(absent)}): run --do sample, which makes only what is missing"
            )
        with alone(self.strategy):
            result = evaluation.evaluate(
                samples, last.images, self.workdir / "cache", {**self.provenance(), "rows": rows}
            )
        write_text(results / f"{last.name}.json", json.dumps(result, indent=1))
        shown = np.arange(min(100 if last.size < 64 else 36, self.pipeline.samples.count))
        images = to_bytes(read_images(samples, shown, self.pipeline.samples.shard))
        write_grid(results / f"{last.name}.png", images, columns=self._columns(), scale=max(1, 64 // last.size))
        return result

    def _columns(self) -> int | None:
        """As many columns as classes where those are few, so that a column of balanced labels is a class."""
        classes = self.pipeline.last.images.classes
        return classes if 2 <= classes <= 16 else None

    def part(self) -> None:
        """Waits for the other workers: none leaves while the chief still works."""
        agree(self.strategy, 0)

    # ---- images for a person

    def sample(
        self,
        labels: list[int] | None = None,
        count: int | None = None,
        seed: int | None = None,
        low_resolution: np.ndarray | None = None,
        checkpoint: str = "last",
        decay: float | None = None,
        prompts: list[str] | None = None,
        portrait: bool = False,
    ) -> np.ndarray:
        """Images of the last stage, uint8 [N, H, W, C].

        Args:
            labels: one an image; None takes those of the recipe's sample set.
            count: images; by default one a label or prompt. With more the labels and prompts are repeated in turn.
            seed: by default the recipe's.
            low_resolution: uint8 [N, h, w, C] to be enlarged by the super-resolution stages alone.
            checkpoint: "last", "best" or a step; of single stages "NAME=STEP,NAME=STEP".
            decay: of the averaged weights; None takes the first of Training.ema.
            prompts: texts, one an image; None takes the captions of the recipe's sample set.
            portrait: images taller than wide, of a model that is told the orientation.
        """
        self._check_named(checkpoint)
        seed = self.pipeline.seed if seed is None else seed
        if labels is not None and not any(stage.labelled for stage in self.pipeline.cascade):
            raise UserError(
                "labels are for class-conditional models: no stage of this recipe is told the class, nor guided to it"
            )
        if low_resolution is not None and count is not None and count > len(low_resolution):
            raise UserError(f"count must be at most the {len(low_resolution)} low-resolution images, got {count}")
        if prompts is not None and not any(stage.conditioned_on_text for stage in self.pipeline.cascade):
            raise UserError("prompts are for text to image: no stage of this recipe is told a text")
        if prompts is not None and not (prompts and all(prompt.strip() for prompt in prompts)):
            raise UserError(f"prompts must be texts such as 'a red circle', got {prompts}")
        if portrait and not self.pipeline.last.oriented:
            raise UserError(
                "portrait is for models that are told the orientation: the last stage of this recipe is not"
            )
        given = self.pipeline.samples.labels if labels is None else GivenLabels(tuple(labels))
        captions = self.pipeline.samples.captions if prompts is None else GivenCaptions(tuple(prompts))
        asked = max(len(labels or [0]), len(prompts or [0]))
        count = count or (len(low_resolution) if low_resolution is not None else asked)
        stages, begin = self.pipeline.cascade, None
        if low_resolution is not None:
            begin, stages = self._entry(low_resolution, stages)
        indices, own = np.arange(count), None  # own: the labels of real images, where these have some
        made: dict[int, np.ndarray] = {}
        with self.strategy.scope():
            for stage in stages:
                batch = self._low_resolution(stage, indices, made, begin)
                own = batch.get("label", own) if labels is None else None
                if stage.labelled:
                    batch["label"] = given(indices, stage.images.classes, seed) if own is None else own
                if stage.conditioned_on_text:
                    batch["text"] = embedded(stage, captions, indices, seed)[1]
                if stage.oriented:
                    batch["portrait"] = np.full(count, portrait, np.int32)
                made, begin = self._walk(stage, indices, batch, seed, checkpoint, decay), None
        images = to_bytes(made[0])
        return np.rot90(images, -1, axes=(1, 2)) if portrait else images

    # ---- images as latents of DDIM

    def latents(self, stage: str | None = None, checkpoint: str = "last", decay: float | None = None) -> Latents:
        """Encodes and decodes images by a trained stage; its methods are called in the scope of `strategy`.

        Args:
            stage: its name; None is the last one.
            checkpoint: "last", "best" or a step; of single stages "NAME=STEP,NAME=STEP".
            decay: of the averaged weights; None takes the first of Training.ema.
        """
        chosen = self.pipeline.last if stage is None else self.pipeline.stage(stage)
        if not isinstance(chosen, Stage):
            raise UserError(f"stage '{chosen.name}' makes no images: it is a classifier")
        key = (chosen.name, checkpoint, decay)
        if key not in self._latents:
            self._check_named(checkpoint)
            with self.strategy.scope():
                folder, seed = self.stage_folder(chosen), self.pipeline.seed
                network, _, _ = restore_network(chosen, folder, checkpoint, seed, decay)
                guide, _ = self._guide(chosen, checkpoint)
                self._latents[key] = Latents(chosen, network, self.pipeline.samples.batch, guide)
        return self._latents[key]

    def encode(self, images: np.ndarray, labels: list[int] | None = None, stage: str | None = None) -> np.ndarray:
        """The noise float32 [N, H, W, C] that DDIM makes images uint8 [N, H, W, C] from; see `Latents.encode`."""
        with self.strategy.scope():
            return self.latents(stage).encode(images, labels)

    def decode(self, latents: np.ndarray, labels: list[int] | None = None, stage: str | None = None) -> np.ndarray:
        """Images uint8 [N, H, W, C] of such noise; see `Latents.decode`."""
        with self.strategy.scope():
            return self.latents(stage).decode(latents, labels)

    def interpolate(
        self, first: np.ndarray, second: np.ndarray, labels: Any = None, count: int = 9, stage: str | None = None
    ) -> np.ndarray:
        """Images uint8 [N, count, H, W, C] between pairs of images uint8 [N, H, W, C]; see `Latents.interpolate`."""
        with self.strategy.scope():
            return self.latents(stage).interpolate(first, second, labels, count)

    # ---- one stage in memory

    def _low_resolution(
        self, stage: Stage, indices: np.ndarray, made: dict[int, np.ndarray], begin: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """What a stage is given of the stage before, in memory, or of where else its images come from."""
        if begin is not None:
            return {"low_resolution": begin}
        if stage.images.low_resolution is None:
            return {}
        if not stage.origin.chained:
            return stage.low_resolution_images(indices, None, self.pipeline.samples.shard)
        if not made:
            raise UserError(f"stage '{stage.name}' enlarges images: give them by --low_resolution FILE.npz")
        s = int(stage.level) if stage.origin.truncated else 0
        return {"z_s": made[s]} if s else {"low_resolution": made[0]}

    def _entry(self, images: np.ndarray, stages: list[Stage]) -> tuple[np.ndarray, list[Stage]]:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UserError(f"low-resolution images must be uint8 [N, h, w, C], got {images.dtype} {images.shape}")
        sizes = [stage.images.low_resolution for stage in stages]
        if images.shape[1] != images.shape[2] or images.shape[1] not in sizes:
            known = ", ".join(f"{size} x {size}" for size in sizes if size)
            raise UserError(
                f"low-resolution images must be {known or 'absent: no stage takes them'}, got {images.shape[1:3]}"
            )
        return images.astype(np.float32) / 127.5 - 1, stages[sizes.index(images.shape[1]) :]

    def _walk(
        self,
        stage: Stage,
        indices: np.ndarray,
        batch: dict[str, np.ndarray],
        seed: int,
        checkpoint: str,
        decay: float | None,
    ) -> dict[int, np.ndarray]:
        """Images of a stage under 0, and the levels that the next one takes."""
        sampler, weights = self.sampler_of(stage, checkpoint, decay)
        if not stage.labelled:
            batch = {name: value for name, value in batch.items() if name != "label"}
        root, levels = randomness.key(seed, f"{stage.name}/sampling"), self.pipeline.kept_levels(stage)
        parts = [slice(at, at + sampler.at_once) for at in range(0, len(indices), sampler.at_once)]
        walks = [
            sampler.walk(root, indices[rows], {n: v[rows] for n, v in batch.items()}, weights, levels) for rows in parts
        ]
        return {s: np.concatenate([walk[s] for walk in walks]) for s in walks[0]}

    def sampler_of(
        self, stage: Stage, checkpoint: str = "last", decay: float | None = None
    ) -> tuple[StageSampler, list[Any]]:
        """The sampler of a trained stage with its weights, made once; see `sample` for the arguments."""
        key = (stage.name, checkpoint, decay)
        if key not in self._samplers:
            network, _, _ = restore_network(stage, self.stage_folder(stage), checkpoint, self.pipeline.seed, decay)
            weights = [variable.value for variable in network.trainable_variables]
            guide, _ = self._guide(stage, checkpoint)
            self._samplers[key] = StageSampler(stage, network, self.pipeline.samples.batch, guide), weights
        return self._samplers[key]


def _of(stage: Learner, checkpoint: str) -> str:
    """What --checkpoint says of a stage; "best" and a step without a name are not meant for classifiers."""
    return of_stage(checkpoint, stage.name) if isinstance(stage, Stage) or named(checkpoint) else "last"


def _few(numbers: list[int]) -> str:
    """The first few of some numbers."""
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")


def _set_hash(folder: Path) -> str | None:
    marker = folder / "set.json"
    return hashlib.sha256(marker.read_bytes()).hexdigest() if marker.is_file() else None
