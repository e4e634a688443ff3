"""What the recipes of rows say without being built: which experiment they are, and how long they train."""

from collections.abc import Mapping
from typing import Any

from harness.published import Way
from zoo import recipe, registry
from zoo.console import UserError
from zoo.recipe import Recipe, StageOutline
from zoo.registry import PROJECT, Registry


class RowRecipes:
    """Recipes with the bindings of rows, each read once. No TensorFlow.

    Args:
        catalogue: registry.yaml's where None.
    """

    def __init__(self, catalogue: Registry | None = None) -> None:
        self._signatures = recipe.Signatures(catalogue or registry.load())
        self._read: dict[tuple[str, tuple[str, ...]], Recipe] = {}
        self._identities: dict[tuple[str, tuple[str, ...]], str] = {}

    def recipe(self, way: Way) -> Recipe:
        """The recipe of a row.

        Raises:
            UserError: there is no such file.
        """
        key = way.recipe, way.bindings
        if key not in self._read:
            if not (PROJECT / way.recipe).is_file():
                raise UserError(f"there is no recipe {way.recipe}")
            self._read[key] = recipe.load(PROJECT / way.recipe, way.bindings, self._signatures)
        return self._read[key]

    def identity(self, way: Way) -> str:
        """See `Recipe.identity`."""
        key = way.recipe, way.bindings
        if key not in self._identities:
            self._identities[key] = self.recipe(way).identity()
        return self._identities[key]

    def made(self, content: Mapping[str, Any], way: Way) -> bool:
        """Whether a result was made by a row's recipe as it is now, from a checkpoint that the row names."""
        return content.get("recipe_identity") == self.identity(way) and content.get("checkpoint") in way.checkpoints

    def stages(self, way: Way) -> list[StageOutline]:
        """See `Recipe.stages`."""
        return self.recipe(way).stages()

    def budget(self, way: Way) -> str:
        """How much a row is trained: 'base 288,000 images, sr 57,600 images'."""
        return ", ".join(
            f"{stage.name} {stage.steps * stage.batch:,} images" if stage.steps and stage.batch else f"{stage.name} ?"
            for stage in self.stages(way)
        )


def compare_budgets(ways: Mapping[str, Way], recipes: RowRecipes) -> str:
    """One sentence on the training budgets of rows: equal, or where they differ.

    Args:
        ways: row -> how it is measured, all at one scale.
    """
    rows: dict[str, list[str]] = {}
    for row, way in ways.items():
        rows.setdefault(recipes.budget(way), []).append(row)
    if len(rows) == 1:
        every = "every row" if len(ways) > 1 else "the one row"
        return f"training budget of {every}: {next(iter(rows))}"
    parts = [f"{budget} ({', '.join(names)})" for budget, names in rows.items()]
    return f"training budgets differ: {'; '.join(parts)}"
