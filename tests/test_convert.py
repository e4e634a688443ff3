"""Published checkpoints: flags to networks and recipes, files to runs and back, and everything that does not fit."""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zoo import recipe, registry
from zoo.console import UserError
from zoo.convert import adm, adm_flags, adm_recipe, run_folders
from zoo.convert.__main__ import main
from zoo.convert.torch_file import read_state_dict
from zoo.convert.torch_writing import write_state_dict
from zoo.experiment import Experiment
from zoo.training.checkpoints import Checkpoints

CATALOGUE = registry.load()
SIZE, STEP = 16, 1234
FLAGS: dict[str, Any] = {
    "image_size": SIZE,
    "num_channels": 32,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "num_heads": 2,
    "attention_resolutions": "8",
    "resblock_updown": True,
    "learn_sigma": True,
    "noise_schedule": "cosine",
    "timestep_respacing": "4",
}


def state_of(flags: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of the network that flags describe."""
    network = adm.network(flags)
    shapes = adm.input_shapes(flags)
    network(
        {name: keras.KerasTensor(shape, "int32" if name == "label" else "float32") for name, shape in shapes.items()}
    )
    generator = np.random.default_rng(seed)
    return {
        tensor.name: 0.1 * generator.standard_normal(tensor.shape).astype("float32") for tensor in adm.tensors(network)
    }


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return state_of(FLAGS)


@pytest.fixture
def files(tmp_path: Path, state: dict[str, np.ndarray]) -> Path:
    """A folder with flags.json and the same averaged weights in both kinds of file."""
    (tmp_path / "flags.json").write_text(json.dumps(FLAGS))
    save_file(state, tmp_path / f"ema_0.9999_00{STEP}.safetensors")
    write_state_dict(tmp_path / f"ema_0.9999_00{STEP}.pt", state)
    return tmp_path


def convert(files: Path, *more: str, out: str = "run") -> Path:
    main(["adm", "--flags", str(files / "flags.json"), "--out", str(files / out), *more])
    return files / out


def stored(run: Path, group: str) -> dict[str, np.ndarray]:
    """The weights of one group of a run, under their published names."""
    pipeline = recipe.load(run / "recipe.gin").build()
    from zoo.convert.run_folders import read_run

    network, _ = read_run(pipeline.stages[0], run, "last", pipeline.seed, group == "raw", None)
    return adm.export(network)


def sampled(run: Path) -> np.ndarray:
    """Two images of a run, in a device batch as small."""
    asked = recipe.load(run / "recipe.gin", ["SampleSet.batch = 2"])
    return Experiment(asked, asked.build(), run).sample(count=2, seed=3)


def equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------ flags


@pytest.mark.parametrize("name", CATALOGUE.checkpoints)
def test_recipe_of_a_published_checkpoint_has_the_network_of_its_flags(name: str):
    entry = CATALOGUE.checkpoints[name]
    flags, improved = adm_flags.from_text(entry.flags), entry.project == adm_recipe.IMPROVED
    assert adm_recipe.choose(flags, improved) in (entry.recipe, None)  # None: several have the same flags
    network = adm.network(flags)
    stages = recipe.load(entry.recipe or "").build().stages
    (stage,) = (stage for stage in stages if not adm_recipe.differences(stage.network, network))
    # what the recipe is, said in flags again, is what was published
    published = adm_flags.resolved(flags, improved)
    again = adm_flags.resolved(adm_recipe.flags_of(stage), improved)
    same = {"timestep_respacing", "use_ddim"}
    if adm_flags.kind(flags) == "classifier":  # which its flags say nothing of
        same |= {"noise_schedule"}
    elif stage.objective.process.steps == 1000:  # scaling to 0 .. 1000 is none
        same |= {"rescale_timesteps", "rescale_learned_sigmas"}
    if published["use_kl"]:  # nor has a bound alone a weight
        same |= {"rescale_learned_sigmas"}
    if published.get("num_head_channels", -1) != -1:
        same |= {"num_heads"}
    assert {key: again[key] for key in again if key not in same} == {
        key: published[key] for key in published if key not in same
    }


def test_written_recipe_says_what_the_flags_say(tmp_path: Path):
    flags = FLAGS | {"use_new_attention_order": "True", "num_head_channels": 16, "rescale_timesteps": True}
    flags |= {"diffusion_steps": 2000, "class_cond": True, "use_ddim": "true", "timestep_respacing": "ddim25"}
    (tmp_path / "written.gin").write_text(adm_recipe.write(flags, False))
    stage = recipe.load(tmp_path / "written.gin").build().stages[0]
    assert adm_recipe.differences(stage.network, adm.network(flags)) == []
    process = stage.objective.process
    assert (process.steps, process.time_range, stage.objective.loss.weight) == (2000, 1000.0, 1 / 2000)
    assert stage.sampler_steps == 25
    assert stage.conditioned_on_class


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_chanels": 32}, "there is no flag num_chanels of a model; did you mean num_channels?"),
        ({"num_channels": 32, "classifier_width": 32}, "describe a denoiser .* and a classifier"),
        ({"class_cond": "maybe"}, "flag class_cond must be True or False, got 'maybe'"),
        ({"num_channels": "many"}, "flag num_channels must be a number, got 'many'"),
        ({"attention_resolutions": "7"}, "attention_resolutions must divide the image size 64, got 7"),
        ({"image_size": 48}, "no channel multipliers are published for 48 pixels"),
        ({"large_size": 256, "small_size": 96}, "large_size must be a multiple of small_size"),
        ({"classifier_pool": "largest"}, "pool must be adaptive, attention, spatial, spatial_v2, got 'largest'"),
        ({"class": "guided_diffusion.unet.Other", "kwargs": {}}, "class must be UNetModel, .* got guided_diffusion"),
        ({"num_channels": 0}, "the flags describe no network: channels must be positive, got 0"),
        ({"noise_schedule": "square"}, "noise_schedule must be linear or cosine, got 'square'"),
    ],
)
def test_mistakes_in_flags_are_one_message(flags: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        adm.network(flags)
        adm_recipe.write(flags, False)


def test_another_order_of_attention_is_told_though_the_tensors_fit(files: Path, state: dict[str, np.ndarray]):
    (files / "mine.gin").write_text(adm_recipe.write(FLAGS | {"use_new_attention_order": True}, False))
    weights = files / f"ema_0.9999_00{STEP}.pt"
    with pytest.raises(UserError, match="order of heads is HeadsLast, and by the flags HeadsFirst"):
        convert(files, "--weights", str(weights), "--recipe", str(files / "mine.gin"))
    assert not (files / "run").exists()


# ------------------------------------------------------------------ files to runs


def test_both_kinds_of_file_become_the_same_run_which_samples(
    files: Path, state: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
):
    runs = [
        convert(files, "--weights", str(files / f"ema_0.9999_00{STEP}{ending}"), out=ending[1:])
        for ending in (".pt", ".safetensors")
    ]
    report = capsys.readouterr().out
    for name in state:
        assert name.rpartition(".")[0] in report
    assert "HERE" not in report  # every norm equal
    assert f"{len(state)} tensors" in report
    assert [Checkpoints(run / "stages/model/checkpoints").steps() for run in runs] == [[STEP], [STEP]]
    assert all(equal(stored(run, "ema"), state) for run in runs)
    images = [sampled(run) for run in runs]
    assert images[0].shape == (2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(*images)
    # the network itself, called as docs/design.md says
    network = adm.load(FLAGS, files / f"ema_0.9999_00{STEP}.pt")
    x = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype("float32")
    assert network({"image": x, "time": np.array([3, 700], "float32")}).shape == (2, SIZE, SIZE, 6)


def test_averaged_and_raw_weights_are_told_apart(files: Path, state: dict[str, np.ndarray]):
    raw = state_of(FLAGS, seed=1)
    save_file(raw, files / f"model00{STEP}.safetensors")
    averaged, plain = (str(files / f"{name}00{STEP}.safetensors") for name in ("ema_0.9999_", "model"))
    both = convert(files, "--weights", averaged, "--raw", plain, out="both")
    assert equal(stored(both, "ema"), state)
    assert equal(stored(both, "raw"), raw)
    alone = convert(files, "--raw", plain, out="alone")
    assert equal(stored(alone, "ema"), raw)  # what is sampled from: the average of decay 0
    assert recipe.load(alone / "recipe.gin").build().stages[0].training.decays == (0.0,)
    with pytest.raises(UserError, match="holds raw weights: give it as --raw"):
        convert(files, "--weights", plain, out="wrong")
    with pytest.raises(UserError, match="holds averaged weights: give it as --weights"):
        convert(files, "--raw", averaged, out="wrong")
    average_alone = convert(files, "--weights", averaged, out="average")
    with pytest.raises(UserError, match="has no raw weights"):
        main(["adm", "--export", str(average_alone), "--not_averaged", "--out", str(files / "x.pt")])


GUIDED = """
include 'tests/recipes/tiny_guided.gin'
Pipeline.stages = [@classifier/ClassifierStage(), @base/Stage()]
GroupNormalisation.groups = 32
"""
SHARED = {"image_size": 8, "model_channels": 32, "num_res_blocks": 1, "attention_resolutions": [], "channel_mult": [1]}
DESCRIPTIONS = {
    "classifier": {
        "class": "EncoderUNetModel",
        "kwargs": SHARED | {"out_channels": 10, "use_scale_shift_norm": True, "pool": "adaptive"},
    },
    "base": {"class": "UNetModel", "kwargs": SHARED | {"out_channels": 3, "use_scale_shift_norm": True}},
}


def test_a_guided_run_gets_its_stages_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "guided.gin").write_text(GUIDED)
    given = {}
    for name, description in DESCRIPTIONS.items():
        given[name] = state_of(description, seed=len(given))
        (tmp_path / f"{name}.json").write_text(json.dumps(description))
        save_file(given[name], tmp_path / f"{name}.safetensors")

    def add(name: str, *more: str) -> None:
        weights, flags = (str(tmp_path / f"{name}.{ending}") for ending in ("safetensors", "json"))
        main(["adm", "--flags", flags, "--weights", weights, "--out", str(tmp_path / "run"), *more])

    add("classifier", "--recipe", str(tmp_path / "guided.gin"))
    assert "still without weights: base" in capsys.readouterr().out
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    for more, message in (
        ((), "has its stage 'classifier' already"),
        (("--stage", "base"), "does not have the network of the flags:\n  it is a UNet"),
        (("--stage", "sr"), "--stage must be one of classifier, base, got 'sr'"),
        (("--recipe", "quickstart"), "is a run of another recipe than quickstart"),
    ):
        with pytest.raises(UserError, match=message):
            add("classifier", *more)
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before
    add("base")
    assert "still without" not in capsys.readouterr().out
    asked = recipe.load(tmp_path / "run" / "recipe.gin", ["SampleSet.batch = 2"])
    pipeline = asked.build()
    for name, state in given.items():
        network, _ = run_folders.read_run(pipeline.stage(name), tmp_path / "run", "last", 0, False, None)
        assert equal(adm.export(network), state)
    run = Experiment(asked, asked.build(), tmp_path / "run")
    assert run.sample(labels=[3, 7]).shape == (2, 8, 8, 3)
    account = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(account["converted"]) == ["classifier", "base"]


def test_a_classifier_is_exported_with_its_flags(tmp_path: Path):
    stage = recipe.load("adm_imagenet64_guided").build().stage("classifier")
    entry = CATALOGUE.checkpoints["adm_classifier64"]
    flags = adm_recipe.flags_of(stage)
    assert adm_flags.description(flags) == adm_flags.description(adm_flags.from_text(entry.flags))
    assert (flags["noise_schedule"], flags["diffusion_steps"]) == ("cosine", 1000)
    tiny = recipe.load("tests/recipes/tiny_guided.gin").build().stage("classifier")
    with pytest.raises(UserError, match=r"no flag for .*: NoisyClassifier\.multipliers, .* 1000, heads other"):
        adm_recipe.flags_of(tiny)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_run_exports_what_it_was_given(files: Path, state: dict[str, np.ndarray], ending: str):
    run = convert(files, "--weights", str(files / f"ema_0.9999_00{STEP}.pt"))
    out = files / f"exported.{ending}"
    main(["adm", "--export", str(run), "--out", str(out)])
    assert equal(read_state_dict(out) if ending == "pt" else {n: load_file(out)[n] for n in state}, state)
    flags = json.loads(out.with_suffix(".json").read_text())
    assert adm_flags.description(flags) == adm_flags.description(FLAGS)
    again = {**adm_flags.resolved(flags), "timestep_respacing": "4", "num_heads": 2}
    assert again == adm_flags.resolved(FLAGS) | {"rescale_timesteps": False, "rescale_learned_sigmas": True}


def test_tensors_without_flags_come_back_by_their_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What the public code has no flags for is exported by --names_only, and read by the recipe."""
    (tmp_path / "guided.gin").write_text(GUIDED)
    state = state_of(DESCRIPTIONS["base"], seed=1)
    save_file(state, tmp_path / "mine.safetensors")
    asked = ["adm", "--recipe", str(tmp_path / "guided.gin"), "--weights", str(tmp_path / "mine.safetensors")]
    with pytest.raises(UserError, match=r"2 stages of the recipe .* may be meant: say by --stage"):
        main([*asked, "--out", str(tmp_path / "run")])
    main([*asked, "--stage", "base", "--out", str(tmp_path / "run")])
    assert "by the recipe (--step says another)" in capsys.readouterr().out
    main(["adm", "--export", str(tmp_path / "run"), "--stage", "base", "--names_only", "--out", str(tmp_path / "b.pt")])
    assert equal(read_state_dict(tmp_path / "b.pt"), state)


def test_written_torch_files_are_laid_out_as_pytorch_maps_them(tmp_path: Path, state: dict[str, np.ndarray]):
    write_state_dict(tmp_path / "mine.pt", state)
    content = (tmp_path / "mine.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "mine.pt") as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            lengths = content[entry.header_offset + 26 : entry.header_offset + 30]
            start = entry.header_offset + 30 + sum(np.frombuffer(lengths, "<u2").astype(int))
            assert entry.compress_type == zipfile.ZIP_STORED
            assert start % 64 == 0
    assert equal(read_state_dict(tmp_path / "mine.pt"), state)


# ------------------------------------------------------------------ what does not fit


class Trap:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_that_makes_a_file_is_refused_and_makes_none(files: Path):
    trace, bad = files / "trace", files / "bad.pt"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"out.0.weight": Trap(trace)}))
    with pytest.raises(UserError, match=r"asks for (_?io)\.open, .*refused"):
        convert(files, "--weights", str(bad))
    assert not trace.exists()
    assert not (files / "run").exists()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_a_cut_file_is_one_message_and_leaves_nothing(files: Path, ending: str, part: float):
    whole = (files / f"ema_0.9999_00{STEP}.{ending}").read_bytes()
    cut = files / f"cut.{ending}"
    cut.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match="cut short or altered"):
        convert(files, "--weights", str(cut))
    assert not list(files.glob(".*")) and not (files / "run").exists()


def test_weights_that_do_not_fit_are_all_named_and_leave_nothing(files: Path, state: dict[str, np.ndarray]):
    wrong = dict(state)
    del wrong["time_embed.0.bias"]
    wrong["out.0.weight"] = wrong["out.0.weight"][:-1]
    wrong["middle_block.1.qkv.weight"] = wrong["middle_block.1.qkv.weight"][..., 0]  # another rank
    wrong["time_embed.2.weight"] = wrong["time_embed.2.weight"][..., None, None].repeat(3, axis=-1)
    wrong["out.2.bias"] = np.full_like(wrong["out.2.bias"], np.nan)
    wrong["out.3.weight"] = np.zeros(3, "f4")
    wrong["time_embed.2.bias"] = wrong["time_embed.2.bias"].astype("int64")
    save_file({name: np.ascontiguousarray(value) for name, value in wrong.items()}, files / "wrong.safetensors")
    with pytest.raises(UserError) as raised:
        convert(files, "--weights", str(files / "wrong.safetensors"))
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert sorted(line.split(" (")[0].split(" is")[0].split(" has")[0] for line in lines) == [
        "mis-shaped: middle_block.1.qkv.weight",
        "mis-shaped: out.0.weight",
        "mis-shaped: time_embed.2.weight",
        "missing: time_embed.0.bias",
        "not finite: out.2.bias",
        "not of real numbers: time_embed.2.bias",
        "unused: out.3.weight",
    ]
    assert not list(files.glob(".*")) and not (files / "run").exists()


def test_weights_of_other_flags_change_nothing(state: dict[str, np.ndarray]):
    with pytest.raises(UserError, match=r"do not fit the description \(\d+ mis-shaped") as raised:
        adm.load(FLAGS | {"num_channels": 64}, state)
    assert len(str(raised.value).splitlines()) < 25
    assert re.search(r"\n  mis-shaped: \d+ more$", str(raised.value))


def test_flags_of_no_network_are_one_message(files: Path):
    (files / "flags.json").write_text(json.dumps(FLAGS | {"num_head_channels": 50}))
    with pytest.raises(UserError, match=r"the flags describe no network: .*50"):
        convert(files, "--weights", str(files / f"ema_0.9999_00{STEP}.pt"), "--recipe", "adm_imagenet64")


def test_a_folder_with_something_in_it_is_left_alone(files: Path):
    (files / "run").mkdir()
    (files / "run" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="--out must be a folder that is not there yet or empty"):
        convert(files, "--weights", str(files / f"ema_0.9999_00{STEP}.pt"))
    assert [path.name for path in (files / "run").iterdir()] == ["note.txt"]


def test_what_the_public_code_has_no_flag_for_is_named(tmp_path: Path):
    text = adm_recipe.write(FLAGS, False)
    text += "model/UNet.residual_sum = @RescaledSum()\nmodel/GroupNormalisation.epsilon = 1e-6\n"
    (tmp_path / "mine.gin").write_text(text)
    stage = recipe.load(tmp_path / "mine.gin").build().stages[0]
    with pytest.raises(UserError, match=r"no flag for .*: UNet\.residual_sum, GroupNormalisation"):
        adm_recipe.flags_of(stage)


# ------------------------------------------------------------------ published files


def test_without_a_network_a_published_checkpoint_is_one_message(tmp_path: Path):
    with pytest.raises(UserError, match=r"put https://\S*64x64_diffusion.pt at \S*64x64_diffusion.pt"):
        main(["adm", "--published", "adm_imagenet64", "--out", str(tmp_path / "run"), "--offline"])
    with pytest.raises(UserError, match="no checkpoint adm_imagenet65 was published; did you mean 'adm_imagenet64'"):
        main(["adm", "--published", "adm_imagenet65", "--out", str(tmp_path / "run"), "--offline"])
    with pytest.raises(UserError, match="iddpm_cifar10 is of improved-diffusion: say iddpm for adm"):
        main(["adm", "--published", "iddpm_cifar10", "--out", str(tmp_path / "run"), "--offline"])
    assert not (tmp_path / "run").exists()
