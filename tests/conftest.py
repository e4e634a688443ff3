"""Options and fixtures shared by the tests. TensorFlow is imported once, quietly, before anything else."""

from pathlib import Path

import pytest

from zoo.console import import_tensorflow

import_tensorflow()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=None,
        help="a folder of reference numbers; by default the few small files in tests/golden/",
    )


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of reference numbers that the golden tests read."""
    given = request.config.getoption("--golden")
    folder = Path(given) if given else Path(__file__).parent / "golden"
    if not folder.is_dir():
        raise pytest.UsageError(f"--golden {folder}: no such folder")
    return folder
