"""The text-to-image recipes of simple diffusion against what the paper prints, and the rows that name them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from printed import PRINTED, SIGNATURES, adam, built, fields, loaded, paper, remarks

from harness.metrics.clip_score import CLIPScore
from harness.metrics.frechet import FID
from zoo.data.captions import DrawnCaptions
from zoo.data.crops import LandscapeCrop
from zoo.diffusion.conditioning import Orientation, Text
from zoo.diffusion.distillation import GuidanceDistillation, ProgressiveDistillation
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule, InterpolatedSchedule
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, StaticClipping
from zoo.diffusion.targets import VelocityTarget
from zoo.diffusion.variances import InterpolatedVariance
from zoo.distilled_stage import DistilledStage
from zoo.networks.attention import HeadChannels, HeadCount
from zoo.networks.uvit import UViT
from zoo.pipeline import Stage
from zoo.training.optimizers import Adam, WarmUp

FILES = {
    256: "simple_diffusion_coco256_text",
    512: "simple_diffusion_coco512_text",
    (384, 640): "simple_diffusion_coco384x640_text",
}
VALIDATION = "val+test+restval"  # of COCO 2014, in the splits of Karpathy and Li


def stage_of(name: str, *bindings: str) -> Stage:
    (stage,) = built(f"recipes/{name}.gin", bindings).stages
    return stage


def resolution_of_attention(stage: Stage) -> list[int]:
    """Shorter sides of the feature maps of the transformer."""
    height, width, _ = stage.images.shape
    factor = stage.network.patching.factor * 2 ** (len(stage.network.widths) - 1)
    return [min(height, width) // factor]


# Field of the defaults of the U-ViT, and of its text-to-image models, -> what it is in a stage.
FIELDS: dict[str, Callable[[Stage], Any]] = {
    "architecture.type": lambda stage: {UViT: "uvit"}[type(stage.network)],
    "architecture.base_channels": lambda stage: stage.network.channels,
    "architecture.emb_channels": lambda stage: stage.network.embedding_channels,
    "architecture.channel_multipliers": lambda stage: [
        width // stage.network.channels for width in stage.network.widths
    ],
    "architecture.res_blocks": lambda stage: list(stage.network.blocks),
    "architecture.transformer_blocks": lambda stage: stage.network.transformer.blocks,
    "architecture.heads": lambda stage: heads_of(stage, HeadCount),
    "architecture.head_channels": lambda stage: heads_of(stage, HeadChannels),
    "architecture.transformer_dropout": lambda stage: stage.network.transformer.dropout,
    "architecture.mlp_expansion": lambda stage: stage.network.transformer.expansion,
    "architecture.logsnr_input_type": lambda stage: {"logsnr": "linear"}[stage.network.time.source],
    "training.optimizer": lambda stage: {Adam: "adam"}[type(stage.training.optimizer)],
    "training.batch_size": lambda stage: stage.training.batch,
    "training.lr": lambda stage: adam(stage).learning_rate,
    "training.betas": lambda stage: [adam(stage).beta_1, adam(stage).beta_2],
    "training.eps": lambda stage: adam(stage).epsilon,
    "training.warmup_steps": lambda stage: isinstance(adam(stage).schedule, WarmUp) and adam(stage).schedule.steps,
    "training.weight_decay": lambda stage: adam(stage).weight_decay,
    "training.grad_clip": lambda stage: stage.training.clip,
    "training.ema": lambda stage: stage.training.decays[0],
    "diffusion.parameterization": lambda stage: {VelocityTarget: "v"}[type(stage.objective.target)],
    "diffusion.loss": lambda stage: {SimpleLoss: "v_mse"}[type(stage.objective.loss)],
    "diffusion.conditioning_dropout": lambda stage: stage.conditioning[0].dropout,
}
OF_TEXT: dict[str, Callable[[Stage], Any]] = FIELDS | {
    "conditioning.class_labels": lambda stage: stage.conditioned_on_class,
    "conditioning.low_resolution_image": lambda stage: stage.low_resolution is not None,
    "conditioning.conditioning_dropout": lambda stage: stage.conditioning[0].dropout,
    "training.steps": lambda stage: stage.training.steps,
    "diffusion.learned_variances": lambda stage: stage.objective.variance.outputs == 2,
    "diffusion.train.logsnr_min": lambda stage: cosine(stage).smallest,
    "diffusion.train.logsnr_max": lambda stage: cosine(stage).largest,
}
# Told by other tests here, or not in a recipe: notes, counts that are labels, machines, speeds.
ELSEWHERE = {
    "paper", "kind", "notes", "partial", "dataset", "role", "resolution", "low_resolution", "params_m", "steps_per_sec",
    "architecture.transformer_resolution", "training.steps", "training.hardware", "diffusion.process",
    "steps_per_sec.value", "steps_per_sec.resolution",
}  # fmt: skip


def heads_of(stage: Stage, kind: type) -> int | None:
    found = stage.network.transformer.heads
    return next(iter(vars(found).values())) if isinstance(found, kind) else None


def cosine(stage: Stage) -> CosineLogSNRSchedule:
    """The schedule before its shifts."""
    schedule = stage.objective.process.schedule
    assert isinstance(schedule, InterpolatedSchedule)
    return schedule.low.schedule


@pytest.mark.parametrize("name", FILES.values())
def test_the_network_and_its_training_are_those_of_the_uvit(name: str) -> None:
    stage, compared = stage_of(name), 0
    for path, value in fields(PRINTED["sd_uvit_defaults"], FIELDS):
        if path in ELSEWHERE:
            continue
        assert FIELDS[path](stage) == value, path
        compared += 1
    assert compared >= 18
    assert resolution_of_attention(stage) == [16 if stage.size != 384 else 12]


@pytest.mark.parametrize("name", FILES.values())
def test_what_is_printed_of_text_to_image(name: str) -> None:
    stage, printed = stage_of(name), PRINTED["sd_uvit_text_to_image"]
    left = set()
    for path, value in fields(printed, OF_TEXT):
        if value is None or path in ELSEWHERE - {"training.steps"}:
            continue
        if path in OF_TEXT:
            assert OF_TEXT[path](stage) == value, path
        else:
            left.add(path)
    assert left == {
        "architecture.based_on", "architecture.cross_attention",
        "architecture.self_attention_instead_of_convolutions_at", "conditioning.text", "conditioning.portrait_flag",
        "augmentation.rotation", "diffusion.train.noise_schedule", "diffusion.inference.sampler",
        "diffusion.inference.noise_param", "diffusion.inference.noise_param_mscoco_fid",
    }  # fmt: skip
    # What remains, by hand.
    assert stage.network.text.width == stage.images.text.encoder.width == 4096
    level = {256: 32, 512: 32, 384: 24}[stage.size]  # of 384 x 640 the level above the transformer, as in the others
    assert stage.network.attention_resolutions == (level,)
    assert isinstance(stage.conditioning[0], Text)
    turned = stage.size == 384
    assert isinstance(stage.images.crop, LandscapeCrop) == turned
    assert any(isinstance(part, Orientation) for part in stage.conditioning) == turned
    assert isinstance(stage.objective.process, LogSNRProcess)
    assert isinstance(stage.objective.process.schedule, InterpolatedSchedule)
    assert type(stage.sampler) is AncestralSampler
    assert isinstance(stage.sampler.clipping, StaticClipping)
    assert isinstance(stage.objective.variance, InterpolatedVariance)
    assert stage.objective.variance.noise_param == printed["diffusion"]["inference"]["noise_param_mscoco_fid"]


@pytest.mark.parametrize(("size", "name"), FILES.items())
def test_sizes_and_the_ends_of_the_embedding(size: int | tuple[int, int], name: str) -> None:
    stage = stage_of(name)
    assert stage.images.shape == ((size, size, 3) if isinstance(size, int) else (*size, 3))
    smallest, largest = stage.objective.process.logsnr_range
    assert (stage.network.time.smallest, stage.network.time.largest) == pytest.approx((smallest, largest), abs=1e-5)
    assert smallest == pytest.approx(-15 + 2 * math.log(32 / stage.size), abs=1e-5)
    assert largest == pytest.approx(15 + 2 * math.log(256 / stage.size), abs=1e-5)


@pytest.mark.parametrize("name", FILES.values())
def test_samples_are_of_validation_captions_against_all_validation_images(name: str) -> None:
    pipeline = built(f"recipes/{name}.gin")
    samples, evaluation = pipeline.samples, pipeline.evaluation
    assert samples.count == 30_000
    assert isinstance(samples.captions, DrawnCaptions)
    assert samples.captions.splits == (VALIDATION,)
    assert pipeline.stages[0].images.split(evaluation.reference_split) == VALIDATION
    assert FID().protocol(samples.count, "Inception")["fid"] == "FID-30k (Inception)"
    said = remarks(f"recipes/{name}.gin")
    for word in ("128 tokens", "1,000 steps", "guidance of 1.4"):
        assert word in said


def test_rows_name_the_recipes_with_their_guidance() -> None:
    tables = {table.id: table for table in paper("simple_diffusion").tables}
    for identity, file in (("sd/8", FILES[256]), ("sd/text-t2i-512", FILES[512])):
        (row,) = (row for row in tables[identity].rows if row.ours)
        assert row.ways["full"].recipe == f"recipes/{file}.gin"
    for row in tables["sd/fig-clip"].rows:
        way = row.ways["full"]
        pipeline = built(way.recipe, way.bindings)
        guidance = pipeline.stages[0].sampler.guidance
        assert isinstance(guidance, ClassifierFreeGuidance)
        assert guidance.scale == row.content["settings"]["guidance_scale"]
        assert [type(metric) for metric in pipeline.evaluation.metrics] == [FID, CLIPScore]
    assert SIGNATURES.registry.recipes["simple_diffusion_coco256_text"].paper == "simple_diffusion"


# ---- distillation


DISTILLED = "recipes/simple_diffusion_coco512_text_distilled.gin"


def test_the_distilled_model_is_the_model_and_its_students() -> None:
    """Its first stage is the model of 512 pixels to the last weight; what is chosen is said."""
    outlines = {one.name: one for one in loaded(DISTILLED).stages()}
    (model,) = loaded(f"recipes/{FILES[512]}.gin").stages()
    assert outlines["uvit"].training == model.training
    pipeline = built(DISTILLED)
    assert [stage.name for stage in pipeline.stages] == ["uvit", "guided", "s16", "s8", "s4", "s2", "s1"]
    assert [stage.name for stage in pipeline.cascade] == ["s1"]
    for before, stage in zip(pipeline.makers[1:], pipeline.makers[2:], strict=False):
        assert stage.teacher is before
        assert isinstance(stage, DistilledStage)
        assert isinstance(stage.distillation, ProgressiveDistillation)
        assert stage.sampler_steps == stage.distillation.steps
    guided = pipeline.makers[1]
    assert isinstance(guided, DistilledStage)
    assert isinstance(guided.distillation.guidance, ClassifierFreeGuidance)
    assert guided.distillation.guidance.scale == 1.4
    for word in ("50,000 updates", "one scale", "from 32 steps", "neither"):
        assert word in remarks(DISTILLED)


def test_rows_of_distillation_name_what_they_sample() -> None:
    """At both scales: the network and the steps; teachers are guided, students are not asked twice."""
    tables = {table.id: table for table in paper("simple_diffusion").tables}
    for row in tables["sd/fig-distillation"].rows:
        for scale in ("full", "mini"):
            way, settings = row.ways[scale], row.content["settings"]
            last = built(way.recipe, way.bindings).last
            kind = {None: "teacher", GuidanceDistillation: "first student", ProgressiveDistillation: "student"}
            found = type(last.distillation) if isinstance(last, DistilledStage) else None
            assert kind[found] == settings["network"], (row.id, scale)
            assert type(last.sampler) is DDIMSampler
            assert len(last.sampler.walks(last.objective.process)) == 1
            assert last.sampler_steps == settings["steps"] * (2 if found is None else 1), (row.id, scale)
    for row in tables["sd/text-latency"].rows:
        pipeline = built(row.content["recipe"], tuple(row.content["bindings"]))
        assert (pipeline.last.name, pipeline.samples.batch) == ("s16", row.settings["batch_size"])


def test_rows_of_distillation_share_their_trainings() -> None:
    """One training of every stage, whatever is sampled."""
    rows = {table.id: table for table in paper("simple_diffusion").tables}["sd/fig-distillation"].rows
    for scale, stages in (("full", 7), ("mini", 6)):
        ways = [row.ways[scale] for row in rows]
        trained = {outline.training for way in ways for outline in loaded(way.recipe, way.bindings).stages()}
        assert len(trained) == stages
