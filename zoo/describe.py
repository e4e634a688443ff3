"""Explains a pipeline in numbers before anything is trained: parameters, FLOPs, memory and time of every stage."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

from zoo import budget, cost, symbolic
from zoo.classifier_stage import ClassifierStage
from zoo.console import UserError
from zoo.devices import BFLOAT16, FLOAT32, USABLE, Device, find, here
from zoo.learner import Learner
from zoo.pipeline import Pipeline, Stage
from zoo.registry import WIDTH, short_count
from zoo.training.distribution import Mirrored

if TYPE_CHECKING:
    from zoo.measure import Measurement

LABEL_WIDTH = 24
# Seconds that a measured step is predicted to take at most: of a longer one a part of the batch is measured.
MEASURED_STEP = 8.0
# Forward passes that the gradient of a classifier in its input takes: one, and as much again backwards.
GRADIENT_PASSES = 2
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
    forecasts = [_Forecast(stage, chosen, replicas) for stage in pipeline.stages]
    by_name = {forecast.stage.name: forecast for forecast in forecasts}
    measured = measure(_plans(forecasts)) if measure else {}
    count = pipeline.samples.count
    stages = [
        forecast.describe(count, measured.get(forecast.stage.name), by_name.get(_asked(forecast.stage) or ""))
        | {"paper": forecast.on((hardware or {}).get(forecast.stage.name))}
        for forecast in forecasts
    ]
    keys = ("parameters", "training_seconds", "sampling_flops", "sampling_seconds")
    return {
        "seed": pipeline.seed,
        "stages": stages,
        **{key: sum(stage[key] for stage in stages) for key in keys},
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

    def __init__(self, stage: Learner, device: Device, replicas: int) -> None:
        self.stage, self.device = stage, device
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
            "training_flops": budget.TRAINING_PASSES * self.cost.flops * images,
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
    }


def _kind(part: Any) -> str:
    return type(part).__name__


# ------------------------------------------------------------------ as text


def render(description: dict[str, Any]) -> str:
    """The description as text of at most 80 columns."""
    machine = description["machine"]
    lines: list[str] = []
    for stage in description["stages"]:
        lines += [*_render_stage(stage, machine, description["samples"]), ""]
    total = short_count(description["parameters"])
    rows = [
        ("all stages", f"{total} parameters, {_flops(description['sampling_flops'])} a sample"),
        ("training", f"{duration(description['training_seconds'])}, one stage after the other"),
        ("sampling", f"{duration(description['sampling_seconds'])} for {description['samples']:,} samples"),
        *_render_machine(machine, {stage["switches"]["policy"] for stage in description["stages"]}),
    ]
    return "\n".join([*lines, *(_line(*row) for row in rows)])


def _render_stage(stage: dict[str, Any], machine: dict[str, Any], samples: int) -> list[str]:
    size, low = stage["size"], stage["low_resolution"]
    enlarges = f"{low}x{low} -> " if low else ""
    parts = stage["parts"]
    rows = [
        ("network", f"{stage['network']}, {stage['parameters']:,} parameters"),
        ("forward pass", f"{_flops(stage['flops'])} an image"),
        ("process", f"{parts['process']}, {parts['schedule']}"),
        *(_render_classifier(stage) if parts["sampler"] is None else _render_method(stage)),
        ("trained on", f"{short_count(stage['images'])} images: {stage['steps']:,} steps of {stage['batch']:,}"),
        *_render_sampling(stage),
        *_render_memory(stage, machine),
        *_render_time(stage, samples),
    ]
    return [f"{stage['name']}  {enlarges}{size}x{size}, {parts['source']}", *(_line(*row) for row in rows)]


def _render_classifier(stage: dict[str, Any]) -> list[tuple[str, str]]:
    return [("predicts", f"which of {stage['classes']:,} classes"), ("optimizer", stage["parts"]["optimizer"])]


def _render_method(stage: dict[str, Any]) -> list[tuple[str, str]]:
    parts = stage["parts"]
    return [
        ("predicts", f"{parts['target']}, {parts['variance']}, {parts['loss']}"),
        ("conditioned on", parts["conditioning"] or "nothing"),
        *([("augmentation", parts["augmentation"] or "none")] if stage["low_resolution"] else []),
        ("optimizer, sampler", f"{parts['optimizer']}, {parts['sampler']}"),
    ]


def _render_sampling(stage: dict[str, Any]) -> list[tuple[str, str]]:
    parts = stage["parts"]
    if parts["sampler"] is None:
        return []
    rows = [("sampled in", f"{stage['evaluations']:,} evaluations, {_flops(stage['sampling_flops'])} an image")]
    if parts["guidance"] is None:
        return rows
    by = f" by '{parts['classifier']}'" if parts["classifier"] else ""
    return [*rows, ("guided", f"{parts['guidance']}{by}")]


def _render_memory(stage: dict[str, Any], machine: dict[str, Any]) -> list[tuple[str, str]]:
    memory, switches = stage["memory"], stage["switches"]
    at_once = stage["micro_batch"]
    kept = "recomputed by block" if switches["recompute"] else "all kept"
    held = [f"{_bytes(memory[key])} {name}" for key, name in _STATE if memory[key]]
    rows = [
        ("a replica works on", _share(stage)),
        *(("" if i else "its state", ", ".join(held[i : i + 2])) for i in range(0, len(held), 2)),
        (
            "its activations",
            f"{_bytes(memory['activations'])}: {at_once:,} x {_bytes(stage['activation_bytes'])}, {kept}",
        ),
        ("its inputs", f"{_bytes(memory['inputs'])}"),
    ]
    usable = _bytes(machine["usable_fraction"] * machine["memory_bytes"])
    verdict = "fits" if stage["fits"] else "does not fit"
    rows.append(("memory a replica", f"{_bytes(stage['memory_bytes'])} of {usable}: {verdict}"))
    if not stage["state_fits"]:
        rows.append(("", f"the state alone, {_bytes(stage['state_bytes'])}, does not fit"))
    return [*rows, *_render_remedies(stage["remedies"])]


_STATE = (
    ("weights", "weights"),
    ("averages", "averages"),
    ("slots", "optimizer"),
    ("gradients", "gradients"),
    ("half_weights", "half-precision weights"),
)


def _share(stage: dict[str, Any]) -> str:
    replicas, parts = stage["switches"]["replicas"], stage["switches"]["micro_batches"]
    text = (
        f"{stage['batch_a_replica']:,} of {stage['batch']:,} images" if replicas > 1 else f"{stage['batch']:,} images"
    )
    if parts > 1:
        text += f", {stage['micro_batch']:,} at once"
    return f"{text}, in {stage['switches']['policy'].removeprefix('mixed_')}"


def _render_remedies(remedies: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What was tried, one line each, and what to write for those that suffice."""
    rows = []
    for remedy in remedies:
        label = f"  {remedy['name']}"
        if remedy["problem"]:
            rows.append((label, f"no: {remedy['problem']}"))
            continue
        size = _bytes(remedy["memory_bytes"])
        if not remedy["fits"]:
            rows.append((label, f"no: {size} at least"))
            continue
        rows.append((label, f"fits: {size}, {duration(remedy['step_seconds'])} a step"))
        rows += [("", f"  {change}") for change in remedy["changes"]]
    return [("what would make it fit", ""), *rows] if rows else []


def _render_time(stage: dict[str, Any], samples: int) -> list[tuple[str, str]]:
    measured = stage["measured"]
    source = "" if measured is None else " (measured)"
    rows = [
        ("a step", f"{duration(stage['step_seconds'])}{source}"),
        ("training", f"{duration(stage['training_seconds'])}, {_flops(stage['training_flops'])}"),
        *([(f"{samples:,} samples", duration(stage["sampling_seconds"]))] if stage["evaluations"] else []),
    ]
    paper = stage["paper"]
    if paper is not None:
        verdict = "fits" if paper["fits"] else "needs micro-batches or recomputation"
        rows += [
            ("paper's machines", f"{paper['replicas']:,} x {paper['title']}"),
            ("  memory a replica", f"{_bytes(paper['memory_bytes'])}: {verdict}"),
            ("  training there", f"{duration(paper['training_seconds'])}, {duration(paper['step_seconds'])} a step"),
        ]
    if measured is None:
        return rows
    images = measured["images"]
    whole = "the whole batch" if images == stage["batch"] else f"{images:,} images of {stage['batch']:,}"
    rows += [
        ("measured with", f"{whole}; {measured['steps']} steps"),
        ("  a step", _compared(duration, measured["step_seconds"], measured["predicted_step_seconds"])),
        ("  images a second", f"{measured['images_per_second']:.3g}"),
        ("  memory a replica", _compared(_bytes, measured["memory_bytes"], measured["predicted_memory_bytes"])),
        *([("  a sampling step", _measured_walk(measured))] if measured["sampled"] else []),
        ("  to the first step", duration(measured["first_step_seconds"])),
    ]
    return rows


def _measured_walk(measured: dict[str, Any]) -> str:
    found = measured["sampling_step_seconds"], measured["predicted_sampling_step_seconds"]
    return f"{_compared(duration, *found)}, {measured['sampled']:,} images"


def _compared(show: Callable[[float], str], measured: float | None, predicted: float) -> str:
    return f"{'unknown' if measured is None else show(measured)} (predicted {show(predicted)})"


def _render_machine(machine: dict[str, Any], policies: set[str]) -> list[tuple[str, str]]:
    count = machine["replicas"]
    title = machine["title"] if count == 1 else f"{count} x {machine['title']}"
    strategy = f", strategy {machine['strategy']}" if machine["strategy"] else ""
    usable = f"{machine['usable_fraction']:.0%} of {_bytes(machine['memory_bytes'])} counted on"
    source = "measured" if machine["peak_is_measured"] else "of the data sheet"
    rows = [("for", f"{title}{strategy}"), ("", usable)]
    for policy in sorted(policies):
        rate = machine["peak_flops_per_second"][policy]
        rows.append(("", f"{_scaled(rate, 'FLOP/s')} in {policy.removeprefix('mixed_')} products, {source};"))
    rows.append(("", f"a step is assumed to reach {machine['assumed_fraction_of_peak']:.0%} of that"))
    return rows


def _line(label: str, value: str) -> str:
    text = f"    {label:<{LABEL_WIDTH - 4}}{value}".rstrip()
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _flops(count: float) -> str:
    return _scaled(count, "FLOP")


def _bytes(count: float) -> str:
    return _scaled(count, "B")


def _scaled(count: float, unit: str) -> str:
    """Three digits with a decimal prefix: 3.64 GFLOP."""
    for size, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 7.5 h, 3.2 days, 1.4 years."""
    for size, unit in ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return f"{seconds:.3g} s"
