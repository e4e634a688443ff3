"""Recipes: every mistake is found once, at its place, with the cure; what is right builds as Gin builds it."""

import random
import subprocess
import sys
from pathlib import Path

import gin
import pytest
from gin import config as gin_config

from zoo import recipe, registry
from zoo.console import UserError
from zoo.recipe_building import GIN_MODULE
from zoo.signatures import Signatures

TESTS = Path(__file__).parent

BASE = """
Stage.network = @UNet()
Stage.objective = @Objective()
Stage.images = @Images()
Stage.training = @Training()
Objective.schedule = @LinearSchedule()
LinearSchedule.stop = 0.01
"""

RECIPE = """\
include 'base/stage.gin'
BATCH = 4
Pipeline.stages = [@base/Stage(), @sr/Stage()]
Training.batch = %BATCH
UNet.channels = 8
base/Stage.name = 'base'
base/Images.size = 8
sr/Stage.name = 'sr'
sr/Images:
  size = 16
  low_resolution = 8
sr/UNet.channels = 16
"""


@pytest.fixture(scope="module")
def signatures() -> Signatures:
    return Signatures(registry.load(TESTS / "fake_registry.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "stage.gin").write_text(BASE)
    (tmp_path / "tiny.gin").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(signatures: Signatures, text: str | None = None, *bindings: str) -> recipe.Recipe:
    if text is not None:
        Path("tiny.gin").write_text(text)
    return recipe.load("tiny.gin", bindings, signatures)


def mistakes(signatures: Signatures, text: str | None = None, *bindings: str) -> list[str]:
    return [str(mistake) for mistake in load(signatures, text, *bindings).check_names()]


def test_a_right_recipe_has_no_mistakes(folder: Path, signatures: Signatures):
    assert mistakes(signatures) == []


# What is replaced in RECIPE by what; the place and the words of the one message that must come.
BROKEN = {
    "component": ("UNet.channels = 8", "Unet.channels = 8", 5, ["'Unet'", "'UNet'"]),
    "component, in a block": ("sr/Images:", "sr/Image:", 9, ["'Image'", "'Images'"]),
    "component, in a reference": ("@sr/Stage()", "@sr/Stag()", 3, ["'Stag'", "'Stage'"]),
    "parameter": ("UNet.channels = 8", "UNet.chanels = 8", 5, ["'chanels'", "'channels'"]),
    "parameter, in a block": ("  size = 16", "  sise = 16", 10, ["'sise'", "'size'"]),
    "scope": ("sr/Stage.name", "sx/Stage.name", 8, ["'sx'", "'sr'"]),
    "scope, in a reference": ("@base/Stage()", "@bas/Stage()", 6, ["'base'", "'bas'"]),
    "macro": ("%BATCH", "%BACH", 4, ["'BACH'", "'BATCH'"]),
    "macro, unused": ("Training.batch = %BATCH", "", 2, ["BATCH", "%BATCH"]),
    "required value": ("  size = 16\n", "", 3, ["Images", "'size'", "sr/Images.size ="]),
    "required value in two scopes": ("UNet.channels = 8\n", "", 3, ["UNet", "'channels'", "base"]),
    "declared as required": ("UNet.channels = 8", "UNet.channels = %gin.REQUIRED", 5, ["'channels'"]),
    "unused component": (
        "BATCH = 4",
        "BATCH = 4\nCosineSchedule.offset = 0.1",
        3,
        ["CosineSchedule", "LinearSchedule"],
    ),
    "unused in this scope": ("BATCH = 4", "BATCH = 4\nsr/Pipeline.seed = 1", 3, ["sr/Pipeline", "the root"]),
    "overshadowed in the file": ("sr/UNet.channels", "base/UNet.channels = 9\nsr/UNet.channels", 5, ["no effect"]),
    "doubled key": ("sr/UNet.channels", "UNet.channels = 9\nsr/UNet.channels", 12, ["twice", "line 5"]),
    "doubled key, in a block": ("sr/UNet.channels", "sr/Images.size = 9\nsr/UNet.channels", 12, ["twice", "line 10"]),
    "type": ("UNet.channels = 8", "UNet.channels = '8'", 5, ["'8'", "str", "int"]),
    "type, bool for int": ("UNet.channels = 8", "UNet.channels = True", 5, ["bool", "int"]),
    "type, None": ("UNet.channels = 8", "UNet.channels = None", 5, ["None", "int"]),
    "type, elements": (
        "UNet.channels = 8",
        "UNet.channels = 8\nUNet.multipliers = (1, 2.0)",
        6,
        ["float", "tuple[int"],
    ),
    "type, through a macro": ("BATCH = 4", "BATCH = 4.5", 4, ["4.5", "%BATCH", "int"]),
    "literal for a component": ("BATCH = 4", "BATCH = 4\nsr/Stage.images = 'x'", 3, ["str", "Images", "@"]),
    "family": ("BATCH = 4", "BATCH = 4\nsr/Stage.objective = @UNet()", 3, ["@UNet()", "must be Objective"]),
    "class for an object": ("BATCH = 4", "BATCH = 4\nsr/Stage.network = @UNet", 3, ["@UNet()", "write"]),
    "include": ("base/stage.gin", "base/stages.gin", 1, ["'base/stages.gin'", "'base/stage.gin'"]),
    "syntax": ("UNet.channels = 8", "UNet.channels = true", 5, ["true", "literal"]),
    "bracket": ("@sr/Stage()]", "@sr/Stage()", 4, ["'Training.batch"]),
    "import": ("BATCH = 4", "import fake_components\nBATCH = 4", 2, ["import", "registry.yaml"]),
    "scope not in full": (
        "sr/UNet.channels = 16",
        "sr/UNet.channels = 16\nsr/Objective.schedule = @infer/LinearSchedule()",
        13,
        ["@sr/infer/LinearSchedule()"],
    ),
    "itself": ("BATCH = 4", "BATCH = 4\nStage.objective = @Stage()", 3, ["itself"]),
    "macro of itself": ("BATCH = 4", "BATCH = %BATCH", 2, ["%BATCH out of itself"]),
    "no parameter": ("BATCH = 4", "BATCH = 4\nUNet = 3", 3, ["binds no parameter"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_message_with_place_and_cure(folder: Path, signatures: Signatures, case: str):
    old, new, line, words = BROKEN[case]
    assert old in RECIPE
    found = mistakes(signatures, RECIPE.replace(old, new, 1))
    if case == "itself":
        found = [message for message in found if "itself" in message]
    assert len(found) == 1, "\n".join(found)
    assert found[0].startswith(f"tiny.gin:{line}: ")
    for word in words:
        assert word in found[0]


def test_all_mistakes_are_reported(folder: Path, signatures: Signatures):
    text = RECIPE.replace("UNet.channels = 8", "UNet.chanels = 8").replace("%BATCH", "%BACH").replace("= 16", "= '16'")
    found = mistakes(signatures, text)
    assert [message.split(": ")[0] for message in found] == [f"tiny.gin:{line}" for line in (4, 5, 10, 12)]


def test_a_mistake_in_an_include_names_that_file(folder: Path, signatures: Signatures):
    (folder / "base" / "stage.gin").write_text(BASE.replace("stop", "stopp"))
    assert mistakes(signatures)[0].startswith("base/stage.gin:7: LinearSchedule.stopp")


def test_including_itself(folder: Path, signatures: Signatures):
    (folder / "base" / "stage.gin").write_text("include 'tiny.gin'\n" + BASE)
    assert "includes itself" in mistakes(signatures)[0]


def test_include_places(folder: Path, signatures: Signatures):
    """Beside the including file, and where the command runs."""
    (folder / "base" / "inner.gin").write_text(BASE)
    for name in ("inner.gin", "base/inner.gin"):
        (folder / "base" / "stage.gin").write_text(f"include '{name}'\n")
        assert mistakes(signatures) == []


def test_mistakes_on_the_command_line(folder: Path, signatures: Signatures):
    found = mistakes(signatures, None, "Trainng.batch = 3", "UNet.channels = 'x'")
    assert all(message.startswith("command line: ") for message in found)
    assert "'Training'" in found[0]
    assert "UNet.channels" in found[1]
    assert mistakes(signatures, None, "sr/UNet.channels = 32", "sr/UNet.channels = 64") == []


def test_a_root_binding_that_loses_to_an_included_scoped_one(folder: Path, signatures: Signatures):
    """Gin is silent about it, and the including file has no effect."""
    (folder / "base" / "stage.gin").write_text(BASE + "sr/Training.steps = 5\nbase/Training.steps = 5\n")
    found = mistakes(signatures, RECIPE + "Training.steps = 9\n")
    assert len(found) == 1
    assert found[0].startswith("tiny.gin:13: Training.steps has no effect: base/Training.steps (base/stage.gin:9) wins")


def test_an_ablation_may_swap_a_part(folder: Path, signatures: Signatures):
    """The bindings of the part that was swapped stay behind in the recipe that is included."""
    ablation = "include 'tiny.gin'\nObjective.schedule = @CosineSchedule()\nCosineSchedule.offset = 0.1\n"
    (folder / "ablation.gin").write_text(ablation)
    assert recipe.load("ablation.gin", [], signatures).check_names() == []
    assert mistakes(signatures, RECIPE, "Objective.schedule = @CosineSchedule()") == []
    (folder / "ablation.gin").write_text(ablation + "LinearSchedule.start = 1e-3\n")
    found = recipe.load("ablation.gin", [], signatures).check_names()
    assert [mistake.line for mistake in found] == [4]


def test_an_ablation_may_drop_a_stage(folder: Path, signatures: Signatures):
    assert mistakes(signatures, None, "Pipeline.stages = [@base/Stage()]") == []


def test_restated_defaults_are_noted(folder: Path, signatures: Signatures):
    """Also one of several scopes; but not where a value of another file is set back to the default."""
    text = RECIPE + "sr/Training.steps = 100\nUNet.dropout = 0\nLinearSchedule.stop = 0.02\n"
    loaded = load(signatures, text)
    assert loaded.check_names() == []
    assert sorted(note.message for note in loaded.notes()) == [
        "UNet.dropout = 0 is the default; take it out",
        "sr/Training.steps = 100 is the default; take it out",
    ]


def test_literals(folder: Path, signatures: Signatures):
    """Gin's whole syntax: underscores, signs, joined strings, lists for tuples, trailing commas, comments."""
    text = RECIPE + (
        "Training.steps = 50_000  # a comment\n"
        "Pipeline.report = ['a' 'b',\n  # another\n  'c',]\n"
        "UNet.multipliers = [1, 2]\nUNet.dropout = 0\nTraining.micro_batch = None\n"
        "LinearSchedule.start = 1e-3\nPipeline.seed = (-3)\nUNet.activation = @Activation\nActivation.slope = .5\n"
    )
    assert mistakes(signatures, text) == []
    pipeline = load(signatures, text).build()
    assert pipeline.report == ["ab", "c"]
    assert pipeline.seed == -3
    assert pipeline.stages[0].network.activation.slope == 0.5


def test_no_such_recipe(folder: Path, signatures: Signatures):
    with pytest.raises(UserError, match=r"did you mean 'tiny.gin'"):
        recipe.load("tinny.gin", [], signatures)
    with pytest.raises(UserError, match="is a folder"):
        recipe.load(".", [], signatures)


# ---- building


def test_builds_what_the_recipe_says(folder: Path, signatures: Signatures):
    """Twice in one process, and with another registry's component of the same name between."""
    for _ in range(2):
        built = load(signatures, None, "sr/Training.batch = 2")
        pipeline = built.build()
        base, sr = pipeline.stages
        assert (base.network.channels, sr.network.channels) == (8, 16)
        assert (base.training.batch, sr.training.batch) == (4, 2)
        assert base.objective.schedule.stop == sr.objective.schedule.stop == 0.01
        assert type(base.objective).__name__ == "Objective"


def test_operative_and_frozen_text_load_again(folder: Path, signatures: Signatures):
    built = load(signatures, None, "sr/Training.batch = 2")
    built.build()
    built.freeze(folder / "run")
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["operative.gin", "recipe.gin"]
    frozen = (folder / "run" / "recipe.gin").read_text()
    (folder / "base" / "stage.gin").unlink()
    assert "include" not in "".join(line for line in frozen.splitlines() if not line.startswith("#"))
    for name in ("recipe.gin", "operative.gin"):
        again = recipe.load(folder / "run" / name, [], signatures)
        pipeline = again.build()
        assert [stage.training.batch for stage in pipeline.stages] == [4, 2]
        assert again.operative() == built.operative()


def test_a_frozen_ablation_loads_again(folder: Path, signatures: Signatures):
    """Its text binds keys again that the recipe it includes binds, and so may the next command line."""
    (folder / "ablation.gin").write_text(
        "include 'tiny.gin'\nUNet.channels = 4\nObjective.schedule = @CosineSchedule()\n"
    )
    recipe.load("ablation.gin", ["UNet.channels = 2"], signatures).freeze(folder / "run")
    again = recipe.load("run/recipe.gin", ["UNet.channels = 1"], signatures)
    again.freeze(folder / "run")
    last = recipe.load("run/recipe.gin", [], signatures)
    assert last.check_names() == []
    assert last.build().stages[0].network.channels == 1
    Path("run/recipe.gin").write_text(last.text() + "UNet.dropout = 0.1\nUNet.dropout = 0.2\n")
    assert "twice" in str(recipe.load("run/recipe.gin", [], signatures).check_names()[0])


def test_a_refused_value_is_placed(folder: Path, signatures: Signatures):
    with pytest.raises(UserError) as raised:
        load(signatures, RECIPE.replace("channels = 16", "channels = -4")).build()
    assert str(raised.value) == "tiny.gin:12: sr/UNet: channels must be positive, got -4"
    with pytest.raises(UserError, match=r"^command line: LinearSchedule.start: base/LinearSchedule: start must"):
        load(signatures, RECIPE, "LinearSchedule.start = -1.0").build()


def test_stages_that_do_not_fit_are_placed(folder: Path, signatures: Signatures):
    with pytest.raises(UserError, match=r"^tiny.gin:11: Pipeline: stage 'sr' takes Images.low_resolution = 4"):
        load(signatures, RECIPE.replace("low_resolution = 8", "low_resolution = 4")).build()


def test_a_bug_in_a_constructor_keeps_its_traceback(
    folder: Path, signatures: Signatures, monkeypatch: pytest.MonkeyPatch
):
    import fake_components

    def broken(self: object, batch: int = 8, steps: int = 100, micro_batch: int | None = None) -> None:
        raise KeyError("not the user's fault")

    monkeypatch.setattr(fake_components.Training, "__init__", broken)
    with pytest.raises(KeyError):
        load(signatures).build()


def test_names_agree_with_gin(folder: Path, signatures: Signatures):
    """On random recipes the walk finds the components, scopes and values that Gin itself builds."""
    chance = random.Random(0)
    for _ in range(25):
        text = _random_recipe(chance)
        loaded = load(signatures, text)
        wrong = [m for m in loaded.check_names() if "no effect" not in m.message and "used by nothing" not in m.message]
        assert not wrong, f"{text}\n{wrong}"
        loaded._findings.mistakes.clear()
        loaded.build()
        components = {
            key: value for key, value in gin_config._OPERATIVE_CONFIG.items() if key[1].startswith(GIN_MODULE)
        }
        walked = {(i.scope, f"{GIN_MODULE}.{i.component}"): i for i in loaded.instances}
        assert walked.keys() == components.keys()
        for key, instance in walked.items():
            for parameter, binding in instance.winners.items():
                if isinstance(binding.value, int | float):
                    assert components[key][parameter] == binding.value


def _random_recipe(chance: random.Random) -> str:
    """Two stages with bindings and references at random scopes."""
    scopes = ["", "base/", "sr/", "sr/low/", "base/low/", "PART/"]
    lines = [
        "include 'base/stage.gin'",
        "Pipeline.stages = [@base/Stage(), @sr/Stage()]",
        "UNet.channels = 4",
        "base/Stage.name = 'base'",
        "sr/Stage.name = 'sr'",
        "Images.size = 8",
        "sr/Images.low_resolution = 8",
        "PART = @CosineSchedule()",
    ]
    for scope in ("base/", "sr/"):
        choices = ["@LinearSchedule()", f"@{scope}low/LinearSchedule()", "@CosineSchedule()", "%PART"]
        lines.append(f"{scope}Objective.schedule = {chance.choice(choices)}")
    lines.append("Pipeline.seed = 0")
    if "%PART" not in "".join(lines):
        lines.remove("PART = @CosineSchedule()")
        scopes.remove("PART/")
    known = [scope for scope in scopes if not scope or f"@{scope}" in "".join(lines) or scope == "PART/"]
    for target, make in (
        ("LinearSchedule.start", lambda: f"{chance.uniform(1e-5, 9e-3):.6f}"),
        ("CosineSchedule.offset", lambda: f"{chance.random():.4f}"),
        ("Training.steps", lambda: str(chance.randint(1, 99))),
        ("Objective.steps", lambda: str(chance.randint(1, 99))),
    ):
        for scope in chance.sample(known, chance.randint(0, len(known))):
            lines.append(f"{scope}{target} = {make()}")
    return "\n".join(lines) + "\n"


# ---- checking files and folders


def test_check_prints_sizes(folder: Path, signatures: Signatures, capsys: pytest.CaptureFixture[str]):
    assert recipe.check("tiny.gin", [], signatures=signatures) == 0
    assert capsys.readouterr().out == "ok  tiny.gin  (base 443, sr 1.3K)\n"


def test_check_compares_sizes_with_the_catalogue(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Bindings of the command line make another recipe, of which the catalogue says nothing."""
    (folder / "registry.yaml").write_text((TESTS / "fake_registry.yaml").read_text())
    known = Signatures(registry.load(folder / "registry.yaml"))
    assert recipe.check("tiny.gin", [], signatures=known) == 1
    assert "registry.yaml: parameters of tiny are {'base': 507, 'sr': 1803}, and the" in capsys.readouterr().out
    assert recipe.check("tiny.gin", ["UNet.channels = 4"], signatures=known) == 0


def test_check_of_names_alone(folder: Path, signatures: Signatures, capsys: pytest.CaptureFixture[str]):
    """What only a constructor can refuse is left to the full depth."""
    assert recipe.check("tiny.gin", ["UNet.channels = -1"], "names", signatures) == 0
    assert capsys.readouterr().out == "ok  tiny.gin\n"
    assert recipe.check("tiny.gin", ["UNet.channels = -1"], "full", signatures) == 1


def test_check_of_a_folder(folder: Path, signatures: Signatures, capsys: pytest.CaptureFixture[str]):
    """Fragments in base/ are passed over; one wrong recipe does not hide the others."""
    (folder / "other.gin").write_text(RECIPE.replace("size = 8", "sise = 8"))
    assert recipe.check(".", [], signatures=signatures) == 1
    out = capsys.readouterr().out
    assert "ok  tiny.gin" in out
    assert "wrong  other.gin\n    other.gin:7: " in out
    assert "stage.gin" not in out
    assert "1 of 2 recipes are right" in out


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("base/Images.size = 8", "base/Images.size = 8\nImages.source = 'shape'", "tiny.gin:8: stage 'base'"),
        (
            "UNet.channels = 8",
            "UNet.channels = 8\nsr/UNet.out_channels = 6",
            "tiny.gin:6: stage 'sr': the network returns [1, 16, 16, 6], but [1, 16, 16, 3] is needed",
        ),
    ],
)
def test_check_finds_what_only_building_shows(
    folder: Path, signatures: Signatures, capsys: pytest.CaptureFixture[str], old: str, new: str, place: str
):
    Path("tiny.gin").write_text(RECIPE.replace(old, new))
    assert recipe.check("tiny.gin", [], signatures=signatures) == 1
    assert place in capsys.readouterr().out


def test_names_need_no_tensorflow(folder: Path):
    """The check of names answers in a moment: neither TensorFlow nor Keras is imported for it."""
    program = (
        "import sys; from zoo import recipe, registry, signatures\n"
        f"known = signatures.Signatures(registry.load({str(TESTS / 'fake_registry.yaml')!r}))\n"
        "print(len(recipe.load('tiny.gin', [], known).check_names()))\n"
        "print({'tensorflow', 'keras', 'fake_components'} & set(sys.modules) or 'light')\n"
    )
    paths = f"import sys; sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]\n"
    done = subprocess.run([sys.executable, "-c", paths + program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\nlight\n", done.stderr


def teardown_module() -> None:
    gin.clear_config()
