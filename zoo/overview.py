"""The networks of many recipes in one table: what each stage is, and whether its size is what the catalogue says."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from zoo import cost, recipe, symbolic
from zoo.registry import Registry
from zoo.signatures import Signatures


@dataclass(frozen=True)
class Row:
    """A stage of a recipe.

    Attributes:
        parameters: of its network.
        published: what the catalogue says of it; None where it says nothing.
        flops: of a forward pass on one image.
        seconds: of a processor, that it took to build and trace the network.
    """

    recipe: str
    stage: str
    network: str
    size: int
    parameters: int
    published: int | None
    flops: int
    seconds: float


def rows(folder: Path, bindings: Sequence[str], catalogue: Registry) -> Iterator[Row]:
    """Every stage of every recipe of a folder, one after the other."""
    signatures = Signatures(catalogue)
    known = {(catalogue.root / entry.file).resolve(): entry for entry in catalogue.recipes.values()}
    for file in recipe.recipes_in(folder):
        entry = known.get(file.resolve())
        for stage in recipe.load(file, bindings, signatures).build().stages:
            began = time.process_time()
            traced = symbolic.build(stage)
            took = time.process_time() - began
            yield Row(
                file.relative_to(folder).with_suffix("").as_posix(),
                stage.name,
                type(stage.network).__name__,
                stage.size,
                traced.parameters,
                None if entry is None else entry.parameters.get(stage.name),
                cost.measure(traced).flops,
                took,
            )


HEADER = f"{'recipe':45} {'stage':10} {'pixels':>6} {'parameters':>13}  {'':6} {'GFLOPs':>7} {'s':>5}"


def render(row: Row) -> str:
    """A row in 100 columns; a longer name of a recipe makes it longer."""
    verdict = "" if row.published is None else "equal" if row.published == row.parameters else "OTHER"
    return (
        f"{row.recipe:45} {row.stage:10} {row.size:6} {row.parameters:13,}  {verdict:6} "
        f"{row.flops / 1e9:7,.1f} {row.seconds:5.1f}"
    )


def as_json(row: Row) -> dict[str, object]:
    """The row as plain data."""
    return asdict(row)
