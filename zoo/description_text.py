"""The description of a pipeline (zoo/describe.py) as text for a terminal."""

from collections.abc import Callable
from typing import Any

from zoo.registry import WIDTH, short_count

LABEL_WIDTH = 24


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
        *_render_sampling_memory(stage, machine),
    ]
    return [f"{stage['name']}  {enlarges}{size}x{stage['width']}, {parts['source']}", *(_line(*row) for row in rows)]


def _render_classifier(stage: dict[str, Any]) -> list[tuple[str, str]]:
    return [("predicts", f"which of {stage['classes']:,} classes"), ("optimizer", stage["parts"]["optimizer"])]


def _render_method(stage: dict[str, Any]) -> list[tuple[str, str]]:
    parts = stage["parts"]
    return [
        ("predicts", f"{parts['target']}, {parts['variance']}, {parts['loss']}"),
        *([("learns from", f"'{parts['teacher']}', {parts['distillation']}")] if parts["teacher"] else []),
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


def _render_sampling_memory(stage: dict[str, Any], machine: dict[str, Any]) -> list[tuple[str, str]]:
    memory = stage["sampling_memory"]
    if memory is None:
        return []
    images, most = stage["sampling_images"], stage["sampling_images_that_fit"]
    held = [f"{_bytes(memory[key])} {name}" for key, name in _SAMPLING if memory[key]]
    each = memory["activations"] / images
    verdict = "fits" if most >= images else f"SampleSet.batch = {most:,} fits" if most else "does not fit"
    return [
        ("sampling holds", ", ".join(held[:2])),
        *(("", ", ".join(held[i : i + 2])) for i in range(2, len(held), 2)),
        ("  and activations", f"{_bytes(memory['activations'])}: {images:,} x {_bytes(each)}"),
        ("  together", f"{_bytes(stage['sampling_memory_bytes'])} of {_usable(machine)}: {verdict}"),
    ]


_SAMPLING = (
    ("weights", "weights"),
    ("guide_weights", "classifier"),
    ("half_weights", "half-precision weights"),
    ("inputs", "inputs"),
    ("program", "program"),
)


def _usable(machine: dict[str, Any]) -> str:
    return _bytes(machine["usable_fraction"] * machine["memory_bytes"])


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
    verdict = "fits" if stage["fits"] else "does not fit"
    rows.append(("memory a replica", f"{_bytes(stage['memory_bytes'])} of {_usable(machine)}: {verdict}"))
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
