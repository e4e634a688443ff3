"""CLIP as a judge of images and their captions: keras-hub's network, with weights from a local folder."""

import functools
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo.console import UserError, quiet

# Of the colours that CLIP was trained on, in units of 255 (openai/CLIP, and all OpenCLIP models of keras-hub).
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LENGTH = 77  # tokens of a caption; longer ones are cut
BATCH = 64  # images and captions at a time
NAMES = {(768, 12, 32): "ViT-B/32", (768, 12, 16): "ViT-B/16", (1024, 24, 14): "ViT-L/14", (1280, 32, 14): "ViT-H/14"}
USUAL = 224  # pixels a side
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
FILES = (CONFIG, WEIGHTS, "tokenizer.json", "assets/tokenizer/vocabulary.json", "assets/tokenizer/merges.txt")


class CLIP:
    """The two encoders of a keras-hub preset folder.

    Images are resized as the published CLIP does it, by Pillow's bicubic filter with antialiasing, whatever the
    preset's own converter says: the shorter side to the network's size, then the middle square. Nothing is downloaded.

    Args:
        folder: with config.json, model.weights.h5, tokenizer.json and assets/tokenizer, as `save_to_preset` writes
            it or as the preset is distributed.

    Attributes:
        facts: what a result records of it (JSON-able).

    Raises:
        UserError: keras-hub is not installed, or the folder is no preset of CLIP.
    """

    def __init__(self, folder: Path):
        check_folder(folder)
        keras_hub = _import_keras_hub()
        try:
            # An absolute path is never taken for the name of a preset to download.
            place = str(Path(folder).resolve())
            self._network = keras_hub.models.CLIPBackbone.from_preset(place)
            self._tokenizer = keras_hub.models.CLIPTokenizer.from_preset(place)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is no preset of CLIP that keras-hub can read: {error}") from error
        self.size = int(self._network.vision_encoder.image_shape[0])
        self.facts: Mapping[str, Any] = {
            "title": title(folder),
            "weights": weights_hash(folder),
            "dimensions": int(self._network.projection_dim),
            "input": f"{self.size}x{self.size} pixels, colours normalised",
            "resize": "bicubic with antialiasing (Pillow), the middle square",
        }
        self._encode_images = tf.function(self._network.get_vision_embeddings, reduce_retracing=True)
        self._encode_tokens = tf.function(self._network.get_text_embeddings, reduce_retracing=True)

    def similarities(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """The cosine between each image, uint8 [N, H, W, C], and its caption: float32 [N]."""
        if len(images) != len(captions):
            raise ValueError(f"one caption for each image: {len(captions)} captions, {len(images)} images")
        found = []
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            looks = _unit(self._encode_images(self.prepare(images[part])).numpy())
            words = _unit(self._encode_tokens(self.tokens(captions[part])).numpy())
            found.append((looks * words).sum(axis=1))
        return np.concatenate(found)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 1 or 3] -> float32 [N, size, size, 3], of about zero mean."""
        height, width = images.shape[1:3]
        shorter = min(height, width)
        # The whole image first, then the middle, in whole pixels: as torchvision, which the published CLIP uses.
        to = (self.size * width // shorter, self.size * height // shorter)
        left, top = (round((length - self.size) / 2) for length in to)
        part = (slice(top, top + self.size), slice(left, left + self.size))
        pictures = [Image.fromarray(np.broadcast_to(image, (height, width, 3))) for image in images]
        resized = [np.asarray(picture.resize(to, Image.Resampling.BICUBIC))[part] for picture in pictures]
        scaled = np.stack(resized).astype(np.float32) / 255
        return (scaled - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)

    def tokens(self, captions: Sequence[str]) -> np.ndarray:
        """int32 [N, 77]: start, the words, end; then zeros. The network finds the end as the largest number.

        Text loses its HTML entities first, as in the published CLIP; its repair of wrongly decoded letters (ftfy) is
        left out.
        """
        start, end = self._tokenizer.start_token_id, self._tokenizer.end_token_id
        found = np.zeros((len(captions), LENGTH), np.int32)
        plain = [html.unescape(html.unescape(caption)) for caption in captions]
        for row, words in zip(found, self._tokenizer(plain), strict=True):
            kept = [start, *np.asarray(words).tolist()[: LENGTH - 2], end]
            row[: len(kept)] = kept
        return found


def check_folder(folder: Path) -> None:
    """Fails where a folder cannot be a preset of CLIP; cheap, and without keras-hub.

    Raises:
        UserError: what is missing.
    """
    absent = [name for name in FILES if not (Path(folder) / name).is_file()]
    if absent:
        raise UserError(
            f"{folder} is no preset of CLIP: {', '.join(absent)} not there; download one of keras-hub's presets (such "
            "as clip_vit_large_patch14) on a machine with a network, and give its folder"
        )
    if _config(folder).get("class_name") != "CLIPBackbone":
        raise UserError(f"{folder} is a preset of {_config(folder).get('class_name')}: give one of CLIPBackbone")


def title(folder: Path) -> str:
    """'CLIP ViT-L/14 1a2b3c': the network, and the beginning of the hash of its weights."""
    vision = _config(folder)["config"]["vision_encoder"]["config"]
    shape = (vision["hidden_dim"], vision["num_layers"], vision["patch_size"])
    name = NAMES.get(shape, "{}-wide, {} layers, patch {}".format(*shape))
    size = vision["image_shape"][0]
    return f"CLIP {name}{'' if size == USUAL else f' at {size}'} {weights_hash(folder)[:6]}"


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights file; read once."""
    path = Path(folder) / WEIGHTS
    return _hash(path, path.stat().st_mtime_ns)


@functools.cache
def _hash(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}/{CONFIG} is no configuration of keras-hub ({error}): download it again") from error


def _import_keras_hub() -> Any:
    try:
        with quiet():
            import keras_hub
    except ImportError as error:
        raise UserError(f"the CLIP score needs keras-hub ({error}): pip install -e '.[text]'") from error
    return keras_hub


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
