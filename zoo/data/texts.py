"""Captions as embeddings: made once by a frozen encoder, kept on the disk, looked up while training and sampling."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.console import UserError, progress, say
from zoo.data import keyed
from zoo.data.text_encoders import TextEncoder
from zoo.locks import locked
from zoo.whole_files import writing

PART = 4096  # captions in a file: what is lost at most when the encoding of many stops
VERSION = 1  # of the files
ENCODER = "encoder.json"  # in a folder of embeddings: whose they are
PATIENCE = 7 * 86_400.0  # seconds in which another process may make the same embeddings
PLACE = "ZOO_TEXTS"  # environment variable
CURE = (
    f"make room, or name another folder by Texts.directory or the environment variable {PLACE}; what was finished is "
    "kept"
)


class Texts:
    """How a stage is told captions: the embeddings of a frozen encoder, padded with rows of zeros to one length.

    The embeddings of a split's captions are computed when they are first needed, and kept as float16 in files found by
    the hash of the captions and of the encoder's identity: another run, stage or worker reads them. The encoder itself
    is loaded only where something is not there yet (`--do embed` makes all that training and sampling need, for a
    machine that has no encoder).

    Args:
        encoder: of the captions.
        length: tokens; what goes beyond is cut off.
        directory: where embeddings are kept; None takes the folder that the environment variable ZOO_TEXTS names, else
            the user's cache.
    """

    def __init__(self, encoder: TextEncoder, length: int, directory: str | None = None) -> None:
        if length < 1:
            raise ValueError(f"length must be positive, got {length}")
        self.encoder, self.length, self.directory = encoder, length, directory
        self._tables: list[Table] = []
        self._rows: dict[str, tuple[int, int]] = {}  # caption -> table, row
        self._stored: dict[str, Any] | None = None  # identity of an encoder that is not here, only its embeddings

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on, as plain data.

        Raises:
            UserError: neither the encoder is here, nor were embeddings of it found.
        """
        return {**(self._stored or self.encoder.identity()), "length": self.length}

    def keep(self, captions: Iterable[str], title: str) -> None:
        """Sees to it that the embeddings of these captions are on the disk: what `__call__` looks up is quick then.

        Where the encoder is not on this machine, embeddings that another one has made will do.
        """
        wanted = list(dict.fromkeys(caption for caption in captions if caption not in self._rows))
        if not wanted:
            return
        key = hashlib.sha256(json.dumps([VERSION, self.length, wanted]).encode())
        folder = self._of_encoder(self._folder / key.hexdigest()[:20])
        with locked(folder.parent / f".{folder.name}.lock", f"the folder of embeddings {folder}", patience=PATIENCE):
            table = Table(folder, wanted, self.encoder, self.length, title)
        self._rows |= {caption: (len(self._tables), row) for row, caption in enumerate(wanted)}
        self._tables.append(table)

    def _of_encoder(self, folder: Path) -> Path:
        """The folder of this encoder below that of some captions."""
        try:
            identity = self._stored or self.encoder.identity()
        except UserError:
            found = [path for path in sorted(folder.glob(f"*/{ENCODER}")) if path.is_file()]
            if len(found) != 1:
                raise
            self._stored = json.loads(found[0].read_text(encoding="utf-8"))
            return found[0].parent
        text = json.dumps(identity, sort_keys=True, indent=1)
        place = folder / hashlib.sha256(text.encode()).hexdigest()[:20]
        if not (place / ENCODER).is_file():
            with writing(place / ENCODER, CURE) as file:
                file.write(text.encode())
        return place

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [N, length, width]; rows of zeros follow the last token of a caption."""
        found = np.zeros((len(captions), self.length, self.encoder.width), np.float32)
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._rows]
        # Rounded as those on the disk are: a caption is the same wherever it comes from.
        made = zip(new, self.encoder.encode(new, self.length), strict=True) if new else ()
        others = {caption: embedding.astype(np.float16) for caption, embedding in made}
        for row, caption in zip(found, captions, strict=True):
            embedding = others.get(caption)
            if embedding is None:
                table, place = self._rows[caption]
                embedding = self._tables[table][place]
            row[: len(embedding)] = embedding
        return found

    def chosen(self, captions: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """As `__call__`, of one of several captions each.

        Args:
            captions: UTF-8 bytes [N], one caption a line.
            draws: float [N] in [0, 1): which of them.
        """
        lines = [text.decode().split("\n") for text in captions]
        return self([line[int(draw * len(line))] for line, draw in zip(lines, draws, strict=True)])

    def in_graph(self, captions: tf.Tensor, seed: int, numbers: tf.Tensor) -> tf.Tensor:
        """`chosen` inside tf.data: which caption is a function of the seed and the number of the element.

        Args:
            captions: string [N].
            numbers: int64 [N].
        """
        draws = keyed.graph_uniforms(seed ^ 0x7E, numbers)
        found = tf.numpy_function(self.chosen, [captions, draws], tf.float32, stateful=False)
        return tf.ensure_shape(found, [None, self.length, self.encoder.width])

    @property
    def _folder(self) -> Path:
        if self.directory or os.environ.get(PLACE):
            return Path(self.directory or os.environ[PLACE]).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "diffusion-zoo" / "texts"


class Table:
    """Embeddings float16 [tokens, width] of captions, in files of `PART` captions that are whole or not there.

    Args:
        folder: which nobody else writes other captions into.
        captions: in the order of the rows.
        encoder: called for the parts that are not there.
        length: most tokens of a caption.
        title: of the progress bar.
    """

    def __init__(self, folder: Path, captions: Sequence[str], encoder: TextEncoder, length: int, title: str) -> None:
        parts = [captions[start : start + PART] for start in range(0, len(captions), PART)]
        absent = [number for number in range(len(parts)) if not _paths(folder, number)[1].is_file()]
        if absent:
            encoder.check()
            with progress(len(captions), title, "captions", done=PART * (len(parts) - len(absent))) as bar:
                for number in absent:
                    _write_part(folder, number, encoder.encode(parts[number], length))
                    bar.update(len(parts[number]))
            encoder.forget()
            say(f"{title}: embeddings of {len(captions):,} captions in {folder}")
        self._parts = [_read(folder, number, len(part), encoder.width) for number, part in enumerate(parts)]

    def __getitem__(self, row: int) -> np.ndarray:
        starts, embeddings = self._parts[row // PART]
        place = row % PART
        return embeddings[starts[place] : starts[place + 1]]


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    """The files of a part: where each caption begins, and the embeddings, which are written last."""
    return folder / f"starts-{number:05d}.npy", folder / f"part-{number:05d}.npy"


def _read(folder: Path, number: int, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    starts_path, path = _paths(folder, number)
    try:
        starts, embeddings = np.load(starts_path), np.load(path, mmap_mode="r")
        if embeddings.ndim == 2 and embeddings.shape[1] != width:
            raise UserError(
                f"embeddings in {path} have {embeddings.shape[1]} numbers, and the encoder of the recipe {width}: they "
                "are another encoder's"
            )
        if len(starts) == count + 1 and embeddings.shape == (starts[-1], width):
            return starts, embeddings
        reason = "it does not fit the other file"
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    raise UserError(f"embeddings in {path} are damaged ({reason}): delete {folder}, and they are made anew")


def _write_part(folder: Path, number: int, embeddings: Sequence[np.ndarray]) -> None:
    starts = np.cumsum([0, *(len(embedding) for embedding in embeddings)])
    arrays = (starts, np.concatenate(embeddings).astype(np.float16))
    for path, array in zip(_paths(folder, number), arrays, strict=True):
        with writing(path, CURE) as file:
            np.save(file, array, allow_pickle=False)
