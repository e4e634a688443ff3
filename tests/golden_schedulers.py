"""Samplers against diffusers' DDIM, DDPM and DPM-Solver++ schedulers: the same steps of a process in steps and of one
in continuous time, noise and velocity targets, in float64 and in float32.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from golden_arrays import Arrays, Tolerances, assert_near, channels_last
from keras import ops

from zoo.diffusion.dpm_solver import DPMSolverSampler
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import LogSNRSchedule
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.objective import Objective, Prediction
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, Memory, Sampler, StaticClipping
from zoo.diffusion.schedules import CosineSchedule, LinearSchedule, Schedule
from zoo.diffusion.targets import NoiseTarget, VelocityTarget
from zoo.diffusion.variances import FixedLargeVariance, FixedSmallVariance

SCHEDULES = {"linear": LinearSchedule(), "squaredcos_cap_v2": CosineSchedule()}
TARGETS = {"epsilon": NoiseTarget(), "v_prediction": VelocityTarget()}
VARIANCES = {"fixed_small": FixedSmallVariance(), "fixed_large": FixedLargeVariance()}


class GivenSignals(Schedule):
    """A process in steps with these abar."""

    def __init__(self, signals: np.ndarray) -> None:
        self.signals = signals

    def betas(self, steps: int) -> np.ndarray:
        return 1 - self.signals / np.append(1.0, self.signals[:-1])


class GivenLogSNR(LogSNRSchedule):
    """A process in continuous time that has these abar at t = 1/N, 2/N .. 1, and straight lines between them."""

    def __init__(self, signals: np.ndarray) -> None:
        self.times = np.arange(1, len(signals) + 1) / len(signals)
        with np.errstate(divide="ignore"):
            self.values = np.log(signals) - np.log1p(-signals)

    def logsnr(self, t: Any, xp: Any = np) -> Any:
        return np.interp(t, self.times, self.values)

    def derivative(self, t: Any, xp: Any = np) -> Any:
        raise NotImplementedError


class NetworkNoiseDDIM(DDIMSampler):
    """diffusers' own: the image is clipped and the noise stays the network's. Given the unclipped image."""

    def step(self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess) -> Any:
        moved = ops.clip(prediction.x, -1, 1) - prediction.x
        scale = process.gather(np.sqrt(process.alphas_cumprod_previous), index, ops.dtype(z))
        return super().step(prediction, z, index, noise, process) + scale * moved


class FirstOrder(DPMSolverSampler):
    """DPM-Solver++ that remembers nothing."""

    def advance(
        self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess, memory: Memory
    ) -> tuple[Any, Memory]:
        z, _ = super().advance(prediction, z, index, noise, process, memory)
        return z, memory


class Heun(DPMSolverSampler):
    """The other second-order term of diffusers: alpha_s ((exp(-h) - 1) / h + 1) D_1."""

    def advance(
        self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess, memory: Memory
    ) -> tuple[Any, Memory]:
        h = -np.diff(process.logsnr) / 2
        factor = np.sqrt(process.alphas_cumprod[:-1]) * (np.expm1(-h) / h + 1) * h / np.append(h[1:], 1.0)
        scale = process.gather(np.append(0.0, factor), index, ops.dtype(z))
        change = scale * memory[1] * (prediction.x - memory[0])
        first, known = super().advance(prediction, z, index, noise, process, self.start(z))
        return first + change, known


class Case:
    """One walk of the files."""

    def __init__(self, golden: Path, name: str, settings: dict[str, Any], arrays: Arrays) -> None:
        self.name, self.arrays, self.tolerances = name, arrays, Tolerances(golden)
        self.config, self.settings = settings["full_config"], settings
        self.timesteps = arrays[f"{name}/timesteps"]
        # What the last step leaves is a level of its own, abar of the first step, in place of the image.
        self.stops_early = self.config.get("final_sigmas_type") == "sigma_min" or not self.config.get(
            "set_alpha_to_one", True
        )
        self.clips = self.config.get("clip_sample", False)

    def signals(self) -> np.ndarray:
        """abar of the steps, ascending in noise, after that of the level where the walk stops early."""
        signals = DiscreteProcess(SCHEDULES[self.config["beta_schedule"]], 1000).alphas_cumprod
        if self.config.get("rescale_betas_zero_snr"):
            signals = zero_snr(signals)
        kept = self.timesteps[::-1]
        return signals[np.append(0, kept) if self.stops_early else kept]

    def sampler(self) -> Sampler:
        if self.settings["scheduler"] == "DDPMScheduler":
            return AncestralSampler()
        if self.settings["scheduler"] == "DDIMScheduler":
            arguments = self.settings["step_kwargs"]
            kept = self.clips and not arguments.get("use_clipped_model_output")
            return (NetworkNoiseDDIM if kept else DDIMSampler)(eta=arguments["eta"])
        if self.config["solver_order"] == 1:
            return FirstOrder()
        return {"midpoint": DPMSolverSampler, "heun": Heun}[self.config["solver_type"]]()

    def model(self, z: Any, time: int, dtype: str) -> Any:
        M, s, w, p = (self.arrays[f"fake_model/{name}"].astype(dtype) for name in "Mswp")
        return ops.matmul(z, M[:3].T) + (s * np.sin(w * np.asarray(time, dtype) + p))[:3]

    def walk(self, process: DiscreteProcess, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """z and the predicted image after every step."""
        sampler = self.sampler()
        variance = VARIANCES[self.config.get("variance_type", "fixed_small")]
        objective = Objective(process, TARGETS[self.config["prediction_type"]], variance, SimpleLoss())
        clipping = StaticClipping() if self.clips and not isinstance(sampler, NetworkNoiseDDIM) else None
        z = ops.convert_to_tensor(channels_last(self.arrays[f"{self.name}/x_T"]).astype(dtype))
        key = f"{self.name}/noise"
        noises = channels_last(self.arrays[key]).astype(dtype) if key in self.arrays else np.zeros(1000)
        memory, samples, images = sampler.start(z), [], []
        first = process.steps - 1
        for j, (time, noise) in enumerate(zip(self.timesteps, noises, strict=False)):
            index = np.full(z.shape[0], first - j, "int32")
            prediction = objective.predict(
                self.model(z, time, dtype), z, process.level(index, dtype), process, clipping
            )
            if j == len(self.timesteps) - 1 and self.stops_early:
                memory = sampler.start(z)  # lower_order_final: the last of fewer than 15 steps is of first order
            z, memory = sampler.advance(prediction, z, index, noise, process, memory)
            samples.append(np.asarray(z))
            images.append(np.clip(prediction.x, -1, 1) if self.clips else np.asarray(prediction.x))
        return np.stack(samples), np.stack(images)

    def compare(self, what: str, actual: np.ndarray, dtype: str, kind: str) -> None:
        key = f"{self.name}/{what}"
        self.arrays[key]
        tolerance = self.tolerances(f"schedulers/{key}") if dtype == "float32" else 1e-9
        assert_near(actual, channels_last(self.arrays[f"{key}_float64"]), tolerance, f"{key}, {kind}, {dtype}")


def zero_snr(signals: np.ndarray) -> np.ndarray:
    """abar of a process whose last step has no signal left."""
    r = np.sqrt(signals)
    return ((r - r[-1]) * r[0] / (r[0] - r[-1])) ** 2


def check_signals(arrays: Arrays) -> None:
    for name, schedule in SCHEDULES.items():
        signals = DiscreteProcess(schedule, 1000).alphas_cumprod
        found = {name: signals} | ({"linear_zero_snr": zero_snr(signals)} if name == "linear" else {})
        for kind, value in found.items():
            np.testing.assert_allclose(value, arrays[f"alphas_cumprod/{kind}_float64"], rtol=1e-9, atol=1e-15)
            assert_near(value, arrays[f"alphas_cumprod/{kind}"].astype("float64"), 1e-6, kind)


def check_schedulers(golden: Path) -> None:
    arrays = Arrays(golden / "schedulers" / "schedulers.npz")
    check_signals(arrays)
    for name, settings in json.loads((golden / "schedulers" / "schedulers.json").read_text())["cases"].items():
        case = Case(golden, name, settings, arrays)
        signals = case.signals()
        processes = {
            "in steps": DiscreteProcess(GivenSignals(signals), len(signals)),
            "in continuous time": LogSNRProcess(GivenLogSNR(signals)).respace(len(signals)),
        }
        for kind, process in processes.items():
            for dtype in ("float64", "float32"):
                samples, images = case.walk(process, dtype)
                case.compare("sample", samples, dtype, kind)
                if f"{name}/pred_original_sample" in arrays:
                    case.compare("pred_original_sample", images, dtype, kind)
            if f"{name}/sigmas" in arrays:  # sigma / alpha, down to the image or to where the walk stops
                sigmas = np.exp(-process.logsnr / 2)[::-1]
                sigmas = sigmas if case.stops_early else np.append(sigmas, 0.0)
                assert_near(sigmas, arrays[f"{name}/sigmas_float64"], 1e-9 * sigmas.max(), f"{name}/sigmas")
                assert_near(sigmas, arrays[f"{name}/sigmas"].astype("float64"), 1e-5 * sigmas.max(), f"{name}/sigmas")
    arrays.close()


CHECKS: dict[str, Callable[[Path], None]] = {"schedulers": check_schedulers}
COVERS = {"schedulers/schedulers.json", "schedulers/schedulers.npz"}
