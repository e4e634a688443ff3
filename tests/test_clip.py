"""The CLIP score, with a network of a few random weights: what goes in, what comes out, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import evaluate
from harness.cache import Cache, write_arrays
from harness.captions import read_captions
from harness.images import ArrayImages
from harness.metrics.frechet import FID
from harness.metrics.metric import Evidence
from harness.rows import find_row
from harness.samples import open_images
from zoo.console import UserError

RANDOM = np.random.default_rng(0)
WORDS = ["a red dog", "two cats", "red", "a dog and a cat", "the end"]


def pictures(count: int, height: int = 20, width: int = 20) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ---- captions


@pytest.mark.parametrize("form", ["npz", "txt", "json", "own"])
def test_captions_come_with_the_samples_or_in_a_file(tmp_path: Path, form: str):
    arrays = {"arr_0": pictures(5)} | ({"captions": np.array(WORDS)} if form == "own" else {})
    write_arrays(tmp_path / "samples.npz", arrays)
    file = tmp_path / f"captions.{form}"
    if form == "npz":
        write_arrays(file, {"captions": np.array(WORDS)})
    else:
        file.write_text(json.dumps(WORDS) if form == "json" else "\n".join(WORDS))
    samples = open_images(tmp_path / "samples.npz")
    assert read_captions(samples, None if form == "own" else file) == WORDS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\ntwo", "2 captions for 5 samples"),
        ("a.json", '{"captions": []}', "must hold a list of strings"),
        ("a.json", "[1, 2]", "must hold a list of strings"),
        ("a.json", "[", "cannot be read"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read"),
        ("b.txt", None, "is not there: give a .txt file"),
    ],
)
def test_bad_captions(tmp_path: Path, name: str, content: str | bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_captions(ArrayImages(pictures(5)), tmp_path / name)


def test_samples_without_captions(tmp_path: Path):
    with pytest.raises(UserError, match="comes without captions"):
        read_captions(ArrayImages(pictures(5)))
    write_arrays(tmp_path / "plain.npz", {"arr_0": pictures(5)})
    with pytest.raises(UserError, match="has no array `captions`"):
        read_captions(open_images(tmp_path / "plain.npz"))
    write_arrays(tmp_path / "numbers.npz", {"arr_0": pictures(5), "captions": np.arange(5)})
    with pytest.raises(UserError, match=r"must be unicode strings \[N\], got int64 \[5\]"):
        read_captions(open_images(tmp_path / "numbers.npz"))


def test_a_folder_that_is_no_preset_is_named(tmp_path: Path):
    from harness.features.clip import check_folder

    with pytest.raises(UserError, match=r"config.json, model.weights.h5, .* not there; download"):
        check_folder(tmp_path)


# ---- with keras-hub


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset folder of a network with a few random weights, and the letters as its vocabulary."""
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed: pip install -e '.[text]'")
    small = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    vision = keras_hub.models.CLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **small)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    text = keras_hub.models.CLIPTextEncoder(vocabulary_size=len(tokens), embedding_dim=16, **small)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder = tmp_path_factory.mktemp("preset")
    keras_hub.models.CLIPTokenizer(vocabulary, ["r e", "re d</w>"]).save_to_preset(str(folder))
    keras_hub.models.CLIPBackbone(vision, text, projection_dim=8).save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def clip(preset: Path):
    from harness.features.clip import CLIP

    return CLIP(preset)


def test_tokens_have_a_beginning_and_an_end(clip):
    found = clip.tokens(["red", "RED  a", "x" * 200, "r&amp;amp;d"])
    assert found.shape == (4, 77)
    np.testing.assert_array_equal(found[0, :4], [54, 53, 55, 0])
    np.testing.assert_array_equal(found[1, :5], [54, 53, 26, 55, 0])
    assert found[2, -1] == 55  # cut, with its end
    assert (found.argmax(axis=1) == [2, 3, 76, found[3].tolist().index(55)]).all()


def test_images_are_resized_by_pillow_and_cropped_to_the_middle(clip):
    image = pictures(1, 40, 64)
    found = clip.prepare(image)[0]
    whole = Image.fromarray(image[0]).resize((51, 32), Image.Resampling.BICUBIC)
    scaled = np.asarray(whole, np.float32)[:, 10:42] / 255
    np.testing.assert_allclose(found[..., 0], (scaled[..., 0] - 0.48145466) / 0.26862954, rtol=1e-5, atol=1e-5)
    assert found.shape == (32, 32, 3)


def test_the_score_is_the_cosine_that_the_network_itself_gives(clip):
    images = pictures(5)
    network = clip._network
    given = {"images": clip.prepare(images), "token_ids": clip.tokens(WORDS)}
    logits = np.asarray(network(given)["vision_logits"])
    expected = np.diag(logits) / np.exp(float(network.clip_head.logit_scale.numpy()))
    np.testing.assert_allclose(clip.similarities(images, WORDS), expected, atol=1e-5)


def test_the_metric(preset: Path, clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from harness.metrics.clip_score import CLIPScore

    images = pictures(5)
    write_arrays(tmp_path / "samples.npz", {"arr_0": images, "captions": np.array(WORDS)})
    samples = open_images(tmp_path / "samples.npz")
    metric = CLIPScore(str(preset))
    metric.check(real=None, samples=samples)
    side = Evidence(samples, None)
    numbers = metric.compute(reference=None, samples=side, real=None, cache=Cache(tmp_path / "cache"))
    cosines = clip.similarities(images, WORDS)
    assert numbers["clip_score"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert numbers["clip_score_error"] == pytest.approx(cosines.std(ddof=1) / 5**0.5, abs=1e-6)
    assert metric.protocol(30_000, "x")["clip_score"].startswith(
        "CLIP score-30k (CLIP 16-wide, 1 layers, patch 8 at 32 "
    )
    # A second time from the cache: no network is built.
    monkeypatch.setattr("harness.metrics.clip_score.CLIP", None)
    assert metric.compute(reference=None, samples=side, real=None, cache=Cache(tmp_path / "cache")) == numbers
    assert metric.details(samples=side, real=None, cache=Cache(tmp_path))["clip"]["weights"]


def test_fid_30k_is_named_as_the_published_one():
    """Simple diffusion's table 8: FID of 30,000 samples; the number of samples is all that the name needs."""
    table, _ = find_row("sd/8:simple-diffusion-uvit")
    ours = FID().protocol(30_000, "Inception")["fid"]
    assert ours == "FID-30k (Inception)"
    assert [column.protocol(table) for column in table.columns] == [f"{ours}, val"]


def test_the_command_takes_captions_and_weights(preset: Path, tmp_path: Path):
    """Without a word on metrics the classifier's are computed, and the CLIP score beside them."""
    labels = np.arange(40) % 2
    write_arrays(tmp_path / "real.npz", {"arr_0": pictures(40), "arr_1": labels})
    write_arrays(tmp_path / "samples.npz", {"arr_0": pictures(20)})
    (tmp_path / "captions.txt").write_text("\n".join(WORDS * 4))
    arguments = [tmp_path / "real.npz", tmp_path / "samples.npz", "--metrics", "fid", "--epochs", 1, "--clip", preset]
    arguments += ["--captions", tmp_path / "captions.txt", "--cache", tmp_path / "cache", "--out", tmp_path / "r.json"]
    evaluate.main([*map(str, arguments), "--features", "classifier", "--allow-few"])
    result = json.loads((tmp_path / "r.json").read_text())
    assert -1 <= result["metrics"]["clip_score"] <= 1
    assert result["clip"]["title"].startswith("CLIP 16-wide")
