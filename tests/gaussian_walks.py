"""Samplers on Gaussian images whose denoiser is known, in closed form: mean and covariance of what a walk ends with.

As a program (python tests/gaussian_walks.py) it draws docs/figures/samplers.png.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.diffusion.dpm_solver import DPMSolverSampler
from zoo.diffusion.logsnr_process import LogSNRSteps
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule
from zoo.diffusion.losses import SimpleLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import AncestralSampler, DDIMSampler, Sampler
from zoo.diffusion.targets import VelocityTarget
from zoo.diffusion.variances import InterpolatedVariance

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "samplers.png"
SCHEDULE = CosineLogSNRSchedule()
NOISY, CLEAN = 0.9, 0.1  # the walk is from one finite noise level to another
MEAN = np.array([0.4, -0.7])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
SAMPLERS: dict[str, tuple[Sampler, int]] = {
    "AncestralSampler": (AncestralSampler(), 1),
    "DDIMSampler": (DDIMSampler(), 1),
    "DDIMSampler, eta = 1": (DDIMSampler(eta=1.0), 1),
    "DPMSolverSampler": (DPMSolverSampler(), 2),
}


class Gaussian(NamedTuple):
    """Of images of two pixels."""

    mean: np.ndarray
    """[2]."""
    covariance: np.ndarray
    """[2, 2]."""


def marginal(process: DiscreteProcess, index: int) -> Gaussian:
    """q(z_t) for x ~ N(MEAN, COVARIANCE)."""
    signal = process.alphas_cumprod[index]
    return Gaussian(np.sqrt(signal) * MEAN, signal * COVARIANCE + (1 - signal) * np.eye(2))


def steps(count: int) -> LogSNRSteps:
    """`count` steps from NOISY to CLEAN, even in time; the last level, 0, is where the walk ends."""
    return LogSNRSteps(SCHEDULE, np.linspace(CLEAN, NOISY, count + 1))


def as_images(rows: np.ndarray) -> np.ndarray:
    """[N, 2] -> [N, 1, 2, 1]."""
    return rows.reshape(-1, 1, 2, 1)


def walk(sampler: Sampler, process: DiscreteProcess, z: np.ndarray, noises: np.ndarray) -> np.ndarray:
    """Where z [N, 2] ends, with the exact E[x | z_t] for a network and noises [steps, N, 2]."""
    objective = Objective(process, VelocityTarget(), InterpolatedVariance(), SimpleLoss())
    memory: Any = sampler.start(as_images(z))
    for index, noise in zip(range(process.steps - 1, 0, -1), noises, strict=True):
        seen = marginal(process, index)
        alpha, sigma = np.sqrt(process.alphas_cumprod[index]), np.sqrt(1 - process.alphas_cumprod[index])
        x = MEAN + alpha * (z - seen.mean) @ np.linalg.solve(seen.covariance, COVARIANCE)
        velocity = as_images((alpha * z - x) / sigma)  # alpha eps - sigma x
        at = np.full(len(z), index, "int32")
        prediction = objective.predict(velocity, as_images(z), process.level(at, "float64"), process, None)
        moved, memory = sampler.advance(prediction, as_images(z), at, as_images(noise), process, memory)
        z = np.asarray(moved).reshape(-1, 2)
    return z


def end(sampler: Sampler, count: int) -> Gaussian:
    """The distribution that `count` steps end with, begun with the true one: every step is an affine map.

    The end of a walk is A z + sum B_j noise_j + c; rows that are 0 but for one number give the columns of A and B_j.
    """
    process = steps(count)
    inputs = 2 + (2 * count if sampler.random else 0)
    rows = np.vstack([np.zeros(inputs), np.eye(inputs)])
    noises = np.zeros((count, len(rows), 2))
    if sampler.random:
        noises = rows[:, 2:].reshape(-1, count, 2).transpose(1, 0, 2)
    ends = walk(sampler, process, rows[:, :2], noises)
    maps = (ends[1:] - ends[0]).T  # [2, inputs]
    first = marginal(process, count)
    spread = np.eye(inputs)
    spread[:2, :2] = first.covariance
    return Gaussian(ends[0] + maps[:, :2] @ first.mean, maps @ spread @ maps.T)


def errors(sampler: Sampler, counts: list[int]) -> np.ndarray:
    """Distance of the end from the true distribution: largest difference of a mean or a covariance."""
    truth = marginal(steps(1), 0)
    ends = [end(sampler, count) for count in counts]
    return np.array(
        [max(np.abs(e.mean - truth.mean).max(), np.abs(e.covariance - truth.covariance).max()) for e in ends]
    )


def draw(path: Path = FIGURE) -> None:
    """The errors over the number of steps, beside lines of slope 1 and 2."""
    from matplotlib.figure import Figure

    counts = [4, 8, 16, 32, 64, 128]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (sampler, _) in SAMPLERS.items():
        axes.loglog(counts, errors(sampler, counts), "o-", label=name, markersize=4)
    for order, level in ((1, 0.25), (2, 0.5)):
        lines = level * (counts[0] / np.array(counts)) ** order
        axes.loglog(counts, lines, ":", color="grey", linewidth=1)
        axes.annotate(f"order {order}", (counts[-1], lines[-1]), color="grey", ha="right", va="bottom")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("steps from t = 0.9 to t = 0.1")
    axes.set_ylabel("error of mean or covariance")
    axes.set_title("Gaussian images and their exact denoiser")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw()
