"""The sections of report.html, each a list of HTML parts; an empty list is a section with nothing to show."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import charts, measured, pages, published
from harness.class_accuracy import ClassAccuracy, write_pictures
from harness.rows import find_row
from zoo.console import UserError

Result = Mapping[str, Any]
Results = Mapping[str, Result]


def lead(workdir: Path, results: Results) -> str:
    """The line below the title: recipe, date and commit of the last command."""
    said = []
    try:
        account = json.loads((workdir / "run.json").read_text(encoding="utf-8"))
        last = account["invocations"][-1]
        said = [str(account.get("recipe", "")), str(last["date"])[:16].replace("T", " ") + " UTC"]
        said.append(f"commit {str(last['commit'])[:10]}{' with changes' if '+' in str(last['commit']) else ''}")
    except (OSError, ValueError, LookupError):
        said = [str(result["recipe"]) for result in results.values() if result.get("recipe")][:1]
    return ", ".join(part for part in said if part) or str(workdir)


def warnings(results: Results, stages: Sequence[Path]) -> list[str]:
    """What makes numbers less than they seem, and what went wrong in training."""
    found = []
    for name, result in results.items():
        found.append(pages.notice(f"Warnings of the scores of {name}", result.get("warnings", [])))
    for folder in stages:
        entries = _incidents(folder)
        title = f"Training of {folder.name} went astray {_times(len(entries))}"
        found.append(pages.notice(title, [f"{entry['problem']} (step {entry['seen']:,})" for entry in entries]))
    if not results:
        found.append(pages.notice("Nothing has been scored yet", ["run --do evaluate"]))
    return found


def scores(result: Result) -> list[str]:
    """Every number beside that of real images in the place of samples."""
    rows = [
        (measured.title(result, key), measured.show(result["metrics"], key), measured.show(result["floor"], key))
        for key in measured.keys(result)
    ]
    if result.get("classifier_accuracy") is not None:
        rows.append(("classifier, real held-out images", "-", f"{result['classifier_accuracy']:.3f}"))
    caption = f"{measured.place(result)}, {result['counts']['samples']:,} samples"
    return [pages.table(caption, ("protocol", "samples", "real images, as many"), rows)]


def beside(result: Result) -> list[str]:
    """The published rows that the recipe stands for or imitates, each by its own protocol."""
    parts = []
    for identity in result.get("rows", []):
        table, row = find_row(identity)
        place = published_place(table, row)
        cells = [(column.protocol(table), published.show(row.values.get(column.key))) for column in table.columns]
        parts.append(pages.table(f"{row.label}, {place} ({identity})", ("protocol", "published"), cells))
    if parts:
        parts.append(
            pages.paragraph(
                "A published number stands beside a measured one only where both follow one protocol. Scores by "
                "another feature network, of another count or resolution are other quantities."
            )
        )
    return parts


def published_place(table: published.Table, row: published.Row) -> str:
    """Dataset and resolution of a published row."""
    dataset = row.content.get("dataset") or table.content.get("dataset") or ""
    resolution = row.content.get("resolution")
    return f"{dataset} {resolution}x{resolution}" if resolution else str(dataset)


def samples(workdir: Path, name: str, result: Result) -> list[str]:
    """The picture of the first samples, and their nearest neighbours among the real images if they were looked for."""
    parts = []
    picture = workdir / "results" / f"{name}.png"
    if picture.is_file():
        caption = "The first samples in their order, not chosen. Where classes are few, a column is a class."
        parts.append(pages.picture(picture.read_bytes(), f"a grid of samples of {name}", caption))
    for path in sorted(workdir.glob(f"results/{name}*neighbour*.png")):
        caption = "Samples (first column) and the real images nearest to them in feature space, the nearest first."
        parts += [pages.heading("Nearest neighbours"), pages.picture(path.read_bytes(), "nearest neighbours", caption)]
    return parts


def classes(workdir: Path, name: str, result: Result) -> list[str]:
    """Accuracy of every class by samples and by real images, with samples of the best and the worst."""
    accuracy = ClassAccuracy.of_result(result)
    if accuracy is None:
        return []
    caption = (
        "Left: every class, by the accuracy that real images teach. Middle: the same, one against the other. Right: "
        f"the differences. Samples are ahead in {accuracy.above} of {len(accuracy.differences)} classes."
    )
    figure = charts.draw_classes(accuracy)
    parts = [pages.drawing(charts.to_svg(figure, f"classes {name}"), "accuracy class by class", caption)]
    pictures = write_pictures(result, _open_samples(workdir / "samples" / name), workdir / "results" / name)
    named = (("furthest ahead", accuracy.best()), ("furthest behind", accuracy.worst()))
    shown = []
    for path, (where, numbers) in zip(pictures[1:], named, strict=False):
        said = "; ".join(accuracy.describe(number) for number in numbers)
        caption = f"The classes in which samples are {where}, a row each. Top-1 accuracy: {said}."
        shown.append(pages.picture(path.read_bytes(), f"samples of the classes {where}", caption))
    return [*parts, pages.row(*shown)] if shown else parts


def limits(result: Result) -> list[str]:
    """What a reader must not take the numbers for."""
    network, counts = result["feature_network"], result["counts"]
    # Statistics of other programs do not say of how many images they are.
    real = "an unstated number of" if counts["reference"] is None else f"{counts['reference']:,}"
    said = [
        f"Features: {network['title']} (identity {network['identity']}); resize: {result['resize']}. Its scores "
        "compare with its own floor and with one another, never with scores by another network"
        + ("." if network["title"] == "Inception" else ", such as Inception."),
        f"Reference: {result['reference']['name']}, {real} images; {counts['samples']:,} samples. A "
        "Frechet distance falls as samples grow in number: only equal counts compare.",
        "The floor is what real images score in the place of samples: no samples can be expected to do better, and a "
        "difference that is small beside it means little.",
        "One training and one set of samples: another seed gives other numbers.",
    ]
    if result.get("by_class"):
        images = [count for count in result["by_class"]["images"] if count]
        counted = f"{min(images):,}" + (f" to {max(images):,}" if max(images) > min(images) else "")
        said.append(
            f"A class has {counted} test images: single classes differ by chance, so that "
            "some are ahead even where samples are worse throughout."
        )
    if network["title"] == "Inception":
        said.append("Inception was trained on ImageNet: it sees what tells ImageNet's classes apart, and little else.")
    return [pages.bullets(said)]


def provenance(result: Result) -> list[str]:
    """Hashes, seeds and versions."""
    content: dict[str, object] = {
        "recipe": result.get("recipe", "-"),
        "commit": result.get("commit", "-"),
        "seed": result.get("seed", "-"),
        "reference": f"{result['reference']['name']}, fingerprint {result['reference']['fingerprint']}",
        "samples": f"{result['sample_set']['name']}, fingerprint {result['sample_set']['fingerprint']}",
        "feature network": ", ".join(f"{name} {value}" for name, value in result["feature_network"].items()),
        "versions": ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
    }
    for name, made in (result.get("samples") or {}).items():
        checkpoint = made.get("checkpoint") or {}
        sampler = made.get("sampler") or {}
        content[f"samples of stage {name}"] = (
            f"checkpoint of step {checkpoint.get('step', '-')}, weights {checkpoint.get('hash', '-')}, seed "
            f"{made.get('seed', '-')}, {sampler.get('class', '-')} with {sampler.get('steps', '-')} steps"
        )
    return [pages.facts("what the numbers depend on", content)]


def stage(folder: Path) -> list[str]:
    """Curves, incidents, scores of checkpoints and the newest grids of one stage."""
    parts = []
    if (folder / "metrics.csv").is_file():
        figure = charts.draw_curves({folder.name: charts.read_curves(folder / "metrics.csv")})
        if figure is None:
            parts.append(pages.paragraph("no curves yet"))
        else:
            drawn = charts.to_svg(figure, f"curves {folder.name}")
            parts.append(pages.drawing(drawn, f"training curves of {folder.name}", "Training, step by step."))
    parts += _selection(folder)
    rows = [
        (f"{entry['seen']:,}", entry["problem"], f"step {entry['restored']:,}", f"{entry['skipped']:,} batches")
        for entry in _incidents(folder)
    ]
    if rows:
        head = ("step", "what was seen", "gone back to", "left out")
        parts.append(pages.table("incidents", head, rows, numbers=False))
    newest = {path.stem.partition("-")[2]: path for path in sorted(folder.glob("grids/*.png"))}  # STEP-KIND: the last
    shown = []
    for kind, path in newest.items():
        caption = f"{kind or 'grid'}, step {int(path.stem.partition('-')[0]):,}, from seeds that stay the same"
        shown.append(pages.picture(path.read_bytes(), f"{folder.name} {kind}", caption))
    return [*parts, pages.row(*shown)] if shown else parts


def files(workdir: Path, results: Results) -> list[str]:
    """Recipe, account of the run and results, folded away."""
    names = [name for name in ("recipe.gin", "operative.gin", "run.json") if (workdir / name).is_file()]
    parts = [pages.fold(name, (workdir / name).read_text(encoding="utf-8")) for name in names]
    texts = {f"results/{name}.json": json.dumps(result, indent=2) for name, result in results.items()}
    return parts + [pages.fold(name, text) for name, text in texts.items()]


def _selection(folder: Path) -> list[str]:
    path = folder / "selection.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(float(row["step"]), float(row["value"])) for row in csv.DictReader(file) if all(row.values())]
    if len(rows) < 2:
        return []
    step, best = min(rows, key=lambda row: row[1])
    drawn = charts.to_svg(charts.draw_scores(*zip(*rows, strict=True)), f"selection {folder.name}")
    return [pages.drawing(drawn, "scores of the checkpoints", f"The best is {best:.4g}, at step {int(step):,}.")]


def _incidents(folder: Path) -> list[dict[str, Any]]:
    """When training went astray, as the watchdog wrote it down."""
    path = folder / "incidents.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def _open_samples(folder: Path) -> Any:
    """The sample set of a stage, or None where it is not there or cannot be read."""
    from harness.samples import open_images

    try:
        return open_images(folder)
    except UserError:
        return None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
