"""A declarative model zoo for diffusion models: recipes, networks, the method, training and sampling."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.experiment import Experiment

__version__ = "0.1.0"


def load(path: str | Path, workdir: str | Path | None = None) -> "Experiment":
    """A trained run, ready to be sampled: `zoo.load("runs/quickstart").sample(labels=[0, 1], seed=0)`.

    Args:
        path: a work directory, or a recipe (.gin).
        workdir: of a recipe; by default runs/NAME, as on the command line.

    Raises:
        zoo.console.UserError: when there is no recipe at `path`, or it is wrong.
    """
    from zoo.console import UserError, import_tensorflow

    path = Path(path)
    recipe_path = path / "recipe.gin" if path.is_dir() else path
    if not recipe_path.is_file():
        raise UserError(f"no run and no recipe at {path}: a run has a recipe.gin")
    import_tensorflow()
    from zoo import recipe as recipes
    from zoo.experiment import Experiment

    recipe = recipes.load(str(recipe_path), [])
    folder = path if path.is_dir() else Path(workdir or Path("runs") / path.stem)
    return Experiment(recipe, recipe.build(), folder)
