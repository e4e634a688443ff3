"""A folder in use is locked: two processes never write into one."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.console import UserError
from zoo.locks import locked


def test_a_second_holder_is_told_who_has_it(tmp_path: Path):
    path = tmp_path / "stage" / ".lock"
    with locked(path, "the stage folder x"):
        message = rf"the stage folder x is in use by process {os.getpid()} on .* since \d{{4}}"
        with pytest.raises(UserError, match=message), locked(path, "the stage folder x"):
            pass
        with pytest.raises(UserError), locked(path, "it", shared=True):
            pass
    with locked(path, "it"):
        pass


def test_shared_holders(tmp_path: Path):
    path = tmp_path / ".lock"
    with locked(path, "it", shared=True), locked(path, "it", shared=True), pytest.raises(UserError), locked(path, "it"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    path = tmp_path / ".lock"
    program = "import sys, time\nfrom pathlib import Path\nfrom zoo.locks import locked\n"
    program += "with locked(Path(sys.argv[1]), 'it'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {process.pid} "), locked(path, "it"):
        pass
    process.kill()
    process.communicate()
    with locked(path, "it"):
        pass


def test_waiting_for_a_short_one(tmp_path: Path):
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError), locked(tmp_path / ".lock", "it", patience=0.1):
            pass


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / ".lock", "the folder"):
        said = capsys.readouterr().out
        assert "no locks on this file system: see to it that no other process writes into the folder" in said
