"""Reference numbers: every comparison, and that every file of the folder is compared with or named as later work.

`pytest tests/test_golden.py --golden DIR` reads any folder of the layout that tests/golden/README.md describes.
"""

import json
from collections.abc import Callable
from pathlib import Path

import golden_adm
import golden_diffusion
import golden_images
import golden_inception
import golden_metrics
import golden_schedulers
import golden_wavelet
import numpy as np
import pytest
from conftest import NOT_YET_COVERED, golden_folder
from golden_arrays import Arrays

PARTS = (
    golden_adm,
    golden_diffusion,
    golden_images,
    golden_inception,
    golden_metrics,
    golden_schedulers,
    golden_wavelet,
)
CHECKS: dict[str, Callable[[Path], None]] = {name: check for part in PARTS for name, check in part.CHECKS.items()}
COVERS: set[str] = {file for part in PARTS for file in part.COVERS}

# The project's own folder is kept small: these comparisons need --golden.
SMALL = {"adm/unet_cond_updown"}
LARGE = {name for name in golden_adm.CHECKS if name not in SMALL}

NOT_YET: dict[str, str] = {}
TEXTS = {"MANIFEST.json", "README.md"}


def files(folder: Path) -> list[str]:
    """What the manifest names, where there is one, and whatever else lies in the folder."""
    manifest = folder / "MANIFEST.json"
    listed = set(json.loads(manifest.read_text())) if manifest.is_file() else set()
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted((listed | present) - TEXTS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "file" in metafunc.fixturenames:
        metafunc.parametrize("file", [parameter(name) for name in files(golden_folder(metafunc.config))])


def parameter(file: str) -> object:
    """A file's test; one of later work is expected to fail, and says so by name at the end of the run."""
    if file not in NOT_YET:
        return file
    return pytest.param(file, marks=pytest.mark.xfail(strict=True, reason=f"{NOT_YET_COVERED}{file} ({NOT_YET[file]})"))


@pytest.mark.golden
@pytest.mark.parametrize("name", CHECKS)
def test_numbers(name: str, golden: Path, request: pytest.FixtureRequest):
    if name in LARGE and request.config.getoption("--golden") is None:
        pytest.skip("too large for the project: give a full folder with --golden DIR")
    CHECKS[name](golden)


@pytest.mark.golden
def test_every_file_is_covered(file: str, golden: Path):
    assert (golden / file).is_file(), f"{file} is in MANIFEST.json and not in {golden}"
    assert file in COVERS, f"{file}: nothing compares with it; add a comparison, or name it in NOT_YET with the reason"


def test_every_covered_file_is_in_the_full_folder(golden: Path, request: pytest.FixtureRequest):
    if request.config.getoption("--golden") is None:
        pytest.skip("about a full folder: give one with --golden DIR")
    missing = sorted(file for file in COVERS if not (golden / file).is_file())
    assert not missing, f"not in {golden}: {missing}"


def test_an_array_without_comparison_fails(tmp_path: Path):
    np.savez(tmp_path / "numbers.npz", known=np.zeros(3), unknown=np.zeros(3))
    arrays = Arrays(tmp_path / "numbers.npz")
    arrays["known"]
    with pytest.raises(AssertionError, match=r"not covered: .*unknown"):
        arrays.close()


def test_a_stray_file_is_listed(tmp_path: Path):
    (tmp_path / "adm").mkdir()
    (tmp_path / "adm" / "new.npz").touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "MANIFEST.json").write_text('{"README.md": {}, "adm/old.npz": {}}')
    assert files(tmp_path) == ["adm/new.npz", "adm/old.npz"]
    assert not {"adm/new.npz", "adm/old.npz"} & (COVERS | set(NOT_YET))
