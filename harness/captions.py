"""The captions that samples were made from: in their npz files, or in a file of their own."""

import json
from pathlib import Path

from harness.images import ImageSet
from harness.npz import read_array, read_headers
from harness.samples import ShardImages
from zoo.console import UserError

NAME = "captions"  # of the array in an npz file
FORMS = "a .txt file with one caption a line, a .json file with a list of strings, or an .npz file with `captions`"


def read_captions(samples: ImageSet, file: Path | None = None) -> list[str]:
    """One caption for every sample, in their order.

    Args:
        file: text (a caption a line), JSON (a list of strings) or npz (`captions`, an array of unicode strings); by
            default the arrays `captions` of the samples' own npz files.

    Raises:
        UserError: there are none, or not one for every sample.
    """
    if file is not None:
        found = _read_file(Path(file))
    elif isinstance(samples, ShardImages):
        found = [caption for shard in samples.files for caption in _read_npz(shard)]
    else:
        raise UserError(f"{samples.name} comes without captions: give them as {FORMS}")
    if len(found) != samples.count:
        raise UserError(
            f"{file or samples.name} has {len(found)} captions for {samples.count} samples: one for each, in order"
        )
    return found


def _read_file(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} is not there: give {FORMS}")
    if path.suffix == ".npz":
        return _read_npz(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): give {FORMS}") from error
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise UserError(f"{path} must hold a list of strings: give {FORMS}")
    return found


def _read_npz(path: Path) -> list[str]:
    header = read_headers(path).get(NAME)
    if header is None:
        raise UserError(f"{path} has no array `{NAME}`: save one, or give {FORMS}")
    if header.dtype.kind != "U" or len(header.shape) != 1:
        raise UserError(f"{path}: `{NAME}` must be unicode strings [N], got {header.dtype} {list(header.shape)}")
    return [str(caption) for caption in read_array(path, NAME)]
