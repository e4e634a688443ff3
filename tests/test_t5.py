"""T5 as the encoder of captions, with an imitation of keras-hub and, where it is installed, with itself."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from zoo.console import UserError
from zoo.data.t5 import T5Encoder, fingerprint

WIDTH = 8


class Tokenizer:
    """A letter is a token."""

    end_token_id, pad_token_id = 1, 0

    def __call__(self, captions: list[str]) -> list[list[int]]:
        return [[2 + ord(letter) % 30 for letter in caption] for caption in captions]

    @classmethod
    def from_preset(cls, place: str) -> "Tokenizer":
        return cls()


class MeanOfTokens(keras.layers.Layer):
    """Adds to each token the mean of those that are there."""

    def call(self, x: Any, mask: Any) -> Any:
        weights = ops.cast(mask, x.dtype)[..., None]
        return x + ops.sum(x * weights, axis=1, keepdims=True) / ops.sum(weights, axis=1, keepdims=True)


def backbone(place: str) -> keras.Model:
    """As keras-hub's T5Backbone: four inputs by name, two outputs by name."""
    assert Path(place).is_absolute()
    given = {
        f"{half}_{name}": keras.Input((None,), dtype="int32", name=f"{half}_{name}")
        for half in ("encoder", "decoder")
        for name in ("token_ids", "padding_mask")
    }
    embedded = keras.layers.Embedding(40, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(seed=0))
    output = MeanOfTokens()(embedded(given["encoder_token_ids"]), given["encoder_padding_mask"])
    decoder = embedded(given["decoder_token_ids"]) * ops.cast(given["decoder_padding_mask"], "float32")[..., None]
    return keras.Model(given, {"encoder_sequence_output": output, "decoder_sequence_output": decoder})


def preset(root: Path, kind: str = "T5Backbone", weights: bytes = b"weights") -> Path:
    (root / "assets" / "tokenizer").mkdir(parents=True)
    (root / "assets" / "tokenizer" / "vocabulary.spm").write_bytes(b"words")
    (root / "config.json").write_text(json.dumps({"class_name": kind, "config": {"hidden_dim": WIDTH}}))
    (root / "tokenizer.json").write_text("{}")
    (root / "model.weights.h5").write_bytes(weights)
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    models = types.SimpleNamespace(T5Backbone=types.SimpleNamespace(from_preset=backbone), T5Tokenizer=Tokenizer)
    module = types.ModuleType("keras_hub")
    module.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras_hub", module)


def test_tokens_end_and_padding_changes_nothing(hub: None, tmp_path: Path) -> None:
    encoder = T5Encoder(str(preset(tmp_path / "t5")), WIDTH)
    encoder.check()
    captions = ["red", "a" * 50, "blue star", "red"]
    found = encoder.encode(captions, 20)
    assert [len(one) for one in found] == [4, 20, 10, 4]
    assert all(one.dtype == np.float32 and one.shape[1] == WIDTH for one in found)
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_allclose(encoder.encode(["red"], 20)[0], found[0], atol=1e-6)  # beside no longer one
    assert np.abs(found[0][-1] - found[2][-1]).max() > 1e-3  # the same token beside other words
    encoder.forget()
    np.testing.assert_array_equal(encoder.encode(["red"], 20)[0], encoder.encode(["red"], 20)[0])


def test_identity_is_that_of_the_weights(hub: None, tmp_path: Path) -> None:
    one, same, other = (
        T5Encoder(str(preset(tmp_path / name, weights=weights)), WIDTH).identity()
        for name, weights in (("a", b"1" * 10**6), ("b", b"1" * 10**6), ("c", b"1" * 999_999 + b"2"))
    )
    assert one == same
    assert one != other
    assert json.loads(json.dumps(one)) == one
    short = tmp_path / "short"
    short.write_bytes(b"x")
    assert fingerprint(short, 0) != one["weights"]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for action in (lambda e: e.check(), lambda e: e.identity(), lambda e: e.encode(["red"], 4)):
        with pytest.raises(UserError, match=r"is no preset of T5: config.json, .* not there; download"):
            action(T5Encoder(str(tmp_path), WIDTH))
    with pytest.raises(UserError, match="is a preset of CLIPBackbone"):
        T5Encoder(str(preset(tmp_path / "clip", "CLIPBackbone")), WIDTH).check()
    there = str(preset(tmp_path / "t5"))
    with pytest.raises(UserError, match=r"embeddings of 8 numbers, but T5Encoder\.width is 4096"):
        T5Encoder(there, 4096).check()
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match=r"T5 needs keras-hub .*pip install -e '\.\[text\]'"):
        T5Encoder(there, WIDTH).check()
    for wrong, name in ((("", 8), "folder"), (("x", 0), "width")):
        with pytest.raises(ValueError, match=name):
            T5Encoder(*wrong)


def test_with_keras_hub_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A T5 of a few random weights, saved and read by keras-hub; the tokenizer is the imitation."""
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed: pip install -e '.[text]'")
    folder = preset(tmp_path / "t5")
    whole = keras_hub.models.T5Backbone(
        vocabulary_size=40, num_layers=1, num_heads=2, hidden_dim=WIDTH, intermediate_dim=16
    )
    whole.save_to_preset(str(folder))
    monkeypatch.setattr(keras_hub.models, "T5Tokenizer", Tokenizer)
    encoder = T5Encoder(str(folder), WIDTH)
    found = encoder.encode(["red", "blue star"], 20)
    tokens = np.array([[*Tokenizer()(["red"])[0], 1]], np.int32)
    inputs = {"encoder_token_ids": tokens, "decoder_token_ids": tokens}
    inputs |= {"encoder_padding_mask": np.ones_like(tokens), "decoder_padding_mask": np.ones_like(tokens)}
    expected = np.asarray(whole(inputs)["encoder_sequence_output"])[0]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
