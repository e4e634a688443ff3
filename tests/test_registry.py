"""registry.yaml: strict reading, the list of recipes, and that everything it names is there."""

from pathlib import Path

import pytest

from zoo import registry
from zoo.console import UserError
from zoo.signatures import KERAS_PARAMETERS, Signatures

COMPONENT = "{family: schedules, target: fake_components.LinearSchedule, source: DDPM}"


def write(folder: Path, text: str) -> Path:
    path = folder / "registry.yaml"
    path.write_text(text)
    return path


def test_reads_components_and_recipes(tmp_path: Path):
    entry = "{file: a.gin, title: A, paper: CDM, dataset: cifar10, parameters: {base: 12}}"
    path = write(tmp_path, f"components:\n  LinearSchedule: {COMPONENT}\nrecipes:\n  a: {entry}\n")
    found = registry.load(path)
    component = found.components["LinearSchedule"]
    assert (component.family, component.module, component.source, component.line) == (
        "schedules",
        "fake_components",
        "DDPM",
        2,
    )
    assert component.load().__name__ == "LinearSchedule"
    assert found.recipes["a"].parameters == {"base": 12}
    assert found.root == tmp_path


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"components:\n  LinearSchedule: {COMPONENT}\n  LinearSchedule: {COMPONENT}\n", 3, "on line 2 already"),
        ("components: {}\nrecipes: {}\ncomponents: {}\n", 3, "on line 1 already"),
        ("components:\n  A: {family: x, target: b.A, family: y}\n", 2, "'family' was given on line 2"),
        ("components:\n  A: {family: x}\n", 2, "lacks the field 'target'"),
        ("components:\n  A: {family: x, target: b.A, sourse: y}\n", 2, "did you mean 'source'"),
        ("components:\n  A: {family: x, target: b.B}\n", 2, "the key must be the class's name"),
        ("component: {}\n", 1, "did you mean 'components'"),
        ("components: [\n", 2, ""),
        ("recipes:\n  a: {title: A, dataset: x}\n", 2, "lacks the field 'file'"),
        ("recipes:\n  a: 3\n", 2, "must be a mapping"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, line: int, message: str):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as raised:
        registry.load(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert message in str(raised.value)


def test_missing_file(tmp_path: Path):
    with pytest.raises(UserError, match="is not there"):
        registry.load(tmp_path / "registry.yaml")


def test_list_fits_a_terminal(tmp_path: Path):
    text = "recipes:\n"
    for number in range(3):
        entry = f"{{file: r{number}.gin, title: {'long ' * 30}, dataset: imagenet2012, parameters: {{base: 1234567}}}}"
        text += f"  recipe{number}: {entry}\n"
    found = registry.load(write(tmp_path, text))
    lines = registry.render_list(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("base 1.2M" in line for line in lines) == 3
    assert found.recipes_json()[2]["file"] == "r2.gin"


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (999, "999"), (1803, "1.8K"), (10_735_619, "10.7M"), (553_838_086, "554M"), (999_960_000, "1.0B")],
)
def test_short_count(count: int, text: str):
    assert registry.short_count(count) == text


def test_the_catalogue_is_true():
    """Every component of the real registry.yaml is there and annotated, and every recipe's file exists."""
    found = registry.load()
    signatures = Signatures(found)
    for name in found.components:
        for parameter in signatures.of(name).parameters.values():
            own = parameter.name not in KERAS_PARAMETERS
            assert parameter.annotation is not None or not own, f"{name}.{parameter.name} has no annotation"
    missing = [entry.file for entry in found.recipes.values() if not (found.root / entry.file).is_file()]
    assert not missing


def test_signatures_agree_with_python():
    """What is read from source is what `inspect` sees on the imported class."""
    import inspect

    signatures = Signatures(registry.load(Path(__file__).parent / "fake_registry.yaml"))
    for name, component in signatures.registry.components.items():
        cls = component.load()
        expected = {
            parameter.name: parameter.default is inspect.Parameter.empty
            for parameter in inspect.signature(cls.__init__).parameters.values()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and parameter.name != "self"
        }
        read = {key: value.required for key, value in signatures.of(name).parameters.items()}
        passed_on = dict.fromkeys(KERAS_PARAMETERS, False) if name == "Activation" else {}
        assert read == expected | passed_on
        chain = [base.__name__ for base in cls.__mro__]
        assert [base.rpartition(".")[2] for base in signatures.of(name).bases] == chain[
            : len(signatures.of(name).bases)
        ]


def test_a_component_that_is_not_there(tmp_path: Path):
    text = "components:\n  LinearShedule: {family: x, target: fake_components.LinearShedule}\n"
    signatures = Signatures(registry.load(write(tmp_path, text)))
    with pytest.raises(UserError, match="did you mean 'LinearSchedule'"):
        signatures.of("LinearShedule")
