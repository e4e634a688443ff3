"""CDM's recipes against what the paper prints: hyperparameters field by field, and the settings of every row."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from printed import FIELDS, PRINTED, ROLES, ROOT, adam, built, fields, identity, loaded, paper, said

from harness.metrics.classification_accuracy import ResNetAccuracy
from harness.metrics.frechet import FID, HeldOutFID
from harness.metrics.inception_score import InceptionScore
from harness.published import Row, Table, Way
from zoo.diffusion.conditioning import GaussianBlur, GaussianNoise
from zoo.networks.residual_sums import RescaledSum
from zoo.origins import RealImages, TruncatedSamples
from zoo.pipeline import Pipeline, Stage

OURS = [(table, row) for table in paper("cdm").tables for row in table.rows if row.ours]


def augmentation(stage: Stage) -> Any:
    return stage.low_resolution and stage.low_resolution.augmentation


# ---- hyperparameters

# entry of the papers' hyperparameters -> recipe and stage
STAGES = {
    "cdm_imagenet32_base": ("recipes/cdm_imagenet256.gin", "base32"),
    "cdm_imagenet32to64": ("recipes/cdm_imagenet256.gin", "sr64"),
    "cdm_imagenet64to128": ("recipes/cdm_imagenet128.gin", "sr128"),
    "cdm_imagenet64to256": ("recipes/cdm_imagenet256.gin", "sr256"),
    "cdm_lsun64_base": ("recipes/cdm_lsun_bedroom128.gin", "base64"),
    "cdm_lsun64to128": ("recipes/cdm_lsun_church128.gin", "sr128"),
    "cdm_imagenet64_noncascaded": ("recipes/cdm_imagenet64_single.gin", "single"),
    "cdm_imagenet16_base": ("recipes/ablations/cdm/cascade16.gin", "base16"),
    "cdm_imagenet16to64": ("recipes/ablations/cdm/cascade16_s1001.gin", "sr64"),
}
CONCATENATED = "channel concatenation after upsampling"


def noise_range(stage: Stage) -> dict[str, Any]:
    found = augmentation(stage)
    told = stage.network.low_resolution.time is not None
    drawn = {"distribution": "uniform", "min": found.smallest, "max": found.largest}
    return {**drawn, "amortized": found.smallest < found.largest, "extra_time_embedding": told}


# Field of an entry -> what it is in a stage. Fields of no stage are in UNCOMPARED.
CDM_FIELDS: dict[str, Callable[[Stage], Any]] = FIELDS | {
    "conditioning.low_resolution_image": lambda stage: CONCATENATED if stage.low_resolution else False,
    "conditioning_augmentation": lambda stage: augmentation(stage),
    "conditioning_augmentation.train_truncation_time": noise_range,
    "conditioning_augmentation.amortized": lambda stage: noise_range(stage)["amortized"],
    "conditioning_augmentation.inference_truncation_time_best_truncated": lambda stage: stage.level,
    "conditioning_augmentation.blur_sigma_range": lambda s: [augmentation(s).smallest, augmentation(s).largest],
    "conditioning_augmentation.blur_probability": lambda stage: augmentation(stage).probability,
}
# How the file has what is printed: in its text, in other entries or rows, or not at all.
UNCOMPARED = {
    "paper", "kind", "partial", "notes", "params_m", "training.hardware", "architecture.based_on",
    "architecture.same_as", "architecture.change", "conditioning_augmentation.type",
    "conditioning_augmentation.kernel_size", "conditioning_augmentation.inference",
    "conditioning_augmentation.inference_modes", "conditioning_augmentation.inference_truncation_times_reported",
    "conditioning_augmentation.truncation_times", "conditioning_augmentation.blur_sigma_ranges_tried",
    "diffusion.inference.more_sampling_steps", "training.dropout_from_resolution",
}  # fmt: skip
# What is chosen in place of a field that is printed as null -> a word of the comment that says so.
CHOSEN = {
    "architecture.emb_channels": "embeddings of four times",
    "architecture": "public flags",
    "training.betas": "usual betas",
    "training.eps": "epsilon",
    "training.warmup_steps": "warm-up",
    "training.weight_decay": "weight decay",
    "training.grad_clip": "clipping",
    "training.dropout": "dropout",
    "training.steps": "twice the",
    "training": "public flags",
    "augmentation.random_flip": "flips|are printed",
    "conditioning_augmentation.blur_sigma_range": "range",
    "diffusion.train.timesteps": "4,000 steps",
    "diffusion": "public flags",
}


@pytest.mark.parametrize("name", [name for name in PRINTED if name.startswith("cdm_")])
def test_recipes_equal_the_published_hyperparameters(name: str) -> None:
    """Every field that the paper prints; where it prints none, a comment says what was chosen."""
    file, stage_name = STAGES[name]
    stage = built(file).stage(stage_name)
    for path, value in fields(PRINTED[name], CDM_FIELDS):
        if path in UNCOMPARED:
            continue
        ours = CDM_FIELDS[path](stage)
        if path == "role":
            value = ROLES[value]
        if path == "dataset" and isinstance(value, list):
            ours, value = ours in {"lsun-bedroom", "lsun-church_outdoor"}, True
        if value is None:
            assert ours is None or said(path, file, CHOSEN), (
                f"{name}: {path} is {ours}, not printed, and nothing says chosen"
            )
        else:
            assert ours == value, f"{name}: {path} is {ours}, the paper has {value}"


def test_the_augmentations_are_of_the_printed_kind() -> None:
    for name, (file, stage_name) in STAGES.items():
        printed = PRINTED[name].get("conditioning_augmentation")
        found = augmentation(built(file).stage(stage_name))
        if printed is None:
            assert found is None
        elif printed["type"] == "gaussian blur":
            assert isinstance(found, GaussianBlur)
        else:
            assert isinstance(found, GaussianNoise)
            before = built(file).before(built(file).stage(stage_name))
            assert before is not None
            ours, theirs = found.process, before.objective.process
            assert (type(ours), type(ours.schedule), ours.steps) == (type(theirs), type(theirs.schedule), theirs.steps)


def test_the_hardware_is_said() -> None:
    for name, (file, _) in STAGES.items():
        hardware = PRINTED[name].get("training", {}).get("hardware")
        if hardware:
            cost = re.search(r"(?m)^# Cost: +(.*)", (ROOT / file).read_text())
            assert cost is not None
            assert hardware.split()[0] in cost[1], name


def test_the_cascade_of_the_small_comparison_has_the_network_of_the_baseline() -> None:
    single = built("recipes/cdm_imagenet64_single.gin").stage("single").network
    enlarging = built("recipes/ablations/cdm/cascade16.gin").stage("sr64").network
    for part in ("channels", "multipliers", "blocks", "rate", "classes", "out_channels"):
        assert getattr(single, part) == getattr(enlarging, part)
    assert single.attention.resolutions == enlarging.attention.resolutions


@pytest.mark.parametrize("file", ["cdm_imagenet128", "cdm_imagenet256", "sr3_imagenet256"])
def test_large_stages_have_the_blocks_of_sr3(file: str) -> None:
    pipeline = built(f"recipes/{file}.gin")
    assert isinstance(pipeline.stages[-1].network.residual_sum, RescaledSum)
    assert all(stage.network.residual_sum is None for stage in pipeline.stages[:-1])


def test_sr3_is_trained_as_its_paper_says() -> None:
    """arXiv:2104.07636, section 4 and table A.1."""
    (stage,) = built("recipes/sr3_imagenet256.gin").stages
    assert (stage.training.batch, stage.training.steps, adam(stage).learning_rate) == (256, 1_000_000, 1e-4)
    assert (adam(stage).schedule.steps, stage.network.rate, stage.objective.process.steps) == (10_000, 0.0, 2000)
    assert (stage.network.channels, stage.network.multipliers, stage.network.blocks) == (128, (1, 2, 4, 4, 8, 8), 3)
    assert not stage.conditioned_on_class
    assert isinstance(stage.origin, RealImages)
    assert augmentation(stage) is None


def test_levels_of_lsun_are_told_as_noise_levels() -> None:
    stage = built("recipes/cdm_lsun_church128.gin").stage("sr128")
    assert stage.low_resolution is not None
    assert stage.low_resolution.level == "low_resolution_logsnr"
    assert stage.network.low_resolution.time.source == "logsnr"


# ---- rows


def way(row: Row) -> Way:
    return row.ways["full"]


def augmented(stage: Stage) -> str:
    """How a stage takes its low-resolution images, in the words of table 3a."""
    if augmentation(stage) is None:
        return "none"
    return "truncated" if isinstance(stage.origin, TruncatedSamples) else "non-truncated"


def split(stage: Stage) -> str:
    assert isinstance(stage.origin, RealImages)
    return {"train": "train", "validation": "val"}[stage.images.split(stage.origin.split)]


def blur(stage: Stage) -> list[float] | None:
    found = augmentation(stage)
    return None if found is None else [found.smallest, found.largest]


# Setting of a row -> what it is in the last stage.
SETTINGS: dict[str, Callable[[Stage], Any]] = {
    "s": lambda stage: 0 if augmentation(stage) is None else stage.level,
    "augmentation": augmented,
    "conditioning_split": split,
    "blur_sigma_range": blur,
    "class_conditioning": lambda stage: stage.conditioned_on_class,
    "batch_size": lambda stage: stage.training.batch,
    "random_flip": lambda stage: stage.images.flip is not None,
    "sampling_steps": lambda stage: stage.sampler_steps,
    "train_steps": lambda stage: stage.training.steps,
}


@pytest.mark.parametrize(("table", "row"), OURS, ids=[f"{table.id}:{row.id}" for table, row in OURS])
def test_every_own_row_has_a_recipe_with_its_settings(table: Table, row: Row) -> None:
    pipeline = built(way(row).recipe, way(row).bindings)
    last = pipeline.stages[-1]
    assert last.size == row.content["resolution"]
    for name, value in row.settings.items():
        if name != "s" or value is not None:  # the times of table 5 are lost
            assert SETTINGS[name](last) == value, name
    by_size = table.protocol.get("sampling_steps_per_stage", {})
    for stage in pipeline.stages:
        assert stage.sampler_steps == by_size.get(stage.size, stage.sampler_steps)
    check_scores(table, pipeline)


def check_scores(table: Table, pipeline: Pipeline) -> None:
    """The metrics of the printed columns, by the printed protocol."""
    metrics = {type(metric): metric for metric in pipeline.evaluation.metrics}
    wanted = {
        "fid_train": FID, "fid_val": HeldOutFID, "is": InceptionScore, "cas_top1": ResNetAccuracy,
        "cas_top5": ResNetAccuracy, "classes_above_real": ResNetAccuracy,
    }  # fmt: skip
    assert {wanted[column.key] for column in table.columns} <= set(metrics)
    if FID in metrics:
        assert pipeline.samples.count == table.protocol.get("samples_fid", 50_000)
        assert pipeline.evaluation.reference_split == "train"
        assert pipeline.stages[-1].images.split("test") == "validation"
    if InceptionScore in metrics:
        assert metrics[InceptionScore].splits == 10
    if ResNetAccuracy in metrics:
        assert pipeline.samples.count == 1_281_167


def test_rows_of_one_printed_number_are_one_experiment_or_say_why() -> None:
    """The rows that the paper repeats: 1a and 3a at 64, 2a and 2b, 4a and 4b."""
    rows = {f"{table.id}:{row.id}": identity(way(row).recipe, way(row).bindings) for table, row in OURS}
    for one, other in (
        ("cdm/1a:cdm-64", "cdm/3a:truncated-s-501"),
        ("cdm/2a:more-sampling-steps", "cdm/2b:no-cascading"),
        ("cdm/4a:blur-0.4-0.6", "cdm/4b:baseline"),
        ("cdm/1a:cdm-256", "cdm/4b:flip-lr"),
        ("cdm/1a:cdm-256", "cdm/fig-steps:steps-100"),
        ("cdm/1a:cdm-32", "cdm/text-flips:flips"),
    ):
        assert rows[one] == rows[other]


def test_more_sampling_steps_go_back_to_step_2000() -> None:
    row = next(row for table, row in OURS if row.id == "more-sampling-steps")
    (stage,) = built(way(row).recipe, way(row).bindings).stages
    assert stage.sampler.walks(stage.objective.process) == [3999, 1999]


def test_each_small_cascade_is_trained_at_its_level_alone() -> None:
    for table, row in OURS:
        if table.id == "cdm/2b" and row.settings.get("s"):
            found = augmentation(built(way(row).recipe).stages[-1])
            assert found.smallest == found.largest == found.s == row.settings["s"]


def test_rows_that_differ_in_sampling_share_their_training() -> None:
    """Tables 3a and 3b are two networks, without augmentation and amortised, whatever is sampled."""
    trained = set()
    for table, row in OURS:
        if table.id in ("cdm/3a", "cdm/3b"):
            stages = loaded(way(row).recipe, way(row).bindings).stages()
            trained.add((row.settings["s"] == 0, stages[-1].training))
    assert len(trained) == 2


def test_every_ablation_is_a_row() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes" / "ablations" / "cdm").glob("*.gin")}
    assert files <= {way(row).recipe for _, row in OURS}
