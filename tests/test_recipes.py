"""The recipes against the catalogue."""

import pytest

from zoo import recipe, registry, symbolic

CATALOGUE = registry.load()
ALONE = ("/base/", "/ablations/")  # fragments; and what rows of harness/papers name, not the catalogue
COUNTED: dict[str, int] = {}  # parameters by what the weights depend on: recipes share stages


def test_every_recipe_file_is_in_the_catalogue() -> None:
    files = {path.relative_to(CATALOGUE.root).as_posix() for path in (CATALOGUE.root / "recipes").rglob("*.gin")}
    listed = {entry.file for entry in CATALOGUE.recipes.values()}
    assert listed == {file for file in files if not any(folder in file for folder in ALONE)}


@pytest.mark.parametrize("name", CATALOGUE.recipes)
def test_parameter_counts_are_those_of_the_catalogue(name: str) -> None:
    asked = recipe.load(str(CATALOGUE.root / CATALOGUE.recipes[name].file), [])
    shapes = {stage.name: stage.network for stage in asked.stages()}
    counted = {}
    for stage in asked.build().stages:
        if shapes[stage.name] not in COUNTED:
            COUNTED[shapes[stage.name]] = symbolic.build(stage).parameters
        counted[stage.name] = COUNTED[shapes[stage.name]]
    assert counted == CATALOGUE.recipes[name].parameters
