"""What `--do likelihood` shows: bits per dimension on the screen and in report.html, and the curves of their terms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import charts, measured, pages
from zoo.whole_files import write_bytes

SUFFIX = "-likelihood"
WIDTH, CELL = 80, 20
CAPTION = (
    "What each step costs, from little noise to much (left), how far off the image is that is predicted there, and the "
    "noise that this image implies. The terms on the left add up to the bits per dimension."
)


def read_likelihoods(workdir: Path) -> dict[str, dict[str, Any]]:
    """The likelihoods of a work directory by stage.

    Raises:
        UserError: a file is damaged.
    """
    found = sorted(Path(workdir).glob(f"results/*{SUFFIX}.json"))
    return {path.stem.removesuffix(SUFFIX): measured.read_result(path) for path in found}


def render(result: Mapping[str, Any]) -> list[str]:
    """The lines of the screen."""
    rows = [f"{label:<{WIDTH - CELL}}{value:>{CELL}}" for label, value in numbers(result)]
    return ["", f"{result['stage']}: {protocol(result)}", "-" * WIDTH, *rows, *left_out(result), "-" * WIDTH]


def numbers(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured, as rows of a table."""
    error = result["standard_error"]
    spread = "" if error is None else f" ± {error:.4f}"
    return [
        ("bits per dimension (± standard error over images)", f"{result['bits_per_dimension']:.4f}{spread}"),
        ("  L_0: the image, given the first step", f"{result['last_bits']:.4f}"),
        ("  L_1 .. L_(T-1): the steps", f"{result['divergences']:.4f}"),
        ("  L_T: what the noise still tells", f"{result['prior']:.3g}"),
    ]


def protocol(result: Mapping[str, Any]) -> str:
    """What the numbers are of: images, split and steps."""
    steps = f"{len(result['terms']['step']):,} of {result['trained_steps']:,} steps"
    return f"{measured.place(result)}, {result['images']:,} images of split '{result['split']}', {steps}"


def left_out(result: Mapping[str, Any]) -> list[str]:
    """Images that could not be read, in words."""
    missing = result["records"] - result["images"]
    named = "; ".join(result["left_out"][:3])
    return [f"note: {missing} images could not be read and are left out: {named}"] if missing else []


def write_picture(result: Mapping[str, Any], path: Path) -> None:
    """The curves as PNG."""
    write_bytes(path, charts.to_png(charts.draw_terms(result["terms"])))


def section(name: str, result: Mapping[str, Any]) -> list[str]:
    """Of report.html."""
    figure = charts.draw_terms(result["terms"])
    made_from = result["made_from"]
    about = {
        "checkpoint": f"step {made_from['checkpoint']['step']:,}, {made_from['checkpoint']['hash']}",
        "average": made_from.get("ema", "the first of Training.ema"),
        "commit": result["commit"],
        "seed of the noise": result["seed"],
    }
    return [
        pages.table(protocol(result), ("", "bits per dimension"), numbers(result)),
        *[pages.paragraph(line) for line in left_out(result)],
        pages.drawing(charts.to_svg(figure, f"terms {name}"), "the terms of the bound over the steps", CAPTION),
        pages.facts("where the numbers come from", about),
    ]
