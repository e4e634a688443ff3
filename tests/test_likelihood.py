"""Bits per dimension: the bound of cases that are known, of batches of any size, in parts, and as a command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from keras import ops
from untrained import experiment_of

from harness import likelihood_report, report
from zoo import recipe
from zoo.console import UserError
from zoo.diffusion import bound, losses, targets, variances
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess, Process
from zoo.diffusion.schedules import CosineSchedule
from zoo.experiment import Experiment
from zoo.likelihood import Likelihood, StageLikelihood
from zoo.likelihood_run import LikelihoodRun
from zoo.training import randomness

FEW = ("Likelihood.steps = 12", "Likelihood.count = 10", "Likelihood.batch = 4", "Likelihood.shard = 4")
BINDINGS = ("Pipeline.likelihood = @Likelihood()", *FEW, "Shapes.test = 30")


@pytest.mark.parametrize("trained", [DiscreteProcess(CosineSchedule(), 1000), LogSNRProcess(CosineLogSNRSchedule())])
@pytest.mark.parametrize("steps", [2, 9])
def test_data_cost_their_entropy_under_their_own_model(trained: Process, steps: int):
    """Of Gaussian data denoiser and reverse variance are known, and the bound is tight in any number of steps."""
    process = trained.respace(steps)
    objective = Objective(process, targets.ImageTarget(), variances.LearnedVariance(), losses.SimpleLoss())
    random, deviation = np.random.default_rng(0), 0.2
    x = np.clip(np.round((random.normal(0, deviation, (200, 8, 8, 1)) + 1) * 127.5), 0, 255) / 127.5 - 1
    total = np.asarray(bound.prior(ops.convert_to_tensor(x), process))
    for step in range(steps):
        level = process.level(np.full(200, step, "int32"), "float64")
        noise = random.standard_normal(x.shape)
        alpha, sigma = np.asarray(level.alpha), np.asarray(level.sigma)
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)  # E[x | z] = gain z
        left = deviation**2 * (1 - gain * alpha)  # Var[x | z]
        reverse = process.posterior_variance[step] + process.posterior_coefficient_x[step] ** 2 * left
        z = np.asarray(process.corrupt(x, noise, level))
        output = np.concatenate([gain * z, np.log(reverse) + 0 * z], axis=-1)
        total = total + np.asarray(bound.terms(objective, output, x, noise, level, process).bound)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * deviation**2) - np.log2(2 / 255)
    assert total.mean() == pytest.approx(entropy, abs=0.02)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The tiny cascade, untrained."""
    return experiment_of(tmp_path_factory.mktemp("run"), *BINDINGS)


def measured(experiment: Experiment, part: tuple[int, int] = (1, 1), **settings: Any) -> dict[str, Any]:
    """The result of the first stage; empty where parts are missing."""
    chosen = {"steps": 12, "count": 10, "batch": 4, "shard": 4, **settings}
    run = LikelihoodRun(experiment, Likelihood(**chosen))
    return run.run(experiment.pipeline.cascade[:1], part).get("base", {})


@pytest.fixture(scope="module")
def results(experiment: Experiment) -> dict[str, dict[str, Any]]:
    run = LikelihoodRun(experiment, experiment.pipeline.likelihood)
    return run.run(experiment.pipeline.cascade)


def shards(experiment: Experiment, stage: str = "base") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((experiment.workdir / "likelihood" / stage).glob("*.npz"))}


def test_a_result_is_the_sum_of_its_terms(experiment: Experiment, results: dict[str, dict[str, Any]]):
    assert set(results) == {"base", "sr"}
    for name, result in results.items():
        assert result == json.loads((experiment.workdir / "results" / f"{name}-likelihood.json").read_text())
        parts = result["prior"] + result["divergences"] + result["last_bits"]
        assert result["bits_per_dimension"] == pytest.approx(parts, rel=1e-12)
        assert result["bits_per_dimension"] == pytest.approx(result["prior"] + sum(result["terms"]["bound"]), rel=1e-12)
        assert result["images"] == 10
        assert result["standard_error"] > 0
        assert result["terms"]["step"][0] == 0 and result["terms"]["step"][-1] == 999
        assert all(len(values) == 12 for values in result["terms"].values())
        assert result["made_from"]["checkpoint"]["step"] == 0
        assert len(result["recipe_hash"]) == 64
    assert results["base"]["bits_per_dimension"] != results["sr"]["bits_per_dimension"]


def test_the_terms_are_those_of_the_noise_of_image_and_step(experiment: Experiment, results: dict[str, Any]):
    """Step 7 once more, by hand; the noise is keyed by the step of the trained process."""
    stage, key = experiment.pipeline.cascade[0], randomness.key(0, "base/likelihood")
    examples = list(stage.images.examples("test", 10, seed=0).as_numpy_iterator())
    x = np.stack([example["image"] for example in examples]) / 127.5 - 1
    process = stage.objective.process.respace(12)
    level = process.level(np.full(10, 7, "int32"), "float64")
    own = randomness.fold(key, int(process.timestep_map[7]))
    noise = randomness.draw_each(own, np.arange(10, dtype="int32"), {"noise": ("normal", x.shape)})["noise"]
    noise = np.asarray(noise, np.float64)
    inputs = {"time": np.asarray(level.inputs["time"], np.float32), "label": np.array([e["label"] for e in examples])}
    z = np.asarray(process.corrupt(x, noise, level))
    output = np.asarray(stage.network({**inputs, "image": z.astype(np.float32)}), np.float64)
    found = bound.terms(stage.objective, output, x, noise, level, process, stage.sampler.clipping)
    for name, values in found._asdict().items():
        assert results["base"]["terms"][name][7] == pytest.approx(float(np.mean(values)), rel=1e-5)


def test_numbers_are_those_of_an_encoder_of_captions(tmp_path: Path):
    """Shards of another encoder's embeddings are not taken over."""
    identities = []
    for seed in (0, 1):
        asked = recipe.load(tiny.ROOT / "tests" / "recipes" / "tiny_text.gin", [f"RandomTextEncoder.seed = {seed}"])
        pipeline = asked.build()
        run = LikelihoodRun(Experiment(asked, pipeline, tmp_path), pipeline.likelihood)
        identities.append(run._identity(pipeline.last, pipeline.last.network, {"step": 0, "hash": ""}))
    assert identities[0]["text"] != identities[1]["text"]


def test_neither_batch_nor_count_moves_an_image(experiment: Experiment, results: dict[str, Any]):
    stage = experiment.pipeline.cascade[0]
    weights = [variable.value for variable in stage.network.trainable_variables]
    whole = StageLikelihood(stage, stage.network, Likelihood(steps=12, batch=7))
    batch = next(iter(stage.images.examples("test", 7, seed=0).batch(7).as_numpy_iterator()))
    found = whole.measure(randomness.key(0, "base/likelihood"), np.arange(7), batch, weights)
    kept = np.load(experiment.workdir / "likelihood" / "base" / "shard-00000.npz")
    np.testing.assert_allclose(found.total[:4], kept["total"], rtol=1e-5)
    assert len(set(found.total)) == 7


def test_parts_make_the_result_together(tmp_path: Path, results: dict[str, Any]):
    experiment = experiment_of(tmp_path, *BINDINGS)
    assert measured(experiment, part=(2, 2)) == {}
    assert measured(experiment, part=(1, 2))["terms"] == results["base"]["terms"]


def test_what_is_shown(experiment: Experiment, results: dict[str, Any]):
    lines = likelihood_report.render(results["base"])
    assert max(map(len, lines)) <= 80
    assert "base: shapes 8x8, 10 images of split 'test', 12 of 1,000 steps" in lines
    assert f"{results['base']['bits_per_dimension']:.4f} ±" in "\n".join(lines)
    page = report.write_report(experiment.workdir).read_text()
    assert "Likelihood of base" in page and "Likelihood of sr" in page
    assert "Nothing has been scored yet" in page  # a likelihood is no score of samples
    assert report.read_results(experiment.workdir) == {}
    likelihood_report.write_picture(results["base"], experiment.workdir / "terms.png")
    assert (experiment.workdir / "terms.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_kept(experiment: Experiment, results: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    before = shards(experiment)
    assert len(before) == 3
    folder = experiment.workdir / "likelihood" / "base"
    (folder / "shard-00001.npz").write_bytes(before["shard-00001.npz"][:-9])
    (folder / "shard-00002.npz").unlink()
    times = (folder / "shard-00000.npz").stat().st_mtime_ns
    assert measured(experiment) == results["base"]
    assert shards(experiment) == before
    assert (folder / "shard-00000.npz").stat().st_mtime_ns == times
    # Other weights or steps are other numbers.
    capsys.readouterr()
    other = measured(experiment, steps=5)
    assert capsys.readouterr().out.count("they are made anew") == 1
    assert len(other["terms"]["bound"]) == 5


def test_mistakes(experiment: Experiment, tmp_path: Path):
    with pytest.raises(UserError, match=r"Likelihood\.count must be at most 30, the images of split 'test' of shapes"):
        measured(experiment, count=31)
    with pytest.raises(UserError, match="steps '1001': the process has 1000 steps"):
        experiment_of(tmp_path, *BINDINGS, "Likelihood.steps = 1001")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', which Images names, got 'valid'"):
        Likelihood(split="valid")
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        Likelihood(count=0)
