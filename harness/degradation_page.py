"""The page of the degradation experiment: its table of signs, every number, and a picture of the curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.degradations import is_met

TITLES = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall", "is_one_split": "inception score"}
ARROWS = {1: "up", -1: "down"}
DPI = 100


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the page (Markdown) and, in figures/ beside it, its picture (PNG)."""
    figure = path.parent / "figures" / f"{path.stem}.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(figure, result)
    path.write_text("\n".join(lines(result, f"figures/{figure.name}")) + "\n", encoding="utf-8")


def lines(result: Mapping[str, Any], figure: str) -> list[str]:
    """The page, line by line."""
    images, reference, network = result["images"], result["reference"], result["feature_network"]
    accuracy = network.get("accuracy")
    seen = "" if accuracy is None else f", {accuracy:.1%} right on held-out images"
    found = [
        "# Degradations",
        "",
        f"{result['title']}: {images['count']:,} real images ({images['name']}) in the place of samples, against",
        f"{reference['count']:,} others ({reference['name']}), in the features of the {network['title']}{seen}.",
        "The images are made worse in four ways, a little more each time. Every level is held against whole images",
        "of the same number, for FID and recall depend on it. Written by `python -m harness.degradations`.",
        "",
        f"![Each number over the level of each degradation]({figure})",
        "",
        "## Signs",
        "",
        "FID and KID must go up at every level. Precision and recall must go down as the degradation grows: at the",
        "strongest level, and in no more pairs of levels back than on. Mild blur and noise raised precision when this",
        "was first measured, and the rule for it was loosened then from every level to this one: a cell says at how",
        "many levels a number goes its way, so that the reader may judge by the stricter rule.",
        "",
        "| degradation | " + " | ".join(TITLES.values()) + " |",
        "|---|" + "---|" * len(TITLES),
    ]
    found += [
        f"| {each['title']} | " + " | ".join(sign(each, key) for key in TITLES) + " |"
        for each in result["degradations"]
    ]
    found += [
        "",
        "In brackets: nothing is expected, and this is what was seen from the mildest level to the strongest.",
        "",
    ]
    for each in result["degradations"]:
        found += ["", *table(each)]
    found += [
        "",
        "Protocols: " + "; ".join(result["protocol"].values()) + ". In brackets: whole images of the same number.",
    ]
    return found


def sign(degradation: Mapping[str, Any], key: str) -> str:
    """One cell of the table of signs."""
    changes = [row["numbers"][key] - row["whole"][key] for row in degradation["levels"]]
    expected = degradation["expected"].get(key)
    if expected is None:
        return f"({'up' if changes[0] > 0 else 'down'} to {'up' if changes[-1] > 0 else 'down'})"
    held = sum(change * expected > 0 for change in changes)
    verdict = "met" if is_met(degradation, key) else "not met"
    where = "" if held == len(changes) else f", at {held} of {len(changes)} levels"
    return f"{ARROWS[expected]}: {verdict}{where}"


def table(degradation: Mapping[str, Any]) -> list[str]:
    """All numbers of one degradation."""
    found = [f"## {degradation['title']}", "", "| level | images | " + " | ".join(TITLES.values()) + " |"]
    found.append("|---|---|" + "---|" * len(TITLES))
    for row in degradation["levels"]:
        cells = [f"{row['numbers'][key]:.4g} ({row['whole'][key]:.4g})" for key in TITLES]
        found.append(f"| {row['level']:g} | {row['count']:,} | " + " | ".join(cells) + " |")
    return found


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """A row of axes for each number, a column for each degradation; dotted: whole images of the same number."""
    import matplotlib
    from matplotlib.figure import Figure

    degradations = result["degradations"]
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False}):
        figure = Figure(figsize=(2.4 * len(degradations), 1.5 * len(TITLES)), layout="constrained")
        axes = figure.subplots(len(TITLES), len(degradations), squeeze=False, sharey="row")
        for column, each in enumerate(degradations):
            levels = [row["level"] for row in each["levels"]]
            for row, (key, title) in enumerate(TITLES.items()):
                place = axes[row][column]
                place.plot(range(len(levels)), [found["numbers"][key] for found in each["levels"]], "o-", markersize=3)
                place.plot(range(len(levels)), [found["whole"][key] for found in each["levels"]], "k:", linewidth=1)
                if key in ("fid", "kid"):
                    place.set_yscale("symlog", linthresh=1.0 if key == "fid" else 1e-3)
                place.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
                if not column:
                    place.set_ylabel(title)
                if not row:
                    place.set_title(each["title"].replace(", ", ",\n", 1))
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
