"""The command line: what it prints, what it writes, and one message with exit code 2 for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from absl.testing import flagsaver
from PIL import Image

import zoo
from zoo import run
from zoo.console import UserError, command
from zoo.experiment import Experiment

FLAGS_SHOWN = (
    "recipe do workdir gin_bindings stage strategy checkpoint shard labels prompts count seed low_resolution list json"
)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process: flags -> (exit code, stdout, stderr)."""

    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["zoo.run", *map(str, arguments)])
        capsys.readouterr()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            command(run.main)
        return int(ended.value.code), *capsys.readouterr()

    return run_command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny cascade, to be read only."""
    return tiny.finished_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def trained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that commands may write into."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "run")


def test_a_training_that_diverges(call, tmp_path: Path):
    """Exit code 3, an account of every try, and the same command with a sound rate goes on."""
    flags = ("--recipe", tiny.RECIPE, "--workdir", tmp_path, "--do", "train", "--stage", "base")
    code, out, err = call(*flags, "--gin_bindings", "Adam.learning_rate = 1e30")
    assert code == 3
    assert out.count("going back to step 0, leaving out 2 batches") == 3
    assert "base: training went astray 4 times after step 0" in err
    assert "Lower the learning rate" in err
    code, out, err = call(*flags, "--gin_bindings", "base/Training.steps = 4")
    assert code == 0, err
    assert len(json.loads((tmp_path / "stages/base/incidents.json").read_text())) == 4


# ---- what is shown


def test_help_and_list_need_no_tensorflow():
    code = (
        "import sys; from zoo.console import command; from zoo import run\n"
        "for flags in (['--help'], ['--list'], ['--recipe', 'recipes', '--do', 'check', '--names_only']):\n"
        "    sys.argv = ['zoo.run', *flags]; assert run.main() == 0; run.FLAGS.unparse_flags()\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "recipes/quickstart.gin" in done.stdout


def test_help_names_every_flag(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for flag in FLAGS_SHOWN.split():
        assert re.search(rf"--(\[no\])?{flag}:", out), flag
    assert "python -m zoo.run --recipe recipes/quickstart.gin" in out


def test_list(call):
    code, out, _ = call("--list")
    assert code == 0
    assert "quickstart" in out
    code, out, _ = call("--list", "--json")
    assert code == 0
    assert {"quickstart", "cdm_cifar10"} <= {entry["name"] for entry in json.loads(out)}


def test_check(call):
    code, out, err = call("--recipe", tiny.RECIPE, "--do", "check")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"ok  tests/recipes/tiny.gin  \(base \d+K, sr \d+K\)\n", out)
    code, out, err = call("--recipe", tiny.RECIPE, "--do", "check", "--gin_bindings", "UNet.chanels = 3")
    assert (code, err) == (1, "")
    assert "channels" in out


# ---- mistakes


def mistake(result: tuple[int, str, str]) -> str:
    """The one message of a command that failed as it should."""
    code, out, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--recipe FILE is needed"),
        (["--recipe", "recipes/quickstrat.gin"], "did you mean '?recipes/quickstart.gin"),
        (["--recipe", "recipes"], "recipes is a folder"),
        (
            ["--recipe", "quickstart", "--stages", "base"],
            "Unknown command line flag 'stages'.*see python -m zoo.run --help",
        ),
        (["recipes/quickstart.gin"], "unexpected argument 'recipes/quickstart.gin'"),
        (["--recipe", "quickstart", "--do", "trian"], "train.*see python -m zoo.run --help"),
        (["--recipe", "quickstart", "--count", "0"], "count.*see python -m zoo.run --help"),
        (["--recipe", "quickstart", "--seed", "-1"], "seed.*see python -m zoo.run --help"),
        (["--recipe", "quickstart", "--do", "sweep"], "--do sweep needs --sweep 'KEY = VALUE, VALUE, ...'"),
        (["--recipe", "quickstart", "--sweep", "sr/GaussianNoise.s = 1"], "--sweep needs --do sweep, got --do all"),
        (
            ["--recipe", "quickstart", "--do", "sweep", "--sweep", "sr/GaussianNoise.s = 1", "--stage", "sr"],
            "scores the sample set of the last stage: leave out --stage",
        ),
        (
            ["--recipe", "quickstart", "--do", "sweep", "--sweep", "sr/GaussianNoise.s = 1", "--shard", "1/2"],
            "leave out --shard",
        ),
        (
            [
                "--recipe",
                "quickstart",
                "--do",
                "sweep",
                "--sweep",
                "sr/GaussianNoise.s = 1, 2",
                "--sweep_metric",
                "FID",
            ],
            r"must be a number of this recipe that chooses \(fid, is_mean, kid, .*\), got 'FID'",
        ),
    ],
)
def test_mistakes_before_anything_is_built(call, flags: list[str], message: str):
    text = mistake(call(*flags))
    assert re.search(message, text, re.DOTALL), text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "9/8"], "--shard must be i/n with 1 <= i <= n, such as 3/8, got '9/8'"),
        (["--shard", "0/8"], "--shard must be"),
        (["--shard", "half"], "--shard must be"),
        (["--stage", "bass"], "--stage must be one of base, sr, got 'bass'"),
        (["--do", "train", "--strategy", "two"], "--strategy must be one of auto, one"),
        (["--do", "sample"], "no checkpoint in .*base/checkpoints: train the stage first"),
        (["--do", "sample", "--stage", "sr"], "no checkpoint in .*sr/checkpoints: train the stage first"),
        (["--do", "sample", "--labels", "1"], "no checkpoint in .*: train the stage first"),
        (["--do", "sample", "--prompts", "a cat"], "no stage of this recipe is told a text"),
        (["--do", "train", "--prompts", "a cat"], "they need --do sample"),
        (["--do", "sample", "--labels", "cat,dog"], "--labels must be whole numbers such as 207,933, got cat,dog"),
        (["--do", "evaluate"], "samples"),
        (["--do", "interpolate"], "--do interpolate needs --images A.png,B.png or one npz file"),
        (["--do", "sample", "--images", "a.png"], "--images is for --do encode and --do interpolate, got --do sample"),
        (["--do", "encode", "--stage", "base", "--images", "a.png"], "no checkpoint in .*base/checkpoints: train"),
        (["--do", "evaluate", "--shard", "1/2"], "--shard is for a sample set"),
        (["--do", "likelihood", "--stage", "sr"], "no checkpoint in .*sr/checkpoints: train the stage first"),
        (["--gin_bindings", "sr/Training.micro_batches = 3"], "batch = 8 does not divide into 3 micro-batches"),
        (
            [
                "--gin_bindings",
                "Evaluation.features = @Inception()",
                "--gin_bindings",
                "Inception.weights = '/no/w.pb'",
            ],
            "weights of the Inception network are not at /no/w.pb",
        ),
        (["--gin_bindings", "Training.ema = 2.0"], r"ema must be in \[0, 1\), .* got 2.0"),
    ],
)
def test_mistakes_before_training(call, tmp_path: Path, flags: list[str], message: str):
    text = mistake(call("--recipe", tiny.RECIPE, "--workdir", tmp_path / "new", *flags))
    assert re.search(message, text), text


def test_low_resolution_images_must_fit(call, tmp_path: Path):
    def message(file: Path) -> str:
        flags = ("--workdir", tmp_path / "new", "--do", "sample", "--low_resolution", file)
        return mistake(call("--recipe", tiny.RECIPE, *flags))

    path = tmp_path / "images.npz"
    assert "must be an npz file with images in arr_0" in message(path)
    for content in (b"text", b"PK\x03\x04 cut short", b""):
        path.write_bytes(content)
        assert "must be an npz file with images in arr_0" in message(path)
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8))
    assert "must be an npz file with images in arr_0" in message(path)
    np.savez(path, arr_0=np.zeros((2, 12, 12, 3), np.uint8))
    assert "low-resolution images must be 8 x 8, got (12, 12)" in message(path)
    np.savez(path, arr_0=np.zeros((2, 8, 8, 3), np.float32))
    assert "must be uint8 [N, h, w, C], got float32" in message(path)
    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8, 3), np.uint8))
    assert "must be an npz file with images in arr_0" in message(tmp_path / "images.npy")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "3,10"], r"labels must be in 0 .. 9, got \[10\]"),
        (["--labels", "3", "--checkpoint", "999"], r"--checkpoint must be last, best or one of \[56, 60\], got '999'"),
        (["--checkpoint", "base=56,low=60"], "--checkpoint names the stage 'low'; the stages are base, sr"),
        (["--checkpoint", "best"], "--checkpoint best: .* were not scored; bind Monitoring.selection"),
        (["--ema", "0.5"], r"--ema must be one of Training.ema = \(0.9,\), got 0.5"),
        (["--gin_bindings", "UNet.blocks = 2"], "does not fit this recipe's network"),
    ],
)
def test_mistakes_after_training(call, finished: Path, tmp_path: Path, flags: list[str], message: str):
    shutil.copytree(finished / "stages", tmp_path / "stages")
    text = mistake(call("--recipe", tiny.RECIPE, "--workdir", tmp_path, "--do", "sample", *flags))
    assert re.search(message, text), text


# ---- a finished run


def test_what_a_run_leaves(finished: Path):
    names = ["recipe.gin", "operative.gin", "run.json", "report.html", "results/sr.json", "results/sr.png"]
    for stage in tiny.STEPS:
        names += [f"stages/{stage}/metrics.csv", f"samples/{stage}/shard-00000.npz", f"samples/{stage}/set.json"]
    assert [name for name in names if not (finished / name).is_file()] == []
    result = json.loads((finished / "results" / "sr.json").read_text())
    assert result["counts"]["samples"] == tiny.IMAGES
    assert result["samples"]["base"]["checkpoint"]["step"] == tiny.STEPS["base"]
    assert Path(result["recipe"]).name == "tiny.gin"
    assert len(result["recipe_hash"]) == 64
    account = json.loads((finished / "run.json").read_text())
    assert [entry["strategy"] for entry in account["invocations"]] == ["OneDeviceStrategy"]
    assert account["invocations"][0]["command"].startswith("python -m zoo.run --recipe ")
    screen = (finished / "screen.txt").read_text()
    assert screen.startswith(f"work directory: {finished}\n")
    assert re.search(r"^FID-60 \(shapes classifier\) +\d", screen, re.MULTILINE)


def test_pictures_for_a_person(call, trained: Path):
    flags = ("--do", "sample", "--labels", "2,7", "--count", "3")
    code, out, err = call("--recipe", tiny.RECIPE, "--workdir", trained, *flags)
    assert code == 0, err
    folder = trained / "pictures"
    assert f"3 pictures and grid.png in {folder}" in out
    names = ["000-class2.png", "001-class7.png", "002-class2.png", "grid.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with Image.open(folder / names[0]) as picture:
        assert (picture.size, picture.mode) == ((16, 16), "RGB")


def test_samples_again_are_there_already(call, trained: Path):
    """From the work directory alone, which remembers its recipe; nothing is sampled twice."""
    times = {path: path.stat().st_mtime_ns for path in trained.glob("samples/*/shard-*.npz")}
    code, _, err = call("--workdir", trained, "--do", "sample")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in trained.glob("samples/*/shard-*.npz")} == times
    account = json.loads((trained / "run.json").read_text())
    assert Path(account["recipe"]).name == "tiny.gin"
    assert len(account["invocations"]) > 1


def test_bits_per_dimension(call, trained: Path):
    bindings = ("Pipeline.likelihood = @Likelihood()", "Likelihood.steps = 10")
    asked = [part for binding in bindings for part in ("--gin_bindings", binding)]
    flags = ("--recipe", tiny.RECIPE, "--workdir", trained, "--do", "likelihood", "--stage", "base", "--count", "8")
    code, out, err = call(*flags, *asked)
    assert code == 0, err
    assert "base: shapes 8x8, 8 images of split 'test', 10 of 1,000 steps" in out
    result = json.loads((trained / "results" / "base-likelihood.json").read_text())
    assert f"{result['bits_per_dimension']:.4f} ± " in out
    assert result["made_from"]["checkpoint"]["step"] == tiny.STEPS["base"]
    assert (trained / "results" / "base-likelihood.png").is_file()
    assert not (trained / "results" / "sr-likelihood.json").exists()


def test_images_are_encoded_and_mixed(call, trained: Path, tmp_path: Path):
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    for level, file in zip((90, 160), files, strict=True):
        Image.new("RGB", (12, 10), (level,) * 3).save(file)
    flags = ("--workdir", trained, "--stage", "base", "--images", ",".join(files), "--labels", "2,7")
    code, out, err = call(*flags, "--do", "encode")
    assert code == 0, err
    assert "image 1: reconstructed to " in out
    with np.load(trained / "encoded" / "latents.npz") as found:
        assert (found["arr_0"].dtype, found["arr_0"].shape) == (np.float32, (2, 8, 8, 3))
        assert found["arr_1"].tolist() == [2, 7]
    code, out, err = call(*flags, "--do", "interpolate", "--count", "3")
    assert code == 0, err
    folder = trained / "interpolations"
    assert sorted(path.name for path in folder.iterdir()) == ["000-000.png", "000-001.png", "000-002.png", "grid.png"]
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (16 * (5 * 9 + 1), 16 * (9 + 1))  # the two images and three between them
    code, _, err = call("--workdir", trained, "--images", files[0], "--labels", "2", "--do", "interpolate")
    assert code == 2 and "stage 'sr' enlarges images" in err


def test_a_sweep(call, trained: Path):
    """The value of the run itself is scored on its own samples; the other one is made from its base samples."""
    shards = {path: path.stat().st_ino for path in trained.glob("samples/*/shard-*.npz")}
    flags = ("--recipe", tiny.RECIPE, "--workdir", trained, "--do", "sweep", "--sweep", "sr/GaussianNoise.s = 50, 0")
    code, out, err = call(*flags)
    assert code == 0, err
    assert "sampling base" not in err
    folder = trained / "sweeps" / "sr-GaussianNoise.s"
    assert re.search(r"^s = 50 +\d", out, re.MULTILINE), out
    assert re.search(r"^\* best; by FID-60 \(shapes classifier\) of 2 of 2 values: s = ", out, re.MULTILINE), out
    kept = json.loads((folder / "sweep.json").read_text())
    scored = json.loads((trained / "results" / "sr.json").read_text())
    assert kept["rows"][0]["result"]["metrics"]["fid"] == pytest.approx(scored["metrics"]["fid"])
    assert kept["rows"][1]["result"]["metrics"]["fid"] != kept["rows"][0]["result"]["metrics"]["fid"]
    assert {path: path.stat().st_ino for path in trained.glob("samples/*/shard-*.npz")} == shards
    with Image.open(folder / "sweep.png") as picture:
        assert picture.format == "PNG"
    assert (folder / "best.gin").read_text().splitlines()[-1].startswith("sr/GaussianNoise.s = ")


# ---- in Python


@pytest.fixture(scope="module")
def loaded(trained: Path) -> Experiment:
    return zoo.load(trained)


def shard(folder: Path, stage: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "samples" / stage / f"shard-{number:05d}.npz") as arrays:
        return arrays["arr_0"], arrays["arr_1"]


def test_load_and_sample(loaded: Experiment, finished: Path):
    """The images of `--do sample`, for the same seed, indices and labels."""
    expected, labels = (
        np.concatenate(parts) for parts in zip(*(shard(finished, "sr", i) for i in (0, 1)), strict=True)
    )
    images = loaded.sample(labels=labels.tolist(), seed=0)
    assert (images.dtype, images.shape) == (np.uint8, (24, 16, 16, 3))
    assert np.abs(images.astype(int) - expected).max() <= 1
    few = loaded.sample(labels=[int(labels[0])] * 2, seed=0)
    assert np.abs(few[0].astype(int) - expected[0]).max() <= 1
    assert not np.array_equal(few[1], images[1])  # another label
    assert not np.array_equal(loaded.sample(labels=[0], seed=1)[0], images[0])
    assert loaded.sample(count=3).shape == (3, 16, 16, 3)


def test_images_from_elsewhere_are_enlarged(loaded: Experiment, finished: Path):
    low, labels = shard(finished, "base", 0)
    images = loaded.sample(labels=labels.tolist(), seed=0, low_resolution=low)
    assert np.abs(images.astype(int) - shard(finished, "sr", 0)[0]).max() <= 1


def test_a_recipe_that_does_not_fit_the_weights_is_not_kept(call, trained: Path):
    kept = (trained / "recipe.gin").read_text()
    flags = ["--recipe", tiny.RECIPE, "--workdir", trained, "--do", "sample", "--gin_bindings", "UNet.blocks = 2"]
    code, _, err = call(*flags)
    assert code == 2 and "does not fit" in err
    assert (trained / "recipe.gin").read_text() == kept


def test_loading_what_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="no run and no recipe at"):
        zoo.load(tmp_path)
    with pytest.raises(UserError, match="no checkpoint in"):
        zoo.load(tiny.RECIPE, tmp_path).sample(labels=[1])
