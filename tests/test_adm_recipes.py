"""ADM's recipes against what the paper prints: hyperparameters field by field, and the settings of every row."""

from collections.abc import Callable
from typing import Any

import pytest
from printed import CATALOGUE, FIELDS, PRINTED, ROLES, ROOT, built, fields, heads, identity, paper, said

from harness.metrics.frechet import FID, SFID
from harness.metrics.inception_score import ADMInceptionScore
from harness.metrics.precision_recall import PrecisionRecall
from harness.published import Row, Table, Way
from zoo.diffusion.temperatures import EpsilonTemperature, NoiseTemperature
from zoo.networks.attention import HeadChannels, HeadCount
from zoo.networks.resampling import ResidualResampling
from zoo.networks.residual_sums import RescaledSum
from zoo.networks.unet import BilinearEnlarging
from zoo.pipeline import Pipeline, Stage

ADM = paper("adm")
OURS = [(table, row) for table in ADM.tables for row in table.rows if row.ours and row.ways]

# ---- hyperparameters

# recipe -> (entry of the papers' hyperparameters, its key in settings that the entry prints for several datasets)
ENTRIES: dict[str, tuple[str, str | None]] = {
    "adm_imagenet64": ("adm_imagenet64", None),
    "adm_imagenet128": ("adm_imagenet128", None),
    "adm_imagenet256": ("adm_imagenet256", None),
    "adm_imagenet256_uncond": ("adm_imagenet256_uncond", None),
    "adm_imagenet512": ("adm_imagenet512", None),
    "adm_upsampler256": ("adm_upsampler64to256", None),
    "adm_upsampler512": ("adm_upsampler128to512", None),
    "adm_lsun_bedroom": ("adm_lsun", "lsun-bedroom"),
    "adm_lsun_horse": ("adm_lsun", "lsun-horse"),
    "adm_lsun_cat": ("adm_lsun", "lsun-cat"),
}
# The paper prints 8 too, and no feature map of this network has 8 pixels.
UNREACHABLE = {"adm_upsampler512": {8}}
BILINEAR = "channel concatenation after simple interpolation (such as bilinear)"


def enlarged(stage: Stage) -> str | bool:
    low = stage.network.low_resolution
    return BILINEAR if low and isinstance(low.enlarging, BilinearEnlarging) else False


ADM_FIELDS: dict[str, Callable[[Stage], Any]] = FIELDS | {
    "conditioning.low_resolution_image": enlarged,
    "training.optimizer": lambda stage: "adam or adamw",  # the paper does not say which of them a model has
    "augmentation": lambda stage: stage.images.flip,
}
# How the file has what is printed: in its text, in the catalogue's counts, or not at all.
UNCOMPARED = {
    "paper", "kind", "partial", "notes", "params_m", "training.hardware", "training.dropout_from_resolution",
    "diffusion.inference.alternatives",
}  # fmt: skip
# What is chosen in place of a field that is printed as null -> a word of the comment that says so.
CHOSEN = {
    "architecture": "that of the class-conditional model",
    "architecture.emb_channels": "embeddings of four times",
    "conditioning.class_labels": "told the class",
    "training.eps": "epsilon",
    "training.weight_decay": "weight decay",
    "augmentation": "flips",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_recipes_equal_the_published_hyperparameters(name: str) -> None:
    """Every field that the paper prints; where it prints none, a comment says what was chosen."""
    entry, key = ENTRIES[name]
    file = f"recipes/{name}.gin"
    (stage,) = built(file).stages
    for path, value in fields(PRINTED[entry], ADM_FIELDS):
        if path in UNCOMPARED or (path == "architecture" and value is None):
            continue
        ours = ADM_FIELDS[path](stage)
        match path:
            case "role":
                value = ROLES[value]
            case "dataset" if key:
                assert ours in value
                value = key
            case "training.steps" if key:
                value = value[key]
            case "architecture.attention_resolutions":
                value = sorted(set(value) - UNREACHABLE.get(name, set()))
            case "diffusion.inference.timesteps" if isinstance(value, list):
                value = max(value)  # the longest is that of the recipe, and the others are bindings
        if value is None:
            assert ours is None or ours == 0 or said(path, file, CHOSEN), f"{path} is {ours}, and nothing says chosen"
        else:
            assert ours == value, f"{path} is {ours}, the paper has {value}"


@pytest.mark.parametrize("name", [name for name, (entry, _) in ENTRIES.items() if PRINTED[entry]["params_m"]])
def test_sizes_are_those_that_the_paper_rounds(name: str) -> None:
    (count,) = CATALOGUE.recipes[name].parameters.values()
    assert abs(count / 1e6 - PRINTED[ENTRIES[name][0]]["params_m"]) < 1


def test_ablations_share_the_printed_settings() -> None:
    """What tables 1 to 3 print in their captions and the text, for all of their rows."""
    attention = PRINTED["adm_ablation_attention"]["architecture"]
    for table, row in OURS:
        entry = {"adm/1": "architecture", "adm/2": "attention", "adm/3": "adagn"}.get(table.id)
        if entry is None:
            continue
        printed = PRINTED[f"adm_ablation_{entry}"]
        (stage,) = pipeline_of(row).stages
        assert stage.training.batch == printed["training"]["batch_size"]
        assert stage.sampler_steps == printed["inference"]["timesteps"]
        assert stage.size == printed["resolution"]
        steps = printed["training"].get("steps") or printed["training"]["evaluated_at_iterations"]
        assert looked_at(row) == (steps if isinstance(steps, list) else [steps])
        if entry != "architecture":
            assert stage.network.channels == attention["base_channels"]
            assert stage.network.blocks == attention["res_blocks"]
            assert list(stage.network.attention.resolutions) == attention["attention_resolutions"]
            assert isinstance(stage.network.resampling, ResidualResampling) == attention["biggan_updown"]


# ---- rows


def way(row: Row) -> Way:
    return row.ways["full"]


def pipeline_of(row: Row) -> Pipeline:
    return built(way(row).recipe, way(row).bindings)


def looked_at(row: Row) -> list[int]:
    """The steps of the last stage that the row is a measurement of."""
    last = pipeline_of(row).stages[-1].training
    return [last.steps if one is None else int(one) for one in way(row).checkpoints]


SWEEP = PRINTED["adm_lsun_sampling_schedule"]


def schedule(table: Table, stage: Stage) -> Any:
    """The steps of each fifth of the process, in the words of table 16."""
    if stage.sampler.steps is None:
        return "training"
    fifths = [int(steps) for steps in stage.sampler.steps.split(",")]
    words = {"uniform": SWEEP["uniform"], "sweep": SWEEP["swept_best"]}
    return fifths if table.id == "adm/15" else next(word for word, steps in words.items() if steps == fifths)


# Setting of a row -> what it is in a stage.
SETTINGS: dict[str, Callable[[Stage], Any]] = {
    "conditional": lambda stage: stage.conditioned_on_class,
    "guidance": lambda stage: False,
    "scale": lambda stage: None,
    "dropout": lambda stage: stage.network.rate > 0,
    "sampling_steps": lambda stage: stage.sampler_steps,
    "scaled": lambda s: {NoiseTemperature: "noise", EpsilonTemperature: "epsilon"}[type(s.sampler.temperature)],
    "temperature": lambda stage: stage.sampler.temperature.value,
    "channels": lambda stage: stage.network.channels,
    "depth": lambda stage: stage.network.blocks,
    "heads": lambda stage: heads(stage, HeadCount),
    "head_channels": lambda stage: heads(stage, HeadChannels),
    "attention_resolutions": lambda stage: list(stage.network.attention.resolutions),
    "biggan_updown": lambda stage: isinstance(stage.network.resampling, ResidualResampling),
    "rescale_resblock": lambda stage: isinstance(stage.network.residual_sum, RescaledSum),
}


@pytest.mark.parametrize(("table", "row"), OURS, ids=[f"{table.id}:{row.id}" for table, row in OURS])
def test_every_own_row_has_a_recipe_with_its_settings(table: Table, row: Row) -> None:
    pipeline = pipeline_of(row)
    last, upsampler = pipeline.stages[-1], pipeline.stages[-1] if len(pipeline.stages) > 1 else None
    assert last.size == row.content["resolution"]
    for name, value in row.settings.items():
        match name:
            case "steps_base":
                ours: Any = pipeline.stages[0].sampler_steps
            case "steps_upsample":
                ours = upsampler and upsampler.sampler_steps
            case "schedule":
                ours = schedule(table, last)
            case "iterations":
                ours, value = looked_at(row), [value]
            case _:
                ours = SETTINGS[name](last)
        assert ours == value, name
    for step in looked_at(row):
        kept = last.training.monitoring.keep_at
        assert step == last.training.steps or step in kept, f"the checkpoint of step {step} is not kept"
    check_scores(table, pipeline)


def check_scores(table: Table, pipeline: Pipeline) -> None:
    """The metrics of the printed columns, by the printed protocol."""
    metrics = {type(metric) for metric in pipeline.evaluation.metrics}
    wanted = {"fid": FID, "sfid": SFID, "is": ADMInceptionScore} | dict.fromkeys(
        ("precision", "recall"), PrecisionRecall
    )
    columns = {column.metric.removeprefix("delta_") for column in table.columns}
    assert {wanted[metric] for metric in columns & set(wanted)} <= metrics
    assert pipeline.samples.count == table.protocol.get("samples_fid", 50_000)
    assert pipeline.evaluation.reference_split == "train"


def test_rows_of_one_printed_number_are_one_experiment() -> None:
    """Table 3's AdaGN is table 2's 64 channels a head: 13.06, and 14.08 - 1.03."""
    rows = {f"{table.id}:{row.id}": identity(way(row).recipe, way(row).bindings) for table, row in OURS}
    for one, other in (
        ("adm/2:head-channels-64", "adm/3:adagn"),
        ("adm/4:cond", "adm/5:imagenet-256-adm"),
        ("adm/6:256-adm", "adm/5:imagenet-256-adm"),
        ("adm/6:512-adm", "adm/5:imagenet-512-adm"),
        ("adm/10:lsun-horse-adm-250k", "adm/5:lsun-horse-256-adm"),
        ("adm/10:lsun-cat-adm-dropout-200k", "adm/5:lsun-cat-256-adm-dropout"),
    ):
        assert rows[one] == rows[other]
    ablations = ("adm/1:", "adm/2:", "adm/3:")
    assert len({rows[name] for name in rows if name.startswith(ablations)}) == 15


def test_every_ablation_is_a_row() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes" / "ablations" / "adm").glob("*.gin")}
    assert files <= {way(row).recipe for _, row in OURS}
