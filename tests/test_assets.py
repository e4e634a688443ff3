"""The list of files that an evaluation needs, and fetching them: resumed, checked, whole or not there."""

import contextlib
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness import assets
from harness.rows import find_row
from zoo import download
from zoo.console import UserError

CONTENT = bytes(range(256)) * 5000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """One file at /file, which the connection may lose in the middle."""

    content = CONTENT
    etag = '"one"'
    cut: int | None = None
    """Bytes after which the connection ends."""
    ranges = True
    asked: list[str | None]

    def do_GET(self) -> None:
        cls = type(self)
        wanted = self.headers.get("Range")
        cls.asked.append(wanted)
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and cls.ranges else 0
        if self.headers.get("If-Range", cls.etag) != cls.etag:
            start = 0
        if start and start >= len(cls.content):
            self.send_error(416)
            return
        body = cls.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", cls.etag)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(cls.content) - 1}/{len(cls.content)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have seen enough
            self.wfile.write(body if cls.cut is None else body[: cls.cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[type[Handler]]:
    handler = type("Handler", (Handler,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        handler.address = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield handler
        listening.shutdown()
        thread.join()


@pytest.fixture
def fake(server: type[Handler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of that server's files; the asset folder is returned."""
    entries = {
        "known": {"address": f"{server.address}/file", "file": "known.npz", "sha256": HASH, "size": len(CONTENT)},
        "unknown": {"address": f"{server.address}/file", "file": "unknown.npz", "size": 7},
        "gone": {"address": f"{server.address}/gone"},
        "nowhere": {"address": "http://127.0.0.1:9/file"},
    }
    path = tmp_path / "assets.yaml"
    path.write_text(yaml.safe_dump({"samples": entries}))
    listed = assets.catalogue(path)
    monkeypatch.setattr(assets, "catalogue", lambda: listed)
    monkeypatch.setenv("ZOO_ASSETS", str(tmp_path / "assets"))
    monkeypatch.delenv("ZOO_OFFLINE", raising=False)
    return tmp_path / "assets"


def test_a_file_is_fetched_once_and_its_hash_recorded(server, fake, capsys):
    path = assets.fetch("unknown")
    assert path == fake / "unknown.npz"
    assert path.read_bytes() == CONTENT
    assert "has 1280000 bytes, and 7 have been reported" in capsys.readouterr().out
    assert (fake / "unknown.npz.sha256").read_text() == f"{HASH}  unknown.npz\n"
    assert assets.fetch("unknown") == path
    assert server.asked == [None]
    assert sorted(file.name for file in fake.iterdir()) == ["unknown.npz", "unknown.npz.sha256"]
    assert assets.State.of(assets.asset("unknown")).sha256 == HASH


def test_a_broken_download_goes_on_where_it_stopped(server, fake):
    server.cut = 400_000
    with pytest.raises(UserError, match=r"400000 of 1280000 bytes came .* the same command goes on"):
        assets.fetch("known")
    assert not (fake / "known.npz").exists()
    assert (fake / "known.npz.part").stat().st_size == 400_000
    state = assets.State.of(assets.asset("known"))
    assert (state.here, state.bytes) == (False, 400_000)
    server.cut = None
    assert assets.fetch("known").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-"]
    assert not list(fake.glob("*.part*"))


def test_a_part_of_another_version_is_not_gone_on_with(server, fake):
    server.cut = 1000
    with pytest.raises(UserError, match="1000 of"):
        assets.fetch("unknown")
    server.cut, server.etag, server.content = None, '"two"', CONTENT[::-1]
    assert assets.fetch("unknown").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_the_whole_again(server, fake):
    server.cut, server.ranges = 1000, False
    with pytest.raises(UserError, match="1000 of"):
        assets.fetch("known")
    server.cut = None
    assert assets.fetch("known").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_whole_or_too_long(server, fake, length):
    """As after a kill between the last byte and the renaming."""
    fake.mkdir()
    (fake / "known.npz.part").write_bytes(bytes(length))
    assert assets.fetch("known").read_bytes() == CONTENT


def test_other_content_than_was_published_is_removed(server, fake):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=f"and {HASH} was published"):
        assets.fetch("known")
    assert not list(fake.glob("known.npz*"))


def test_what_cannot_be_fetched_says_why(server, fake, monkeypatch):
    with pytest.raises(UserError, match=r"/gone answers 404"):
        assets.fetch("gone")
    with pytest.raises(UserError, match=rf"connection to .* failed .*put it at {fake / 'file'}"):
        assets.fetch("nowhere")
    with pytest.raises(UserError, match="did you mean known or unknown"):
        assets.fetch("knwn")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="1 MB are to come"):
        assets.fetch("known")


def test_a_folder_that_cannot_be_written_is_one_message(server, fake):
    fake.write_text("a file in the place of the folder")
    with pytest.raises(UserError, match=r"cannot be written to .*another folder"):
        assets.fetch("known")


def test_two_processes_do_not_write_one_part(server, fake):
    with (
        download._locked(fake / "known.npz.part", "known"),
        pytest.raises(UserError, match="another process is fetching it"),
    ):
        assets.fetch("known")


def test_offline_never_asks(server, fake, monkeypatch):
    with pytest.raises(UserError, match=rf"known is not here: put .* at {fake / 'known.npz'}") as raised:
        assets.fetch("known", offline=True)
    assert "--fetch" not in str(raised.value)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    for ask in (assets.fetch, assets.find):
        with pytest.raises(UserError, match="known is not here: put"):
            ask("known")
    assert server.asked == []
    fake.mkdir()
    (fake / "known.npz").write_bytes(CONTENT)
    assert assets.fetch("known") == assets.find("known") == fake / "known.npz"


def test_find_says_how_to_get_it(fake):
    with pytest.raises(UserError, match=r"python -m harness.assets --fetch known .*known.npz"):
        assets.find("known")
    with pytest.raises(UserError, match="equally good: unknown"):
        assets.find_any(("known", "unknown"))
    fake.mkdir()
    (fake / "unknown.npz").touch()
    assert assets.find_any(("known", "unknown")) == fake / "unknown.npz"


def test_the_catalogue():
    listed = assets.catalogue()
    kinds = [entry.kind for entry in listed.values()]
    assert [kinds.count(kind) for kind in ("feature networks", "references", "samples")] == [4, 7, 27]
    assert set(assets.INCEPTION_WEIGHTS) == {
        entry.name for entry in listed.values() if entry.kind == "feature networks"
    }
    files = [entry.file for entry in listed.values()]
    assert len(files) == len(set(files))
    rows = [row for entry in listed.values() for row in entry.rows]
    assert len(rows) == len(set(rows)) == 31
    for row in rows:
        table, _, name = row.rpartition("/")
        find_row(f"{table}:{name}")
        assert assets.asset_of_row(row).kind == "samples"
    assert assets.asset_of_row("cdm/1a/cdm-32") is None


def test_the_command(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.assets", "--folder", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    (tmp_path / "classify_image_graph_def.pb").write_bytes(b"short")
    listed = json.loads(run("--json").stdout)["assets"]
    assert {entry["name"]: entry["here"] for entry in listed if entry["kind"] == "feature networks"} == {
        "inception-2015-graph": True,
        "inception-2015-archive": False,
        "torch-fidelity-inception": False,
        "tfgan-inception": False,
    }
    shown = run().stdout
    assert "here, but of 5 bytes, not 95673916" in shown
    assert "VIRTUAL_imagenet256_labeled.npz" in shown
    refused = run("--fetch", "imagenet256", "--offline")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: imagenet256 is not here: put https://openaipublic")
