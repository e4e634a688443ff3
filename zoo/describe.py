"""Explains a pipeline in numbers before anything is trained: parameters, FLOPs, memory and time of every stage."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

from zoo import budget, cost, sampling_budget, symbolic
from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.devices import BFLOAT16, FLOAT32, USABLE, Device, find, here, resident_bytes
from zoo.learner import Learner
from zoo.pipeline import Pipeline, Stage
from zoo.training.distribution import Mirrored

if TYPE_CHECKING:
    from zoo.distilled_stage import DistilledStage
    from zoo.measure import Measurement

# Seconds that a measured step is predicted to take at most: of a longer one a part of the batch is measured.
MEASURED_STEP = 8.0
# Forward passes that the gradient of a classifier in its input takes: one, and as much again backwards.
GRADIENT_PASSES = 2
# What a process that samples takes for each operation of a traced network, besides tensors: 65 to 80 kB in three
# networks (docs/facts.md).
GRAPH_BYTES = 70_000
# Images of all replicas and micro-batches, by the name of the stage.
Plans = dict[str, tuple[int, int]]


def describe(
    pipeline: Pipeline,
    device: Device | str | None = None,
    devices: int | None = None,
    measure: Callable[[Plans], Mapping[str, "Measurement"]] | None = None,
    hardware: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What every stage of a pipeline is and costs, as a JSON-able dictionary.

    The networks are traced without weights, so that they cannot be trained afterwards: build the recipe again.

    Args:
        device: that the figures are for, by name where it is one of the data sheets; None for those at hand.
        devices: replicas; None for one of a named device, or for as many as there are at hand.
        measure: takes the plan of the measurements that the devices at hand can do in a short time, and does them.
        hardware: stage -> what the paper trained it on, "256 tpu-v3", for the time that it would take there.
    """
    if device is not None and measure is not None:
        raise UserError("--measure measures the devices at hand: leave out --device")
    if device is None:
        if devices is None and isinstance(pipeline.machines, Mirrored):
            devices = pipeline.machines.devices
        policies = {FLOAT32: None, BFLOAT16: None} | {s.training.precision.policy: None for s in pipeline.stages}
        chosen, replicas = here(devices, policies)
    else:
        chosen, replicas = (find(device) if isinstance(device, str) else device), devices or 1
    process = resident_bytes() / replicas if device is None and chosen.kind == "CPU" else None
    forecasts = [_Forecast(stage, chosen, replicas, process) for stage in pipeline.stages]
    by_name = {forecast.stage.name: forecast for forecast in forecasts}
    measured = measure(_plans(forecasts)) if measure else {}
    count = pipeline.samples.count
    stages = [
        forecast.describe(count, measured.get(forecast.stage.name), by_name.get(_asked(forecast.stage) or ""))
        | forecast.sampling(pipeline.samples.batch, by_name.get(_asked(forecast.stage) or ""))
        | {"paper": forecast.on((hardware or {}).get(forecast.stage.name))}
        for forecast in forecasts
    ]
    teachers = [stage.teacher.name for stage in pipeline.makers if stage.teacher is not None]
    sampled = [stage for stage in stages if stage["name"] not in teachers]
    return {
        "seed": pipeline.seed,
        "stages": stages,
        **{key: sum(stage[key] for stage in stages) for key in ("parameters", "training_seconds")},
        **{key: sum(stage[key] for stage in sampled) for key in ("sampling_flops", "sampling_seconds")},
        "samples": count,
        "machine": {
            "device": chosen.name,
            "title": chosen.title,
            "at_hand": device is None,
            "replicas": replicas,
            "strategy": _strategy(pipeline, device is None, replicas),
            "memory_bytes": chosen.memory_bytes,
            "usable_fraction": USABLE,
            "peak_flops_per_second": dict(chosen.peak),
            "peak_is_measured": chosen.measured,
            "assumed_fraction_of_peak": chosen.fraction,
            "bytes_per_second": chosen.bandwidth,
        },
    }


def _strategy(pipeline: Pipeline, at_hand: bool, replicas: int) -> str | None:
    """What divides the batch, at hand."""
    if not at_hand:
        return None
    if pipeline.machines is not None:
        return f"{_kind(pipeline.machines)}, as the recipe says"
    return "mirrored" if replicas > 1 else "one"


def _asked(stage: Learner) -> str | None:
    """The name of the classifier that guides a stage."""
    classifier = None if isinstance(stage, ClassifierStage) else cast("Stage", stage).classifier
    return None if classifier is None else classifier.name


class _Forecast:
    """What one stage takes of a device; tracing it spoils its network."""

    def __init__(self, stage: Learner, device: Device, replicas: int, process: float | None = None) -> None:
        self.stage, self.device, self.process = stage, device, process
        self.traced = symbolic.build(stage)
        self.cost = cost.measure(self.traced)
        self.work = budget.work_of(stage, self.traced, self.cost)
        self.switches = budget.switches_of(stage, replicas)

    def plan(self) -> tuple[int, int] | None:
        """(images, micro-batches) of a step to measure: the stage's own or, for memory and time, fewer; or None."""
        images, parts = self.work.batch, self.switches.micro_batches
        while images:
            work, switches = self._part(images, parts)
            short = budget.step_seconds(work, switches, self.device) <= MEASURED_STEP
            if short and budget.fits(work, switches, self.device):
                return images, parts
            # less of the batch: whole micro-batches as long as there are several, then smaller ones
            if parts > 1:
                images, parts = images // parts * (parts // 2), parts // 2
            else:
                images = images // self.switches.replicas // 2 * self.switches.replicas
        return None

    def _part(self, images: int, parts: int) -> tuple[budget.Work, budget.Switches]:
        return replace(self.work, batch=images), replace(self.switches, micro_batches=parts)

    def guiding(self, steps: int, samples: int) -> tuple[float, float]:
        """FLOPs of a sample, and seconds of all, that a classifier takes which guides `steps` steps."""
        passes = GRADIENT_PASSES * steps
        seconds = budget.sampling_seconds(self.work, self.switches, self.device, passes, samples)
        return self.cost.flops * passes, seconds

    def describe(self, samples: int, measured: "Measurement | None", guide: "_Forecast | None") -> dict[str, Any]:
        """JSON-able; `guide` is the classifier that guides the samples."""
        stage, training, work, switches = self.stage, self.stage.training, self.work, self.switches
        memory = budget.memory(work, switches)
        images = training.batch * training.steps
        seconds = budget.step_seconds(work, switches, self.device)
        sampling = budget.sampling_seconds(work, switches, self.device, stage.sampler_steps, samples)
        extra, waiting = (0.0, 0.0) if guide is None else guide.guiding(stage.sampler_steps, samples)
        sampling += waiting
        fits = budget.fits(work, switches, self.device)
        found = None if measured is None else self._beside(measured, guide)
        if measured is not None:
            share = training.batch / measured.images
            seconds = measured.step_seconds * share
            walks = measured.sampling_step_seconds / max(1, measured.sampled)
            sampling = walks * stage.sampler_steps * samples
        return {
            "name": stage.name,
            "size": stage.size,
            "width": stage.images.shape[1],
            "low_resolution": stage.images.low_resolution,
            "network": _kind(stage.network),
            "parameters": work.parameters,
            "flops": self.cost.flops,
            "batch": training.batch,
            "batch_a_replica": training.batch // switches.replicas,
            "micro_batch": training.batch // switches.replicas // switches.micro_batches,
            "switches": asdict(switches),
            "steps": training.steps,
            "images": images,
            "evaluations": stage.sampler_steps,
            "sampling_flops": self.cost.flops * stage.sampler_steps + extra,
            "classes": stage.classes if isinstance(stage, ClassifierStage) else None,
            "training_flops": work.passes * self.cost.flops * images,
            "activation_bytes": self.cost.activations(switches.policy).total(switches.recompute),
            "memory": asdict(memory),
            "memory_bytes": memory.total,
            "state_bytes": memory.state,
            "state_fits": memory.state <= self.device.usable_bytes,
            "fits": fits,
            "remedies": [] if fits else [self._remedy(remedy) for remedy in self._remedies()],
            "step_seconds": seconds,
            "training_seconds": seconds * training.steps,
            "sampling_seconds": sampling,
            "measured": found,
            "parts": _parts(stage),
        }

    def sampling(self, images: int, guide: "_Forecast | None") -> dict[str, Any]:
        """The memory of a replica that samples `images` at once, JSON-able; None of a stage that makes no images."""
        if isinstance(self.stage, ClassifierStage):
            return {"sampling_memory": None}
        asked = None if guide is None else guide.work
        program = self._program() + (0.0 if guide is None else guide._program())
        program += self.process or 0.0
        memory = sampling_budget.sampling_memory(self.work, self.switches, images, asked, program)
        return {
            "sampling_memory": asdict(memory),
            "sampling_memory_bytes": memory.total,
            "sampling_images": images,
            "sampling_images_that_fit": sampling_budget.images_that_fit(
                self.work, self.switches, self.device, asked, program
            ),
        }

    def _program(self) -> float:
        """What the process that samples makes of the network: layers, graphs, compiled operations."""
        return 0.0 if self.process is None else GRAPH_BYTES * len(self.traced.graph.get_operations())

    def on(self, hardware: str | None) -> dict[str, Any] | None:
        """What training takes on "256 tpu-v3"; None where there are none, or the batch does not divide among them."""
        count, _, name = (hardware or "0").partition(" ")
        if int(count) == 0 or self.stage.training.batch % int(count):
            return None
        device, switches = find(name), replace(self.switches, replicas=int(count), micro_batches=1)
        seconds = budget.step_seconds(self.work, switches, device)
        return {
            "device": device.name,
            "title": device.title,
            "replicas": int(count),
            "step_seconds": seconds,
            "training_seconds": seconds * self.stage.training.steps,
            "memory_bytes": budget.memory(self.work, switches).total,
            "fits": budget.fits(self.work, switches, device),
        }

    def _remedies(self) -> list[budget.Remedy]:
        return budget.remedies(self.work, self.switches, self.device)

    def _remedy(self, remedy: budget.Remedy) -> dict[str, Any]:
        changes = [] if remedy.switches is None else remedy.switches.bindings(self.switches, f"{self.stage.name}/")
        return {**asdict(remedy), "changes": changes}

    def _beside(self, measured: "Measurement", guide: "_Forecast | None") -> dict[str, Any]:
        """The measurement and what is predicted for the same number of images."""
        work, switches = self._part(measured.images, measured.micro_batches)
        walk = budget.sampling_seconds(work, switches, self.device, 1, measured.sampled)
        walk += 0.0 if guide is None else guide.guiding(1, measured.sampled)[1]
        return {
            **asdict(measured),
            "images_per_second": measured.images_per_second,
            "predicted_step_seconds": budget.step_seconds(work, switches, self.device),
            "predicted_memory_bytes": budget.memory(work, switches).total,
            "predicted_sampling_step_seconds": walk,
        }


def _plans(forecasts: list[_Forecast]) -> Plans:
    """What can be measured; a stage of which not even one image fits is left out."""
    plans = {forecast.stage.name: forecast.plan() for forecast in forecasts}
    return {name: plan for name, plan in plans.items() if plan is not None}


def _parts(stage: Learner) -> dict[str, str | None]:
    """The names of the components that make up the method, None where a part is left out."""
    common = {"optimizer": _kind(stage.training.optimizer), "source": stage.images.source.name}
    if isinstance(stage, ClassifierStage):
        return {"process": _kind(stage.process), "schedule": _kind(stage.process.schedule), "sampler": None, **common}
    return common | _method(cast("Stage", stage))


def _method(stage: Stage) -> dict[str, str | None]:
    """The same of a stage that makes images."""
    objective, guidance = stage.objective, stage.sampler.guidance
    augmentations = [getattr(part, "augmentation", None) for part in stage.conditioning]
    return {
        "process": _kind(objective.process),
        "schedule": _kind(objective.process.schedule),
        "target": _kind(objective.target),
        "variance": _kind(objective.variance),
        "loss": _kind(objective.loss),
        "conditioning": ", ".join(_kind(part) for part in stage.conditioning) or None,
        "augmentation": ", ".join(_kind(part) for part in augmentations if part is not None) or None,
        "sampler": _kind(stage.sampler),
        "guidance": None if guidance is None else _kind(guidance),
        "classifier": _asked(stage),
        "teacher": None if stage.teacher is None else stage.teacher.name,
        "distillation": None if stage.teacher is None else _kind(cast("DistilledStage", stage).distillation),
    }


def _kind(part: Any) -> str:
    return type(part).__name__
