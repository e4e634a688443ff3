"""Every file that a full evaluation needs and this project does not hold: address, size, hash, and whether it is here.

    python -m harness.assets                                   the list
    python -m harness.assets --fetch inception-2015-graph      fetches one; again after a break: goes on

Files lie in the asset folder: $ZOO_ASSETS, else diffusion-zoo/assets in the
user's cache folder. A file that was fetched elsewhere is put there by hand.
"""

import argparse
import difflib
import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import yaml

from zoo.console import UserError, command, say
from zoo.download import asset_folder, is_offline

CATALOGUE = Path(__file__).parent / "assets.yaml"
INCEPTION_WEIGHTS = ("inception-2015-graph", "inception-2015-archive", "torch-fidelity-inception", "tfgan-inception")
"""The forms of the weights of FID's network, in the order in which they are looked for."""


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        kind: 'feature networks', 'references' or 'samples'.
        address: where it is published.
        file: its name in the asset folder.
        size: in bytes, where it is known.
        sha256: where it is known.
        about: what it is.
        rows: of published tables, 'paper/table/row', that were measured on it.
    """

    name: str
    kind: str
    address: str
    file: str
    size: int | None = None
    sha256: str | None = None
    about: str = ""
    rows: tuple[str, ...] = ()

    def path(self, folder: Path | None = None) -> Path:
        """Where it is when it is here."""
        return (asset_folder() if folder is None else folder) / self.file

    def places(self, folder: Path | None = None) -> tuple[Path, ...]:
        """Where it is looked for: the file, and the folder into which an archive was unpacked."""
        path = self.path(folder)
        unpacked = path.with_name(path.name.removesuffix(".tar.gz"))
        return (path,) if unpacked == path else (unpacked, path)


@functools.cache
def catalogue(path: Path = CATALOGUE) -> dict[str, Asset]:
    """All assets by name."""
    found = {}
    for kind, entries in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for name, entry in entries.items():
            file = entry.get("file") or PurePosixPath(urlsplit(entry["address"]).path).name
            rows = tuple(entry.get("rows", ()))
            facts = {key: entry[key] for key in ("size", "sha256", "about") if key in entry}
            found[name] = Asset(name, kind, entry["address"], file, rows=rows, **facts)
    return found


def asset(name: str) -> Asset:
    """An asset by name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    assets = catalogue()
    if name not in assets:
        near = difflib.get_close_matches(name, assets, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"there is no asset {name!r}{hint} `python -m harness.assets` lists all")
    return assets[name]


def asset_of_row(row: str) -> Asset | None:
    """The published sample batch of a row 'paper/table/row', or None where none was published."""
    return next((found for found in catalogue().values() if row in found.rows), None)


def find(name: str, offline: bool = False, folder: Path | None = None) -> Path:
    """Where an asset is; nothing is fetched.

    Args:
        offline: whether the message leaves out commands that use the network; ZOO_OFFLINE does the same.
        folder: the asset folder.

    Raises:
        UserError: it is not here; the message says how to get it and where to put it.
    """
    return find_any((name,), offline, folder)


def find_any(names: Sequence[str], offline: bool = False, folder: Path | None = None) -> Path:
    """Where the first of several equally good assets is.

    Raises:
        UserError: none is here.
    """
    wanted = [asset(name) for name in names]
    for place in (place for each in wanted for place in each.places(folder)):
        if place.exists():
            return place
    first = wanted[0]
    others = f" (or, equally good: {', '.join(names[1:])})" if len(names) > 1 else ""
    way = f"put {first.address} at {first.path(folder)}"
    if not (offline or is_offline()):
        way = f"python -m harness.assets --fetch {first.name} fetches it; without a network here, {way}"
    raise UserError(f"{first.name}{others} is not here: {way}")


def fetch(name: str, offline: bool = False, folder: Path | None = None) -> Path:
    """Where an asset is, fetched if it is not here yet.

    Raises:
        UserError: offline and not here, no network, no such file there, no space, or not the right content.
    """
    wanted = asset(name)
    if any(place.exists() for place in wanted.places(folder)):
        return find(name, folder=folder)
    if offline or is_offline():
        return find(name, True, folder)  # says where to put it
    from zoo.download import download

    download(wanted.address, wanted.path(folder), wanted.name, wanted.sha256, wanted.size)
    return wanted.path(folder)


@dataclass(frozen=True)
class State:
    """What is here of an asset."""

    here: bool
    path: Path
    bytes: int
    """Of the file, or of the part that has come."""
    sha256: str | None
    """Published, or else recorded when it was fetched."""

    @staticmethod
    def of(wanted: Asset, folder: Path | None = None) -> "State":
        from zoo.download import part_of, recorded_hash

        path = next((place for place in wanted.places(folder) if place.exists()), wanted.path(folder))
        part = part_of(path)
        held = path if path.exists() else part if part.exists() else None
        size = sum(file.stat().st_size for file in [held, *held.rglob("*")] if file.is_file()) if held else 0
        return State(path.exists(), path, size, wanted.sha256 or recorded_hash(path))


def listing(folder: Path | None = None) -> list[dict[str, object]]:
    """Every asset and its state, JSON-able."""
    found = []
    for each in catalogue().values():
        state = State.of(each, folder)
        facts = asdict(each) | {"rows": list(each.rows), "sha256": state.sha256}
        found.append(facts | {"here": state.here, "path": str(state.path), "bytes_here": state.bytes})
    return found


def megabytes(size: int | None) -> str:
    """95673916 -> '95.7 MB'; '?' where it is not known."""
    return "?" if size is None else f"{size / 1e6:,.1f} MB"


def _print_list(folder: Path) -> None:
    say(f"asset folder: {folder}")
    kind = ""
    for each in catalogue().values():
        if each.kind != kind:
            kind = each.kind
            say(f"\n{kind}")
        say(f"  {each.name:40} {megabytes(each.size):>9}  {_state(each, folder)}")
        say(f"      {each.address}")
        notes = [each.about, f"rows {', '.join(each.rows)}" if each.rows else ""]
        for note in filter(None, notes):
            say(f"      {note}")
    say("\nfetch one with --fetch NAME, or put it into the asset folder under the name that its address ends in")


def _state(wanted: Asset, folder: Path) -> str:
    state = State.of(wanted, folder)
    if not state.here:
        return f"not here; {megabytes(state.bytes)} of it have come" if state.bytes else "not here"
    wrong = wanted.size is not None and state.path.is_file() and state.bytes != wanted.size
    size = f"here, but of {state.bytes} bytes, not {wanted.size}" if wrong else f"here, {megabytes(state.bytes)}"
    return size + (f", SHA-256 {state.sha256[:16]}..." if state.sha256 else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.assets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=asset_folder(), help="the asset folder (default %(default)s)")
    parser.add_argument("--fetch", metavar="NAME", action="append", default=[], help="fetch this file; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument("--offline", action="store_true", help="never use the network (or ZOO_OFFLINE=1)")
    options = parser.parse_args(arguments)
    for name in options.fetch:
        say(f"{name}: {fetch(name, options.offline, options.folder)}")
    if options.json:
        say(json.dumps({"folder": str(options.folder), "assets": listing(options.folder)}, indent=2))
    elif not options.fetch:
        _print_list(options.folder)


if __name__ == "__main__":
    command(main)
