"""Options and fixtures shared by the tests. TensorFlow is imported once, quietly, before anything else."""

from pathlib import Path

import pytest

from zoo.console import import_tensorflow

import_tensorflow()

NOT_YET_COVERED = "not yet covered: "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=None,
        help="a folder of reference numbers; by default the few small files in tests/golden/",
    )


def golden_folder(config: pytest.Config) -> Path:
    """The folder of reference numbers that was asked for, or the project's own."""
    given = config.getoption("--golden")
    folder = Path(given) if given else Path(__file__).parent / "golden"
    if not folder.is_dir():
        raise pytest.UsageError(f"--golden {folder}: no such folder")
    return folder


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of reference numbers that the golden tests read."""
    return golden_folder(request.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists the reference files that no comparison reads yet; pytest itself would only count them."""
    reports = terminalreporter.stats.get("xfailed", [])
    reasons = [report.wasxfail for report in reports if report.wasxfail.startswith(NOT_YET_COVERED)]
    if reasons:
        terminalreporter.section(f"{len(reasons)} reference files not yet covered")
        for reason in reasons:
            terminalreporter.write_line(reason.removeprefix(NOT_YET_COVERED))
