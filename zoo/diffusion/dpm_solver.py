"""DPM-Solver++: steps that remember what was predicted before."""

from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.objective import Prediction
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.samplers import Memory, Sampler


class DPMSolverSampler(Sampler):
    """DPM-Solver++ (2M): second order by the image that was predicted before (Lu et al. 2022, algorithm 2).

    The first step of a walk, which has none before it, and the last, which ends at the image, are of first order;
    such a step is DDIM's.
    """

    @property
    def random(self) -> bool:
        return False

    def start(self, z: Any) -> Memory:
        """No image yet: its place, and 0 [B, 1, 1, 1]."""
        return ops.zeros_like(z), ops.zeros_like(z[:, :1, :1, :1])

    def step(self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess) -> Any:
        return self.advance(prediction, z, index, noise, process, self.start(z))[0]

    def advance(
        self, prediction: Prediction, z: Any, index: Any, noise: Any, process: DiscreteProcess, memory: Memory
    ) -> tuple[Any, Memory]:
        before, known = memory
        dtype = ops.dtype(z)
        # lambda = log(alpha / sigma); h of a step is what lambda grows by
        with np.errstate(divide="ignore"):  # steps without any signal
            half = process.logsnr / 2
        h = np.append(np.inf, half[:-1]) - half
        ratio = np.append(0.0, h[1:] / np.append(h[2:], 1.0))  # to h of the step before; the first step has none
        sigma, alpha = (np.exp(-0.5 * np.logaddexp(0, sign * 2 * half)) for sign in (1, -1))
        # D = x + (x - x before) / (2 r), where 1 / r is that ratio
        change = process.gather(0.5 * ratio, index, dtype) * known * (prediction.x - before)
        z = process.gather(np.append(0.0, sigma[:-1]) / sigma, index, dtype) * z
        scale = process.gather(-np.append(1.0, alpha[:-1]) * np.expm1(-h), index, dtype)
        return z + scale * (prediction.x + change), (prediction.x, ops.ones_like(known))
