"""simple diffusion's recipes against what it prints: hyperparameters field by field, and the settings of every row."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from printed import CATALOGUE, FIELDS, PRINTED, ROLES, ROOT, Field, adam, built, fields, identity, loaded, paper, said

from harness.metrics.frechet import FID, HeldOutFID
from harness.metrics.inception_score import InceptionScore
from harness.published import Row, Table, Way
from zoo.diffusion.conditioning import ClassLabel
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule, ShiftedSchedule
from zoo.diffusion.losses import MultiscaleLoss, SimpleLoss
from zoo.diffusion.samplers import AncestralSampler, StaticClipping
from zoo.diffusion.targets import NoiseTarget, VelocityTarget
from zoo.experiment import Experiment
from zoo.networks.patching import ConvolutionPatching, WaveletPatching
from zoo.networks.shifted_embedding import ShiftedLogSNREmbedding
from zoo.networks.simple_unet import SimpleDiffusionUNet
from zoo.networks.uvit import UViT
from zoo.pipeline import Stage

SIMPLE = paper("simple_diffusion")
IMAGENET = [
    table for table in SIMPLE.tables if table.content["dataset"] != "mscoco"
]  # tests/test_text_recipes.py has COCO
OURS = [(table, row) for table in IMAGENET for row in table.rows if row.ours and row.ways]

# ---- hyperparameters

# entry of the papers' hyperparameters -> recipe
RECIPES = {
    "sd_unet_imagenet128": "recipes/simple_diffusion_imagenet128_unet.gin",
    "sd_unet_imagenet256": "recipes/simple_diffusion_imagenet256_unet.gin",
    "sd_unet_imagenet512_none": "recipes/ablations/simple_diffusion/unet512_full.gin",
    "sd_unet_imagenet512_2x": "recipes/ablations/simple_diffusion/unet512_wavelet1.gin",
    "sd_unet_imagenet512_4x": "recipes/simple_diffusion_imagenet512_unet.gin",
    "sd_unet_imagenet1024": "recipes/simple_diffusion_imagenet1024_unet.gin",
    "sd_uvit_imagenet128": "recipes/simple_diffusion_imagenet128_uvit.gin",
    "sd_uvit_imagenet256": "recipes/simple_diffusion_imagenet256_uvit.gin",
    "sd_uvit_imagenet512": "recipes/simple_diffusion_imagenet512_uvit.gin",
}
ELSEWHERE = {"sd_uvit_text_to_image"}  # tests/test_text_recipes.py


def label(stage: Stage) -> ClassLabel:
    (part,) = stage.conditioning
    assert isinstance(part, ClassLabel)
    return part


def shifted(stage: Stage) -> ShiftedSchedule:
    assert isinstance(stage.objective.process.schedule, ShiftedSchedule)
    return stage.objective.process.schedule


def cosine(stage: Stage) -> CosineLogSNRSchedule:
    assert isinstance(shifted(stage).schedule, CosineLogSNRSchedule)
    return shifted(stage).schedule  # type: ignore[return-value]


def noise_resolution(stage: Stage) -> int:
    return round(stage.size * math.exp(shifted(stage).shift / 2))


def lowest(stage: Stage) -> int:
    """Size of the smallest feature map."""
    return stage.size // stage.network.patching.factor // 2 ** (len(stage.network.widths) - 1)


def patching(stage: Stage) -> str:
    match stage.network.patching:
        case WaveletPatching(levels=levels):
            return f"dwt_{levels}"
        case ConvolutionPatching(factor=size):
            return f"conv_{size}x{size}"
    assert stage.network.patching.factor == 1
    return "none"


def attending(stage: Stage) -> list[int]:
    return [lowest(stage)] if isinstance(stage.network, UViT) else sorted(stage.network.attention_resolutions)


def head_count(stage: Stage) -> int:
    network = stage.network
    return (network.transformer.heads if isinstance(network, UViT) else network.heads).count


def dropout(stage: Stage) -> float | None:
    """Of the residual blocks."""
    return getattr(getattr(stage.network, "dropout", None), "rate", None)


def dropout_from(stage: Stage) -> int | None:
    if isinstance(stage.network, UViT):
        return lowest(stage)
    return stage.network.dropout and stage.network.dropout.resolution


def loss(stage: Stage) -> str:
    """What the squared error is of."""
    weighting: Any = stage.objective.weighting
    target = stage.objective.target if weighting is None else weighting.target
    return {NoiseTarget: "eps_mse", VelocityTarget: "v_mse"}[type(target)]


SIMPLE_FIELDS: dict[str, Field] = FIELDS | {
    "architecture.type": lambda stage: {SimpleDiffusionUNet: "unet", UViT: "uvit"}[type(stage.network)],
    "architecture.channel_multipliers": lambda s: [width / s.network.channels for width in s.network.widths],
    "architecture.res_blocks": lambda stage: list(stage.network.blocks),
    "architecture.attention_resolutions": attending,
    "architecture.heads": head_count,
    "architecture.head_channels": lambda stage: None,
    "architecture.emb_channels": lambda stage: stage.network.embedding_channels,
    "architecture.patching": patching,
    "architecture.downsampling_factor": lambda stage: stage.network.patching.factor,
    "architecture.feature_resolution": lambda stage: stage.size // stage.network.patching.factor,
    "architecture.transformer_blocks": lambda stage: stage.network.transformer.blocks,
    "architecture.logsnr_input_type": lambda s: {ShiftedLogSNREmbedding: "linear"}[type(s.network.time)],
    "conditioning.low_resolution_image": lambda stage: stage.low_resolution is not None,
    "conditioning.conditioning_dropout": lambda stage: label(stage).dropout,
    "training.dropout": dropout,
    "training.dropout_from_resolution": dropout_from,
    "training.transformer_dropout": lambda stage: stage.network.transformer.dropout,
    "augmentation": lambda stage: stage.images.flip,
    "diffusion.parameterization": lambda stage: {VelocityTarget: "v"}[type(stage.objective.target)],
    "diffusion.loss": loss,
    "diffusion.multiscale_loss": lambda stage: isinstance(stage.objective.loss, MultiscaleLoss),
    "diffusion.train.noise_schedule": lambda s: {ShiftedSchedule: "cosine_shifted"}[type(s.objective.process.schedule)],
    "diffusion.train.noise_resolution": noise_resolution,
    "diffusion.train.logsnr_min": lambda stage: cosine(stage).smallest,
    "diffusion.train.logsnr_max": lambda stage: cosine(stage).largest,
    "diffusion.inference.sampler": lambda stage: {AncestralSampler: "ddpm"}[type(stage.sampler)],
    "diffusion.inference.noise_param": lambda stage: stage.objective.variance.noise_param,
    "diffusion.inference.clip_x": lambda stage: {StaticClipping: "static"}[type(stage.sampler.clipping)],
}
UNCOMPARED = {
    "paper", "kind", "partial", "notes", "params_m", "training.hardware", "architecture.patching_default",
}  # fmt: skip
# What is chosen in place of a field that is printed as null -> a word of the comment that says so.
CHOSEN = {
    "diffusion.train.noise_resolution": "shift 64",
    "diffusion.inference.timesteps": "1,000 steps",
}


def test_every_model_is_compared() -> None:
    models = {name for name, entry in PRINTED.items() if name.startswith("sd_") and entry["kind"] == "model"}
    assert models == set(RECIPES) | ELSEWHERE


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_equal_the_published_hyperparameters(name: str) -> None:
    """Every field that the paper prints; where it prints none, a comment says what was chosen."""
    file = RECIPES[name]
    (stage,) = built(file).stages
    for path, value in fields(PRINTED[name], SIMPLE_FIELDS):
        if path in UNCOMPARED:
            continue
        ours = SIMPLE_FIELDS[path](stage)
        if path == "role":
            value = ROLES[value]
        if path == "architecture.patching" and name == "sd_unet_imagenet1024":
            ours, value = stage.network.patching.factor, int(value[0])
        if value is None:
            assert ours is None or ours == 0 or said(path, file, CHOSEN), f"{path} is {ours}, and nothing says chosen"
        else:
            assert ours in value if isinstance(value, list) and isinstance(ours, str) else ours == value, path


def test_the_method_equals_what_is_printed() -> None:
    sampler, multiscale = PRINTED["sd_sampler"], PRINTED["sd_multiscale_loss"]
    for file in RECIPES.values():
        (stage,) = built(file).stages
        assert stage.objective.variance.noise_param == sampler["noise_param"]
        assert label(stage).dropout == sampler["conditioning_dropout"]
        # the embedding of the log SNR ends where the shifted schedule does
        time = stage.network.time
        assert (time.smallest, time.largest) == pytest.approx(stage.objective.process.logsnr_range)
    (stage,) = built("recipes/ablations/simple_diffusion/unet512_multiscale.gin").stages
    assert stage.objective.loss.base == multiscale["base_resolution"]
    assert shifted(stage).schedule.smallest == PRINTED["sd_schedules"]["cosine"]["logsnr_min"]


def test_the_hardware_is_said() -> None:
    for name, file in RECIPES.items():
        hardware = PRINTED[name].get("training", {}).get("hardware")
        cost = re.search(r"(?m)^# Cost: +(.*)", (ROOT / file).read_text())
        if hardware and cost:  # an ablation says what is not its parent's
            assert hardware in cost[1], name


def test_the_sizes_are_exact() -> None:
    """`describe` counts them: "2B" is a label of the paper, and nothing is tuned to reach it."""
    counts = {
        name: r.parameters for name, r in CATALOGUE.recipes.items() if name.startswith("simple_diffusion_imagenet")
    }
    assert len(counts) == 7
    assert counts["simple_diffusion_imagenet256_uvit"] == {"uvit": 2_474_124_812}


# ---- rows


def way(row: Row) -> Way:
    return row.ways["full"]


def guidance_scale(stage: Stage) -> float:
    found = stage.sampler.guidance
    if found is None:
        return 1.0
    assert isinstance(found, ClassifierFreeGuidance)
    return found.scale


def blocks16(stage: Stage) -> int:
    first = stage.size // stage.network.patching.factor
    return stage.network.blocks[round(math.log2(first / 16))]


# Setting of a row -> what it is in its stage.
SETTINGS: dict[str, Field] = {
    "noise_resolution": noise_resolution,
    "dropout_from_resolution": dropout_from,
    "train_steps": lambda stage: stage.training.steps,
    "down_blocks_16": blocks16,
    "up_blocks_16": lambda stage: blocks16(stage) + 1,
    "downsampling": lambda stage: patching(stage).partition("_")[0],
    "factor": lambda stage: stage.network.patching.factor,
    "multiscale_loss": lambda stage: isinstance(stage.objective.loss, MultiscaleLoss),
    "guidance_scale": guidance_scale,
    "batch_size": lambda stage: stage.training.batch,
    "patching": patching,
}
MACHINES = {"devices", "device_type"}
METRICS = {"fid_train": FID, "fid_val": HeldOutFID, "is": InceptionScore}


@pytest.mark.parametrize(("table", "row"), OURS, ids=[f"{table.id}:{row.id}" for table, row in OURS])
def test_every_own_row_has_a_recipe_with_its_settings(table: Table, row: Row) -> None:
    pipeline = built(way(row).recipe, way(row).bindings)
    (stage,) = pipeline.stages
    assert stage.size == row.content.get("resolution", stage.size)
    assert type(stage.network) is (UViT if "uvit" in row.content["system"] else SimpleDiffusionUNet)
    for name, value in row.settings.items():
        if name not in MACHINES:
            assert SETTINGS[name](stage) == value, name
    by_size = table.protocol.get("noise_resolution", {})
    assert noise_resolution(stage) == by_size.get(stage.size, noise_resolution(stage))
    if isinstance(stage.objective.loss, MultiscaleLoss):
        assert stage.objective.loss.base == table.protocol.get("multiscale_base_resolution", 32)
    else:
        assert isinstance(stage.objective.loss, SimpleLoss)
    printed = [column.key for column in table.columns if column.key in METRICS]
    assert {METRICS[key] for key in printed} <= {type(metric) for metric in pipeline.evaluation.metrics}
    if printed:
        assert pipeline.samples.count == table.protocol.get("samples_fid", 50_000)
        assert pipeline.evaluation.reference_split == "train"
        assert stage.images.split("test") == "validation"


def test_rows_of_one_printed_number_are_one_experiment() -> None:
    rows = {f"{table.id}:{row.id}": identity(way(row).recipe, way(row).bindings) for table, row in OURS}
    for one, *others in (
        ("sd/2:128-shift-64", "sd/3:from-16", "sd/4:blocks-12-13"),
        ("sd/2:128-shift-32", "sd/7:simple-diffusion-unet-128"),
        ("sd/2:256-shift-32", "sd/6:256-standard", "sd/7:simple-diffusion-unet-256"),
        ("sd/5:dwt-2", "sd/6:512-standard"),
        ("sd/6:512-multiscale", "sd/7:simple-diffusion-unet-512"),
        *((f"sd/7:simple-diffusion-uvit-{size}", f"sd/9:{size}-g1.00") for size in (128, 256, 512)),
    ):
        assert {rows[other] for other in others} == {rows[one]}


def test_guidance_scales_share_their_training() -> None:
    trained = {(row.content["resolution"], loaded(way(row).recipe, way(row).bindings).stages()[0].training)
               for table, row in OURS if table.id == "sd/9"}  # fmt: skip
    assert len(trained) == 3


def test_downsampling_keeps_the_number_of_blocks() -> None:
    """Section 5.1: those of the resolutions that are skipped are distributed over the others."""
    totals = {sum(built(way(row).recipe).stages[0].network.blocks) for table, row in OURS if table.id == "sd/5"}
    assert totals == {26}


def test_ablations_are_rows_and_change_one_thing() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes/ablations/simple_diffusion").glob("*.gin")}
    assert files <= {way(row).recipe for _, row in OURS}
    for file in files:
        bound = [line for line in (ROOT / file).read_text().splitlines() if re.match(r" *[A-Za-z_.]+ *(=|:$)", line)]
        assert len(bound) <= 5, file


def test_adam_is_that_of_each_resolution() -> None:
    """beta_2 is 0.99, but for the U-Net at 128 pixels."""
    for file in RECIPES.values():
        (stage,) = built(file).stages
        assert adam(stage).beta_2 == (0.999 if file.endswith("imagenet128_unet.gin") else 0.99)


@pytest.mark.slow
def test_a_quarter_of_the_uvit_trains_and_samples_at_256(tmp_path: Path) -> None:
    """A quarter of the width, with all 36 blocks, on two cores: a step of training, and a guided walk."""
    bindings = (
        "UViT.channels = 32", "UViT.classes = 10", "Images.source = @Shapes()", "Images.test = 'test'",
        "Training.batch = 1", "Training.steps = 1", "Monitoring.grid_images = 1", "SampleSet.batch = 1",
        "AncestralSampler.steps = 2", "AncestralSampler.guidance = @ClassifierFreeGuidance()",
        "ClassifierFreeGuidance.scale = 2.0",
    )  # fmt: skip
    asked = loaded("recipes/simple_diffusion_imagenet256_uvit.gin", bindings)
    experiment = Experiment(asked, asked.build(), tmp_path)
    experiment.train(experiment.pipeline.stages)
    images = experiment.sample(labels=[3], seed=0)
    assert images.shape == (1, 256, 256, 3)
    assert images.std() > 10
