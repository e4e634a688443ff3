"""Files that PyTorch itself wrote (tests/pytorch), read without it; and with PyTorch, the whole way of a checkpoint."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from test_convert import convert, equal, files, state, stored

from zoo.console import UserError
from zoo.convert.torch_writing import write_state_dict
from zoo.convert.weight_files import read_weights

__all__ = ["files", "state"]  # fixtures
FOLDER = Path(__file__).parent / "pytorch"
LAYOUTS = ["weights.pt", "weights_legacy.pt"]
ROW = np.arange(12, dtype=np.float32) / np.float32(7) - np.float32(0.5)
EXPECTED = {
    "out.0.weight": ROW.reshape(3, 4),
    "out.0.turned": ROW.reshape(3, 4).T,
    "out.0.part": ROW[5:9],
    "out.0.spread": ROW[::3],
    "out.0.one": np.array(0.1, np.float32),
    "out.0.none": np.zeros((0, 4), np.float32),
    "out.2.weight": ROW.astype(np.float64).reshape(1, 12, 1, 1),
    "half": ROW.astype(np.float16),
    "brain": ROW.astype(ml_dtypes.bfloat16),
    "steps": np.arange(-3, 3),
    "bytes": np.arange(5, dtype=np.uint8),
    "flags": ROW > 0,
}


def bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, array.tobytes()


@pytest.fixture(scope="session")
def torch() -> Any:
    reason = "PyTorch is not installed (pip install -e '.[torch]'): the files of tests/pytorch stand for it"
    return pytest.importorskip("torch", reason=reason)


@pytest.mark.parametrize("name", [*LAYOUTS, "weights.safetensors"])
def test_files_that_pytorch_wrote_have_these_bits(name: str):
    found = read_weights(FOLDER / name)
    assert {name: bits(array) for name, array in found.items()} == {
        name: bits(array) for name, array in EXPECTED.items()
    }
    if name in LAYOUTS:
        assert list(found) == list(EXPECTED)


@pytest.mark.parametrize("name", ["carries_code.pt", "carries_code_legacy.pt"])
def test_a_pickle_that_would_make_a_file_makes_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"asks for (_?io)\.open, which is neither a tensor nor .*: refused"):
        read_weights(FOLDER / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*LAYOUTS, "weights.safetensors"])
def test_a_cut_file_is_one_message_wherever_it_was_cut(name: str, tmp_path: Path):
    whole, cut = (FOLDER / name).read_bytes(), tmp_path / name
    for length in range(0, len(whole), 23):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError) as raised:
            read_weights(cut)
        assert str(cut) in str(raised.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_altered_file_is_one_message_or_nothing_to_tell(name: str, tmp_path: Path):
    """A byte that was altered on the way; the old layout has no checksums of its numbers."""
    whole, altered, refused = (FOLDER / name).read_bytes(), tmp_path / name, 0
    for place in range(0, len(whole), 13):
        altered.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert all(isinstance(array, np.ndarray) for array in read_weights(altered).values())
        except UserError:
            refused += 1
    assert refused > 10


# ------------------------------------------------------------------ with PyTorch


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_pytorch_and_the_same_as_safetensors_become_the_same_run(
    torch: Any, files: Path, state: dict[str, np.ndarray], zipped: bool
):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, files / "theirs.pt", _use_new_zipfile_serialization=zipped)
    safetensors.save_file(tensors, files / "theirs.safetensors")
    runs = [
        convert(files, "--weights", str(files / f"theirs{ending}"), "--step", "7", out=f"run{ending}")
        for ending in (".pt", ".safetensors")
    ]
    one, other = ({name: bits(array) for name, array in stored(run, "ema").items()} for run in runs)
    assert one == other == {name: bits(array) for name, array in state.items()}


def test_pytorch_reads_what_is_written_here(torch: Any, tmp_path: Path, state: dict[str, np.ndarray]):
    write_state_dict(tmp_path / "mine.pt", state)
    found = torch.load(tmp_path / "mine.pt", weights_only=True)
    assert equal({name: tensor.numpy() for name, tensor in found.items()}, state)


def test_the_committed_files_are_what_pytorch_reads(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in LAYOUTS:
        for key, tensor in torch.load(FOLDER / name, weights_only=True).items():
            plain = tensor.detach()
            array = plain.float().numpy().astype(ml_dtypes.bfloat16) if key == "brain" else plain.numpy()
            assert bits(array) == bits(EXPECTED[key])
    loaded = torch.load(FOLDER / "carries_code.pt", weights_only=False)  # it does make a file, where it is let
    loaded["more"].close()
    assert (tmp_path / "made-by-a-pickle").is_file()
