"""The table of a folder of recipes."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import tiny

from zoo import overview, registry, symbolic
from zoo.registry import RecipeEntry


@pytest.mark.parametrize("published", [None, 0, 1])
def test_every_stage_is_a_row_beside_what_the_catalogue_says(tmp_path: Path, published: int | None):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "fragment.gin").write_text("Pipeline.seed = 3\n")
    file = Path(shutil.copy(tiny.RECIPE, tmp_path / "mine.gin"))
    counted = {stage.name: symbolic.build(stage).parameters for stage in tiny.pipeline().stages}
    catalogue = registry.load()
    if published is not None:
        said = {name: count + published for name, count in counted.items()}
        recipes = {"mine": RecipeEntry("mine", str(file), "", None, "shapes", parameters=said)}
        catalogue = dataclasses.replace(catalogue, recipes=recipes)
    rows = list(overview.rows(tmp_path, [], catalogue))
    assert [(row.recipe, row.stage, row.parameters) for row in rows] == [("mine", *item) for item in counted.items()]
    verdict = {None: "", 0: "equal", 1: "OTHER"}[published]
    assert all(verdict in overview.render(row) for row in rows)
    assert all(("OTHER" in overview.render(row)) == (published == 1) for row in rows)
