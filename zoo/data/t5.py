"""T5 as the encoder of captions: keras-hub's network, with weights from a local folder."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.console import UserError, quiet
from zoo.data.text_encoders import TextEncoder

BATCH = 32  # captions at a time
BUCKET = 16  # tokens: a batch is padded to a multiple, so that few lengths are compiled
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.weights.h5", "assets/tokenizer/vocabulary.spm"
FILES = (CONFIG, WEIGHTS, "tokenizer.json", VOCABULARY)
BLOCKS, BLOCK_BYTES = 256, 2**16  # of a weights file that its fingerprint is made of


class T5Encoder(TextEncoder):
    """The encoder half of a T5 of keras-hub, frozen: the last layer's output for every token (Imagen, section 2.1).

    A caption goes in as it is written, without a task's prefix, and ends with T5's end of sentence. keras-hub loads
    both halves before one is dropped: of T5 1.1 XXL 44.5 GB in float32, so one machine computes embeddings for all.
    Nothing is downloaded.

    Args:
        folder: a preset of keras-hub as it is distributed, or as `save_to_preset` writes it; t5_1.1_xxl is the
            encoder of Imagen and of simple diffusion.
        width: numbers in an embedding, 4,096 of t5_1.1_xxl.
    """

    def __init__(self, folder: str, width: int) -> None:
        if not folder:
            raise ValueError("folder must be the path of a preset of T5, got ''")
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.folder, self.width = folder, width
        self._loaded: tuple[Any, Any] | None = None

    def check(self) -> None:
        absent = [name for name in FILES if not (self._root / name).is_file()]
        if absent:
            raise UserError(
                f"{self.folder} is no preset of T5: {', '.join(absent)} not there; download one of keras-hub's presets "
                "(such as t5_1.1_xxl) on a machine with a network, and name its folder by T5Encoder.folder"
            )
        config = self._config()
        if config.get("class_name") != "T5Backbone":
            raise UserError(f"{self.folder} is a preset of {config.get('class_name')}: give one of T5Backbone")
        found = config["config"]["hidden_dim"]
        if found != self.width:
            raise UserError(f"{self.folder} has embeddings of {found} numbers, but T5Encoder.width is {self.width}")
        _import_keras_hub()

    def identity(self) -> dict[str, Any]:
        """Name, and hashes of vocabulary and weights: a model with other weights is found by reading 16 MB of them."""
        absent = [name for name in FILES if not (self._root / name).is_file()]
        if absent:
            self.check()
        weights = self._root / WEIGHTS
        return {
            "encoder": "T5",
            "config": self._config()["config"],
            "vocabulary": hashlib.sha256((self._root / VOCABULARY).read_bytes()).hexdigest()[:20],
            "weights": fingerprint(weights, weights.stat().st_mtime_ns),
        }

    def encode(self, captions: Sequence[str], length: int) -> list[np.ndarray]:
        network, tokenizer = self._load()
        end = tokenizer.end_token_id
        tokens = [[*np.asarray(words).tolist()[: length - 1], end] for words in tokenizer(list(captions))]
        found: list[np.ndarray] = []
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            wide = -(-max(map(len, part)) // BUCKET) * BUCKET
            ids, mask = (
                np.full((len(part), wide), tokenizer.pad_token_id, np.int32),
                np.zeros((len(part), wide), np.int32),
            )
            for row, own in enumerate(part):
                ids[row, : len(own)], mask[row, : len(own)] = own, 1
            output = np.asarray(network.predict_on_batch({"encoder_token_ids": ids, "encoder_padding_mask": mask}))
            found += [rows[: len(own)].astype(np.float32) for rows, own in zip(output, part, strict=True)]
        return found

    def forget(self) -> None:
        self._loaded = None

    @property
    def _root(self) -> Path:
        return Path(self.folder).expanduser()

    def _config(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self._root / CONFIG).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.folder}/{CONFIG} cannot be read ({error}): download the preset again") from error

    def _load(self) -> tuple[Any, Any]:
        """The encoder, token ids and mask [B, T] -> [B, T, width], and its tokenizer."""
        if self._loaded is None:
            self.check()
            hub = _import_keras_hub()
            # An absolute path is never taken for the name of a preset to download.
            place = str(self._root.resolve())
            try:
                whole, tokenizer = hub.models.T5Backbone.from_preset(place), hub.models.T5Tokenizer.from_preset(place)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.folder} is no preset of T5 that keras-hub can read: {error}") from error
            inputs = {name: whole.input[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
            self._loaded = keras.Model(inputs, whole.output["encoder_sequence_output"]), tokenizer
        return self._loaded


@functools.cache
def fingerprint(path: Path, changed: int) -> str:
    """A hash of the size of a file and of blocks spread evenly over it: 44 GB would take minutes at every start."""
    size = path.stat().st_size
    content = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(BLOCKS):
            file.seek(block * max(0, size - BLOCK_BYTES) // (BLOCKS - 1))
            content.update(file.read(BLOCK_BYTES))
    return content.hexdigest()[:20]


def _import_keras_hub() -> Any:
    try:
        with quiet():
            import keras_hub
    except ImportError as error:
        raise UserError(f"T5 needs keras-hub ({error}): pip install -e '.[text]'") from error
    return keras_hub
