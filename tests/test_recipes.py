"""The recipes against the catalogue."""

import pytest

from zoo import recipe, registry
from zoo.console import UserError

CATALOGUE = registry.load()
ALONE = ("/base/", "/ablations/")  # fragments; and what rows of harness/papers name, not the catalogue


def test_every_recipe_file_is_in_the_catalogue() -> None:
    files = {path.relative_to(CATALOGUE.root).as_posix() for path in (CATALOGUE.root / "recipes").rglob("*.gin")}
    listed = {entry.file for entry in CATALOGUE.recipes.values()}
    assert listed == {file for file in files if not any(folder in file for folder in ALONE)}


def test_a_value_that_a_part_further_down_refuses_is_placed() -> None:
    with pytest.raises(UserError, match=r"^command line: base/DDIMSampler.steps: .*steps 'ddim300': no integer"):
        recipe.load("quickstart", ["base/DDIMSampler.steps = 'ddim300'"]).build()


def test_what_is_bound_in_vain_is_told_its_place() -> None:
    with pytest.raises(UserError, match=r"@Likelihood\(\), such as Pipeline.likelihood = @Likelihood"):
        recipe.load("quickstart", ["Likelihood.steps = 10"]).require_names()


@pytest.mark.parametrize(
    ("name", "cure"),
    [("recipes/quikstart.gin", "mean 'recipes/quickstart.gin'"), ("recipes/zzz.gin", "--list")],
)
def test_a_recipe_that_is_not_there(name: str, cure: str) -> None:
    with pytest.raises(UserError, match=f"there is no recipe {name}; .*{cure}"):
        recipe.load(name)


def test_every_recipe_of_the_catalogue_says_its_size() -> None:
    """That it is true is what `--recipe recipes --do check` finds."""
    assert all(entry.parameters for entry in CATALOGUE.recipes.values())
