"""The Gaussian process against guided-diffusion's numbers, in float64 and in float32."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_arrays import Arrays, Tolerances, assert_near, channels_last
from keras import ops

from zoo.diffusion import bound, losses, variances
from zoo.diffusion.guidance import shift_mean, shift_score
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess, Level
from zoo.diffusion.respacing import retained_steps
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, StaticClipping, noise_of
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule
from zoo.diffusion.targets import ImageTarget, NoiseTarget, PosteriorMeanTarget
from zoo.networks.embeddings import sinusoidal_embedding

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule()}
TARGETS = {"EPSILON": NoiseTarget(), "START_X": ImageTarget(), "PREVIOUS_X": PosteriorMeanTarget()}
VARIANCES = {
    "LEARNED_RANGE": variances.LearnedRangeVariance(),
    "LEARNED": variances.LearnedVariance(),
    "FIXED_SMALL": variances.FixedSmallVariance(),
    "FIXED_LARGE": variances.FixedLargeVariance(),
}
PRECISIONS = ("float64", "float32")


def make_process(settings: dict[str, Any]) -> DiscreteProcess:
    time_range = 1000.0 if settings["rescale_timesteps"] else None
    process = DiscreteProcess(SCHEDULES[settings["schedule"]], settings["T"], time_range)
    return process.respace(settings["respacing"] or None)


class FakeModel:
    """The stand-in for the network and for the classifier's gradient; channels last."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.constants = {name: value.astype(dtype) for name, value in np.load(folder / "fake_model.npz").items()}

    def __call__(self, z: Any, time: Any, outputs: int) -> Any:
        M, s, w, p = (self.constants[name] for name in "Mswp")
        phase = ops.sin(time[:, None] * w + p) * s  # [B, 6]
        return ops.matmul(z, M.T)[..., : 3 * outputs] + phase[:, None, None, : 3 * outputs]

    def gradient(self, z: Any, time: Any, y: np.ndarray) -> Any:
        c = self.constants
        scale = c["cond_a"] * (1 + c["cond_b"] * ops.sin(c["cond_w"] * time))
        return ops.reshape(scale, (-1, 1, 1, 1)) * (c["cond_mu"][y][:, None, None, :] - z)


class Group:
    """One process of the files, at one precision."""

    def __init__(self, golden: Path, file: str, settings: dict[str, Any], group: str, dtype: str) -> None:
        folder = golden / "diffusion"
        self.given, self.group, self.dtype = Arrays(folder / f"{file}.npz"), group, dtype
        self.expected = Arrays(folder / f"{file}_float64.npz")
        self.process, self.model = make_process(settings), FakeModel(folder, dtype)
        self.tolerances, self.file = Tolerances(golden), file
        self.clip = StaticClipping()

    def input(self, name: str) -> np.ndarray:
        value = self.given[f"{self.group}/input/{name}"]
        if value.ndim >= 4:
            return channels_last(value).astype(self.dtype)
        return value.astype("int32") if value.dtype == np.int64 else value.astype(self.dtype)

    def level(self, index: Any) -> Level:
        return self.process.level(ops.convert_to_tensor(index), self.dtype)

    def objective(self, target: str, variance: str, loss: losses.Loss | None = None) -> Objective:
        return Objective(self.process, TARGETS[target], VARIANCES[variance], loss or losses.SimpleLoss())

    def output(self, z: Any, level: Level, variance: str) -> Any:
        return self.model(z, level.inputs["time"], VARIANCES[variance].outputs)

    def compare(self, name: str, actual: Any, tolerance: float | None = None) -> None:
        """Against the float64 array; `name` without the group."""
        key = f"{self.group}/{name}"
        expected = self.expected[key]
        self.given.used.add(key)
        if expected.ndim >= 4:
            expected = channels_last(expected)
        if tolerance is None:
            largest = float(np.abs(expected).max())
            tolerance = 1e-8 * largest + 1e-12
            if self.dtype == "float32":
                tolerance = self.tolerances(f"diffusion/{self.file}/{key}")
        actual = np.broadcast_to(np.asarray(actual), expected.shape) if np.ndim(actual) else np.asarray(actual)
        assert_near(actual, expected, tolerance, f"{key} in {self.dtype}")


def config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "diffusion" / "config.json").read_text())


def check_schedules(golden: Path) -> None:
    arrays = Arrays(golden / "diffusion" / "schedules.npz")
    for name in arrays.names():
        schedule, what = name.split("/")
        kind, steps = schedule.split("_")
        process = DiscreteProcess(SCHEDULES[kind], int(steps))
        table = {
            "betas": process.betas,
            "alphas_cumprod": process.alphas_cumprod,
            "posterior_variance": process.posterior_variance,
            "posterior_log_variance_clipped": process.posterior_log_variance,
            "posterior_mean_coef1": process.posterior_coefficient_x,
            "posterior_mean_coef2": process.posterior_coefficient_z,
        }[what]
        np.testing.assert_allclose(table, arrays[name], rtol=1e-12, atol=1e-300, err_msg=name)
    arrays.close()


def check_respacing(golden: Path) -> None:
    reference = json.loads((golden / "diffusion" / "respacing.json").read_text())
    for steps, specs in reference["timesteps"].items():
        for spec, kept in specs.items():
            assert retained_steps(int(steps), spec) == kept, (steps, spec)
    for refused in reference["raises_ValueError"]:
        steps, spec = (refused["T"], refused["spec"]) if isinstance(refused, dict) else refused
        with pytest.raises(ValueError, match="steps"):
            retained_steps(int(steps), spec)


def check_respaced_betas(golden: Path) -> None:
    arrays = Arrays(golden / "diffusion" / "respaced_betas.npz")
    for name in arrays.names():
        schedule, spec, what = name.split("/")
        kind, steps = schedule.split("_")
        process = DiscreteProcess(SCHEDULES[kind], int(steps)).respace(spec)
        actual = process.betas if what == "betas" else process.timestep_map
        np.testing.assert_allclose(actual, arrays[name], rtol=1e-10, err_msg=name)
    arrays.close()


def check_timestep_embedding(golden: Path) -> None:
    arrays = Arrays(golden / "diffusion" / "timestep_embedding.npz")
    time = arrays["timesteps"]
    for width in (32, 33, 128):
        exact = arrays[f"dim{width}_float64"]
        assert_near(sinusoidal_embedding(time.astype("float64"), width), exact, 1e-10, f"dim{width}, float64")
        assert_near(sinusoidal_embedding(time, width), exact, 5 * 3.3e-5, f"dim{width}, float32")
        assert_near(
            sinusoidal_embedding(time, width), arrays[f"dim{width}"].astype("float64"), 5 * 3.3e-5, f"dim{width}"
        )
    arrays.close()


def check_process(golden: Path) -> None:
    for dtype in PRECISIONS:
        touched: list[Arrays] = []
        for group, settings in config(golden)["processes"].items():
            part = Group(golden, "process", settings, group, dtype)
            _process_group(part)
            touched += [part.given, part.expected]
        _all_touched(touched)


def _all_touched(parts: list[Arrays]) -> None:
    """Every array of each file was used by one of the groups."""
    for path in {part.path for part in parts}:
        same = [part for part in parts if part.path == path]
        for part in same[1:]:
            same[0].used |= part.used
        same[0].close()


def _process_group(part: Group) -> None:
    x, noise, z, index = (part.input(name) for name in ("x_start", "noise", "x_t", "t"))
    part.given.used |= {f"{part.group}/input/t_loss"}
    level, process = part.level(index), part.process
    for arrays in (part.given, part.expected):
        assert_near(level.inputs["time"], arrays[f"{part.group}/model_t"], 1e-3, "model_t")
    part.compare("q_mean_variance/mean", level.alpha * x)
    part.compare("q_mean_variance/variance", level.sigma**2 + 0 * x[..., :1, :1, :1])
    part.compare("q_mean_variance/log_variance", ops.log(level.sigma**2))
    part.compare("q_sample", process.corrupt(x, noise, level))
    part.compare("q_posterior/mean", process.posterior_mean(x, z, index))
    part.compare("q_posterior/variance", process.gather(process.posterior_variance, index, part.dtype))
    part.compare("q_posterior/log_variance_clipped", process.gather(process.posterior_log_variance, index, part.dtype))
    part.compare("predict_xstart_from_eps", NoiseTarget().image(noise, z, level, process))
    part.compare("predict_eps_from_xstart", noise_of(x, z, index, process))
    prefix = f"{part.group}/p_mean_variance/"
    for case in sorted({name.rsplit("/", 1)[0] for name in part.expected.names(prefix)}):
        target, variance, clip = case.removeprefix(prefix).split("/")
        prediction = part.objective(target, variance).predict(
            part.output(z, level, variance), z, level, process, part.clip if clip == "clip1" else None
        )
        short = case.removeprefix(f"{part.group}/")
        for field, name in (
            ("x", "pred_xstart"),
            ("mean", "mean"),
            ("variance", "variance"),
            ("log_variance", "log_variance"),
        ):
            part.compare(f"{short}/{name}", getattr(prediction, field) + ops.zeros_like(prediction.x))
    gradient = part.model.gradient(z, level.inputs["time"], part.input("y"))
    part.compare("cond_grad", gradient)
    for variance in ("LEARNED_RANGE", "FIXED_LARGE"):
        output = part.output(z, level, variance)
        prediction = part.objective("EPSILON", variance).predict(output, z, level, process, part.clip)
        part.compare(f"condition_mean/{variance}/mean", shift_mean(prediction, gradient).mean)
        shifted = shift_score(prediction, gradient, z, index, process)
        part.compare(f"condition_score/{variance}/pred_xstart", shifted.x)
        part.compare(f"condition_score/{variance}/mean", shifted.mean)


def check_losses(golden: Path) -> None:
    for dtype in PRECISIONS:
        touched: list[Arrays] = []
        for group, settings in config(golden)["processes"].items():
            part = Group(golden, "losses", settings, group, dtype)
            _losses_group(part)
            touched += [part.given, part.expected]
        helpers = Group(golden, "losses", config(golden)["processes"]["A"], "helpers", dtype)
        _loss_helpers(helpers)
        _all_touched([*touched, helpers.given, helpers.expected])


def _losses_group(part: Group) -> None:
    x, noise, index = (part.input(name) for name in ("x_start", "noise", "t_loss"))
    for unused in ("x_t", "t", "y"):  # inputs of process.npz, stored here as well
        part.given.used.add(f"{part.group}/input/{unused}")
    level = part.level(index)
    z = part.process.corrupt(x, noise, level)
    for name in part.expected.names(f"{part.group}/training_losses/"):
        _, _, target, variance, kind, what = name.split("/")
        _compare_loss(part, name, _training_loss(part, target, variance, kind, what, (x, z, noise, level)), index)
    for name in part.expected.names(f"{part.group}/vb_terms_bpd/"):
        _, _, variance, clip, what = name.split("/")
        objective = part.objective("EPSILON", variance)
        prediction = objective.predict(
            part.output(z, level, variance), z, level, part.process, part.clip if clip == "clip1" else None
        )
        if what == "pred_xstart":
            part.compare(name.removeprefix(f"{part.group}/"), prediction.x)
        else:
            _compare_loss(part, name, objective.bound(prediction, x, z, level, part.process), index)
    last = part.process.alphas_cumprod[-1]
    prior = losses.prior_term(ops.convert_to_tensor(x), float(np.sqrt(last)), float(1 - last))
    part.compare("prior_bpd", prior, 5 * 8.1e-9 if part.dtype == "float32" else 1e-8)


def _training_loss(part: Group, target: str, variance: str, kind: str, what: str, at: tuple[Any, ...]) -> Any:
    """A published loss in this project's terms: the variational term is scaled by weight times the steps."""
    x, z, noise, level = at
    steps = part.process.steps
    learned = VARIANCES[variance].outputs == 2
    if kind == "MSE":
        loss: losses.Loss = losses.HybridLoss(1 / steps) if learned else losses.SimpleLoss()
    else:
        loss = losses.HybridLoss(0.001) if kind == "RESCALED_MSE" else losses.VLBLoss()
    if what == "mse" or not what:
        loss = losses.SimpleLoss()
    output = part.output(z, level, variance)
    total = part.objective(target, variance, loss).loss_at(output, x, z, noise, level)
    if what == "vb":
        total = total - part.objective(target, variance).loss_at(output, x, z, noise, level)
    return total / steps if kind == "KL" else total


def _compare_loss(part: Group, name: str, actual: Any, index: np.ndarray) -> None:
    """At t = 0 the likelihood loses digits, so that float32 is compared element by element, as their README says."""
    expected = part.expected[name]
    part.given.used.add(name)
    first = index == 0
    tight, loose = (1e-8, 1e-7) if part.dtype == "float64" else (5e-4, 7e-2)
    actual = np.asarray(actual, np.float64)
    np.testing.assert_allclose(
        actual[~first], expected[~first], rtol=tight, atol=2e-6 if tight > 1e-6 else 1e-12, err_msg=name
    )
    np.testing.assert_allclose(actual[first], expected[first], rtol=loose, atol=1e-6, err_msg=name)


def _loss_helpers(part: Group) -> None:
    for where in ("near", "far"):
        names = ("input_x", "input_means", "input_log_scales")
        x, means, log_scales = (
            channels_last(part.given[f"helpers/{where}/{name}"]).astype(part.dtype) for name in names
        )
        likelihood = losses.discretised_log_likelihood(*(ops.convert_to_tensor(v) for v in (x, means, log_scales)))
        if part.dtype == "float64" or where == "near":  # in float32 the far likelihoods mean nothing
            part.compare(
                f"{where}/discretized_gaussian_log_likelihood",
                likelihood,
                1e-4 if part.dtype == "float64" else 5 * 3.1e-4,
            )
        for arrays in (part.given, part.expected):
            arrays.used.add(f"helpers/{where}/discretized_gaussian_log_likelihood")
        part.compare(f"{where}/normal_kl", losses.normal_kl(x, log_scales, means, -log_scales))


def check_trajectories(golden: Path) -> None:
    for dtype in PRECISIONS:
        touched: list[Arrays] = []
        for group, settings in config(golden)["trajectories"].items():
            part = Group(golden, "trajectories", settings, group, dtype)
            times = [float(part.level(np.array([t])).inputs["time"][0]) for t in reversed(range(part.process.steps))]
            for arrays in (part.given, part.expected):
                assert_near(times, arrays[f"{group}/model_t"], 1e-3, "model_t")
            prefixes = {name.rsplit("/", 1)[0] for name in part.expected.names(f"{group}/") if "/input/" not in name}
            for prefix in sorted(prefixes):
                if "calc_bpd_loop" in prefix:
                    _bpd_loop(part, prefix)
                elif "sample" in prefix:
                    _trajectory(part, prefix)
            touched += [part.given, part.expected]
        _all_touched(touched)


def _trajectory(part: Group, prefix: str) -> None:
    kind, *words = prefix.split("/")[1:]
    clip = part.clip if "clip1" in words else None
    guided, backwards = "cond" in words, kind == "ddim_reverse_sample"
    eta = next((float(word[3:]) for word in words if re.fullmatch(r"eta[\d.]+", word)), 0.0)
    if kind == "p_sample":
        variance, sampler = words[0], AncestralSampler()
    else:
        variance = "LEARNED_RANGE"
        sampler = DDIMSampler(eta=eta)
        if not guided and eta:
            variance = "FIXED_SMALL" if eta == 1 else "FIXED_LARGE"
    objective, steps = part.objective("EPSILON", variance), part.process.steps
    z, noises = part.input("x_start" if backwards else "x_T"), part.input("noise")
    samples, images = [], []
    for j in range(steps):
        index = np.full((z.shape[0],), j if backwards else steps - 1 - j, "int32")
        level = part.level(index)
        prediction = objective.predict(part.output(z, level, variance), z, level, part.process, clip)
        if guided:
            gradient = part.model.gradient(z, level.inputs["time"], part.input("y"))
            if kind == "p_sample":
                prediction = shift_mean(prediction, gradient)
            else:
                prediction = shift_score(prediction, gradient, z, index, part.process)
        step: Callable[..., Any] = sampler.step
        if backwards:
            z = sampler.invert(prediction, z, index, part.process)
        else:
            z = step(prediction, z, index, noises[j], part.process)
        samples.append(np.asarray(z))
        images.append(np.asarray(prediction.x))
    short = prefix.removeprefix(f"{part.group}/")
    part.compare(f"{short}/sample", np.stack(samples))
    part.compare(f"{short}/pred_xstart", np.stack(images))


def _bpd_loop(part: Group, prefix: str) -> None:
    variance = prefix.split("/")[-1]
    objective, steps = part.objective("EPSILON", variance), part.process.steps
    x, noises = part.input("x_start"), part.input("bpd_noise")
    columns: dict[str, list[np.ndarray]] = {"vb": [], "xstart_mse": [], "mse": []}
    for j in range(steps):
        level = part.level(np.full((x.shape[0],), steps - 1 - j, "int32"))
        output = part.output(part.process.corrupt(x, noises[j], level), level, variance)
        found = bound.terms(objective, output, x, noises[j], level, part.process, part.clip)
        for column, values in zip(columns.values(), found, strict=True):
            column.append(np.asarray(values))
    prior = bound.prior(ops.convert_to_tensor(x), part.process)
    short = prefix.removeprefix(f"{part.group}/")
    for name, column in columns.items():
        part.compare(f"{short}/{name}", np.stack(column, axis=1))
    part.compare(f"{short}/prior_bpd", prior, 5 * 8.1e-9 if part.dtype == "float32" else 1e-8)
    part.compare(f"{short}/total_bpd", np.stack(columns["vb"], axis=1).sum(axis=1) + np.asarray(prior))


CHECKS: dict[str, Callable[[Path], None]] = {
    "diffusion/schedules": check_schedules,
    "diffusion/respacing": check_respacing,
    "diffusion/respaced_betas": check_respaced_betas,
    "diffusion/timestep_embedding": check_timestep_embedding,
    "diffusion/process": check_process,
    "diffusion/losses": check_losses,
    "diffusion/trajectories": check_trajectories,
}
COVERS = {
    "diffusion/config.json",
    "diffusion/fake_model.npz",
    "diffusion/schedules.npz",
    "diffusion/respacing.json",
    "diffusion/respaced_betas.npz",
    "diffusion/timestep_embedding.npz",
    "diffusion/process.npz",
    "diffusion/process_float64.npz",
    "diffusion/losses.npz",
    "diffusion/losses_float64.npz",
    "diffusion/trajectories.npz",
    "diffusion/trajectories_float64.npz",
    "tolerances.json",
}
