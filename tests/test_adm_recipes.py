"""ADM's recipes against what the paper prints: hyperparameters field by field, and the settings of every row."""

from collections.abc import Callable
from typing import Any

import pytest
from printed import (
    CATALOGUE,
    FIELDS,
    PRINTED,
    ROLES,
    ROOT,
    SCHEDULES,
    built,
    fields,
    heads,
    identity,
    loaded,
    paper,
    remarks,
    said,
)

from harness.metrics.frechet import FID, SFID
from harness.metrics.inception_score import ADMInceptionScore
from harness.metrics.precision_recall import PrecisionRecall
from harness.published import Row, Table, Way
from zoo.data.random_crops import RandomCrop
from zoo.diffusion.guidance import ClassifierGuidance
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler
from zoo.diffusion.temperatures import EpsilonTemperature, NoiseTemperature
from zoo.learner import Learner
from zoo.networks.attention import HeadChannels, HeadCount
from zoo.networks.classifier import NoisyClassifier
from zoo.networks.pooling import AttentionPooling
from zoo.networks.resampling import ResidualResampling
from zoo.networks.residual_sums import RescaledSum
from zoo.networks.unet import BilinearEnlarging
from zoo.pipeline import Pipeline, Stage
from zoo.training.checkpoints import of_stage

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


# entry -> recipe
CLASSIFIERS = {
    "adm_classifier_imagenet64": "adm_imagenet64_guided",
    "adm_classifier_imagenet128": "adm_imagenet128_guided",
    "adm_classifier_imagenet128_for_128to512": "adm_imagenet512_guided_upsampled",
    "adm_classifier_imagenet256": "adm_imagenet256_guided",
    "adm_classifier_imagenet512": "adm_imagenet512_guided",
}
CLASSIFIER_FIELDS: dict[str, Callable[[Any], Any]] = ADM_FIELDS | {
    "architecture.type": lambda stage: {NoisyClassifier: "unet encoder"}[type(stage.network)],
    "architecture.attention_pooling": lambda stage: isinstance(stage.network.pooling, AttentionPooling),
    "augmentation.random_crop": lambda stage: isinstance(stage.images.random_crop, RandomCrop),
    "diffusion.train.timesteps": lambda stage: stage.process.steps,
    "diffusion.train.noise_schedule": lambda stage: SCHEDULES[type(stage.process.schedule)],
}
del CLASSIFIER_FIELDS["augmentation"]


@pytest.mark.parametrize("entry", CLASSIFIERS)
def test_classifiers_equal_the_published_hyperparameters(entry: str) -> None:
    stage = built(f"recipes/{CLASSIFIERS[entry]}.gin").stage("classifier")
    like = PRINTED[entry]["architecture"].get("same_as", entry)
    printed = PRINTED[entry] | {"architecture": PRINTED[like]["architecture"]}
    for path, value in fields(printed, CLASSIFIER_FIELDS):
        if path not in UNCOMPARED:
            ours = CLASSIFIER_FIELDS[path](stage)
            value = sorted(value) if path.endswith("attention_resolutions") else value
            assert ours == value, f"{path} is {ours}, the paper has {value}"
    assert abs(CATALOGUE.recipes[CLASSIFIERS[entry]].parameters["classifier"] / 1e6 - printed["params_m"]) < 1
    assert stage.network.attention.resolutions[-1] == PRINTED["adm_guided_sampling"]["classifier_pooling_resolution"]
    assert stage.training.optimizer.schedule.steps == stage.training.steps
    assert "linearly to zero" in remarks(f"recipes/{CLASSIFIERS[entry]}.gin")


def test_scales_are_those_of_table_14() -> None:
    printed = PRINTED["adm_guided_sampling"]["gradient_scale"]
    for name, scale in printed["steps_250"].items():
        (stage,) = built(f"recipes/adm_{name}_guided.gin").cascade
        assert (stage.sampler.guidance.scale, stage.sampler_steps) == (scale, 250)


def test_the_unconditional_model_is_trained_alike_guided_or_not() -> None:
    alone, guided = (loaded(f"recipes/adm_imagenet256_uncond{name}.gin").stages()[-1] for name in ("", "_guided"))
    assert alone.training == guided.training


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
        assert steps_of(row, stage) == (steps if isinstance(steps, list) else [steps])
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


def steps_of(row: Row, stage: Learner) -> list[int]:
    """The training steps of a stage that the row is a measurement of."""
    named = ["last" if one is None else of_stage(one, stage.name) for one in way(row).checkpoints]
    return [stage.training.steps if one == "last" else int(one) for one in named]


SWEEP = PRINTED["adm_lsun_sampling_schedule"]


def schedule(table: Table, stage: Stage) -> Any:
    """The steps of each fifth of the process, in the words of table 16."""
    if stage.sampler.steps is None:
        return "training"
    fifths = [int(steps) for steps in stage.sampler.steps.split(",")]
    words = {"uniform": SWEEP["uniform"], "sweep": SWEEP["swept_best"]}
    return fifths if table.id == "adm/15" else next(word for word, steps in words.items() if steps == fifths)


def scale(stage: Stage) -> float | None:
    guidance = stage.sampler.guidance
    return guidance.scale if isinstance(guidance, ClassifierGuidance) else None


# Setting of a row -> what it is in the only model, or in the one that is guided and enlarged.
SETTINGS: dict[str, Callable[[Stage], Any]] = {
    "channels": lambda stage: stage.network.channels,
    "depth": lambda stage: stage.network.blocks,
    "heads": lambda stage: heads(stage, HeadCount),
    "head_channels": lambda stage: heads(stage, HeadChannels),
    "attention_resolutions": lambda stage: list(stage.network.attention.resolutions),
    "biggan_updown": lambda stage: isinstance(stage.network.resampling, ResidualResampling),
    "rescale_resblock": lambda stage: isinstance(stage.network.residual_sum, RescaledSum),
    "dropout": lambda stage: stage.network.rate > 0,
    "conditional": lambda stage: stage.conditioned_on_class,
    "guidance": lambda stage: stage.classifier is not None,
    "scale": scale,
    "guidance_scale": scale,
    "sampler": lambda stage: {AncestralSampler: "ancestral", DDIMSampler: "ddim"}[type(stage.sampler)],
    "sampling_steps": lambda stage: stage.sampler_steps,
    "steps_base": lambda stage: stage.sampler_steps,
    "scaled": lambda s: {NoiseTemperature: "noise", EpsilonTemperature: "epsilon"}[type(s.sampler.temperature)],
    "temperature": lambda stage: stage.sampler.temperature.value,
}


def setting(name: str, table: Table, row: Row) -> Any:
    """What a recipe has for a printed setting."""
    pipeline = pipeline_of(row)
    base, *upsamplers = pipeline.cascade
    match name:
        case "schedule":
            return schedule(table, base)
        case "steps_upsample":
            return upsamplers[0].sampler_steps if upsamplers else None
        case "iterations":
            return steps_of(row, base)[0]
        case "upsampler_iterations":
            return steps_of(row, upsamplers[0])[0]
        case "classifier_iterations":
            return pipeline.stage("classifier").training.steps
        case "classifier_batch_size":
            return pipeline.stage("classifier").training.batch
    return SETTINGS[name](base)


@pytest.mark.parametrize(("table", "row"), OURS, ids=[f"{table.id}:{row.id}" for table, row in OURS])
def test_every_own_row_has_a_recipe_with_its_settings(table: Table, row: Row) -> None:
    pipeline = pipeline_of(row)
    assert pipeline.last.size == row.content["resolution"]
    for name, value in row.settings.items():
        assert setting(name, table, row) == value, name
    for stage in pipeline.stages:
        kept = {*stage.training.monitoring.keep_at, stage.training.steps}
        assert set(steps_of(row, stage)) <= kept, f"checkpoints of {stage.name} that are not kept"
    check_system(table, row)
    check_scores(table, pipeline)


def check_system(table: Table, row: Row) -> None:
    """What the name of the system says: guided, upsampled, told the class; and that DDIM has fewer than 50 steps."""
    base, *upsamplers = pipeline_of(row).cascade
    parts = row.content["system"].split("-")
    assert ("g" in parts) == (base.classifier is not None)
    assert ("u" in parts) == bool(upsamplers)
    assert all(upsampler.classifier is None for upsampler in upsamplers)
    assert ("uncond" in parts or "lsun" in str(row.content.get("dataset", table.content["dataset"]))) == (
        not base.conditioned_on_class
    )
    if "classifier_scale" in table.protocol:
        assert scale(base) == table.protocol["classifier_scale"]
    for stage in (base, *upsamplers):
        assert isinstance(stage.sampler, DDIMSampler) == (stage.sampler_steps < 50)
    ddim = [scale(stage) for stage in (base, *upsamplers) if isinstance(stage.sampler, DDIMSampler)]
    printed = PRINTED["adm_guided_sampling"]["gradient_scale"]["ddim_25"]
    assert {*ddim} <= {printed[f"imagenet{base.size}"], None}


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


SPEEDS = [row for table in ADM.tables for row in table.rows if row.benchmark]


@pytest.mark.parametrize("row", SPEEDS, ids=[f"{row.content['group']}:{row.label}" for row in SPEEDS])
def test_rows_of_speeds_have_the_printed_batch_and_implementation(row: Row) -> None:
    """Of the paper's optimisations XLA has the fused normalisation; the fused optimizer is always there."""
    stage = built(row.content["recipe"], tuple(row.content.get("bindings") or ())).last
    implementation, batch = row.settings["implementation"], row.settings["batch_size_per_gpu"]
    assert stage.size == row.content["resolution"]
    assert (stage.training.compiler is not None) == (implementation == "optimized")
    assert (stage.training.precision.policy == "mixed_float16") == (implementation != "theoretical")
    assert batch in (None, stage.training.batch)


def test_every_own_row_is_a_recipe_or_a_speed() -> None:
    own = [row for table in ADM.tables for row in table.rows if row.ours]
    assert len(own) == len(OURS) + len(SPEEDS)
    assert not ADM.awaited


def made_by(row: Row) -> tuple[str, tuple[str | None, ...]]:
    """What makes two rows one measurement."""
    return identity(way(row).recipe, way(row).bindings), way(row).checkpoints


def test_rows_of_one_printed_number_are_one_experiment() -> None:
    """Table 3's AdaGN is table 2's 64 channels a head: 13.06, and 14.08 - 1.03."""
    rows = {f"{table.id}:{row.id}": made_by(row) for table, row in OURS}
    for one, other in (
        ("adm/2:head-channels-64", "adm/3:adagn"),
        ("adm/4:cond", "adm/5:imagenet-256-adm"),
        ("adm/6:256-adm", "adm/5:imagenet-256-adm"),
        ("adm/6:512-adm", "adm/5:imagenet-512-adm"),
        ("adm/10:lsun-horse-adm-250k", "adm/5:lsun-horse-256-adm"),
        ("adm/10:lsun-cat-adm-dropout-200k", "adm/5:lsun-cat-256-adm-dropout"),
        ("adm/4:cond-guided-1.0", "adm/5:imagenet-256-adm-g"),
        ("adm/6:256-adm-g", "adm/5:imagenet-256-adm-g"),
        ("adm/6:512-adm-g", "adm/5:imagenet-512-adm-g"),
        ("adm/9:1980k", "adm/5:imagenet-256-adm-g"),
        ("adm/10:imagenet-256-adm-g-1980k", "adm/9:1980k"),
        ("adm/10:imagenet-256-adm-g-750k", "adm/9:750k"),
        ("adm/10:imagenet-128-adm-g-4360k", "adm/8:4360k"),
        ("adm/fig-scale:scale-0.5", "adm/5:imagenet-128-adm-g"),
        ("adm/10:imagenet-256-adm-g-540k-u-500k", "adm/6:256-adm-g-u"),
        ("adm/10:imagenet-512-adm-g-4360k-u-1050k", "adm/6:512-adm-g-u-250-250"),
    ):
        assert rows[one] == rows[other]
    ablations = ("adm/1:", "adm/2:", "adm/3:")
    assert len({rows[name] for name in rows if name.startswith(ablations)}) == 15


def test_every_ablation_is_a_row() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes" / "ablations" / "adm").glob("*.gin")}
    assert files <= {way(row).recipe for _, row in OURS}
