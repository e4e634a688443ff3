"""Guidance: what turns every step of a sampler towards what is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from zoo.diffusion.objective import Network, Prediction
from zoo.diffusion.process import DiscreteProcess, noise_of

Gradient = Callable[[Callable[[Any], Any], Any], Any]
"""(function, x) -> d function(x) / d x: Keras has none, so it comes as an argument (zoo/training/gradients.py)."""


class Guidance:
    """Contract of the family, and guidance that changes nothing.

    A member changes the answer of the denoiser (`answer`), or asks the classifier of another stage for the direction
    in which the sampler shifts its step (`asks` and `pull`, then `Sampler.shift`).
    """

    @property
    def evaluations(self) -> int:
        """Of the denoiser in one answer."""
        return 1

    @property
    def drops(self) -> bool:
        """Whether the denoiser is also asked without its class or text, for which it must have been trained."""
        return False

    @property
    def asks(self) -> str | None:
        """The name of the stage whose classifier is asked; None where none is."""
        return None

    def answer(self, network: Network, inputs: dict[str, Any]) -> Any:
        """What the denoiser says of its inputs, in the form of its output."""
        return network(inputs)

    def pull(
        self, classifier: Network, inputs: dict[str, Any], label: Any, gradient: Gradient, weight: Any = None
    ) -> Any:
        """The direction of the shift [B, H, W, C], of guidance that asks a classifier.

        Args:
            classifier: inputs -> logits [B, classes].
            inputs: `image` = z_t and the noise level, as the classifier is told it.
            label: what is asked for, int [B], or [B, K] of a mix of classes.
            gradient: of a function with one number as its value.
            weight: [B, K] of a mix: of the log-probability of each class.
        """
        raise NotImplementedError(f"{type(self).__name__} asks no classifier")


class ClassifierGuidance(Guidance):
    """Classifier guidance (ADM, section 4): the gradient of log p(y | z_t) in z_t, by a classifier of noised images.

    Args:
        scale: of the gradient: s in algorithms 1 and 2. 0 is no guidance, and the classifier is not called.
        classifier: name of the stage that trains it.
    """

    def __init__(self, scale: float = 1.0, classifier: str = "classifier") -> None:
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}")
        self.scale, self.classifier = scale, classifier

    @property
    def asks(self) -> str | None:
        return self.classifier if self.scale > 0 else None

    def pull(
        self, classifier: Network, inputs: dict[str, Any], label: Any, gradient: Gradient, weight: Any = None
    ) -> Any:
        return self.scale * class_gradient(classifier, inputs, label, gradient, weight)


class ClassifierFreeGuidance(Guidance):
    """(1 + eta) f(z, cond) - eta f(z), without a classifier (Ho and Salimans 2022; simple diffusion, equation 7).

    The same whether f is the noise, the image or the velocity. A learned variance is that of f(z, cond).

    Args:
        scale: 1 + eta, as the papers report it. 1 is no guidance, and f(z) is not asked.
        passes: 1 asks for both at once, as a batch twice as large; 2 for one after the other, in less memory.
    """

    def __init__(self, scale: float, passes: int = 1) -> None:
        if scale < 0:
            raise ValueError(f"scale must not be negative (1 is no guidance), got {scale}")
        if passes not in (1, 2):
            raise ValueError(f"passes must be 1 or 2, got {passes}")
        self.scale, self.passes = scale, passes

    @property
    def drops(self) -> bool:
        return self.scale != 1

    @property
    def evaluations(self) -> int:
        return 2 if self.drops else 1

    def answer(self, network: Network, inputs: dict[str, Any]) -> Any:
        if not self.drops:
            return network(inputs)
        without = {**inputs, **unconditional(inputs)}
        if self.passes == 2:
            told, untold = network(inputs), network(without)
        else:
            both = {name: ops.concatenate([value, without[name]]) for name, value in inputs.items()}
            told, untold = ops.split(network(both), 2)
        dtype, channels = ops.dtype(inputs["image"]), inputs["image"].shape[-1]
        told, untold = (ops.cast(value, dtype) for value in (told, untold))
        guided = untold + self.scale * (told - untold)
        if told.shape[-1] == channels:
            return guided
        return ops.concatenate([guided[..., :channels], told[..., channels:]], axis=-1)


def unconditional(inputs: dict[str, Any]) -> dict[str, Any]:
    """What a denoiser is told in place of its class and its text, where it is to be told neither."""
    found = {}
    if "label" in inputs:
        found["label"] = -ops.ones_like(inputs["label"])
    if "label_weight" in inputs:  # of a mix: no class, once
        weight = inputs["label_weight"]
        found["label_weight"] = ops.concatenate([ops.ones_like(weight[:, :1]), ops.zeros_like(weight[:, 1:])], axis=1)
    if "text" in inputs:
        found["text"] = ops.zeros_like(inputs["text"])
    return found


def log_probability(logits: Any, label: Any, weight: Any = None) -> Any:
    """log p(y | z_t) [B] of logits [B, classes] and label int [B].

    With `weight` [B, K] and label [B, K] the sum of weight log p(y_k | z_t), a mix of classes (ADM, appendix F).
    """
    if weight is None:
        chosen = ops.take_along_axis(logits, ops.expand_dims(label, 1), axis=1)[:, 0]
        return chosen - ops.logsumexp(logits, axis=-1)
    chosen = ops.take_along_axis(logits, label, axis=1) - ops.logsumexp(logits, axis=-1, keepdims=True)
    return ops.sum(ops.cast(weight, chosen.dtype) * chosen, axis=1)


def class_gradient(
    classifier: Callable[[dict[str, Any]], Any],
    inputs: dict[str, Any],
    label: Any,
    gradient: Gradient,
    weight: Any = None,
) -> Any:
    """The gradient of log p(y | z_t) in z_t [B, H, W, C], by a classifier of noised images (ADM, section 4).

    Args:
        classifier: inputs -> logits [B, classes].
        inputs: `image` = z_t and the noise level.
        label: y, int [B], or [B, K] of a mix of classes.
        gradient: of a function with one number as its value.
        weight: [B, K] of a mix.
    """

    def total(z: Any) -> Any:
        return ops.sum(log_probability(classifier({**inputs, "image": z}), label, weight))

    return gradient(total, inputs["image"])


def shift_mean(prediction: Prediction, gradient: Any) -> Prediction:
    """Moves the mean of the reverse step by its variance times the gradient (ADM, algorithm 1).

    Args:
        prediction: at z_t.
        gradient: of log p(y | z_t) in z_t, times the scale, [B, H, W, C].
    """
    return prediction._replace(mean=prediction.mean + prediction.variance * gradient)


def shift_score(prediction: Prediction, gradient: Any, z: Any, index: Any, process: DiscreteProcess) -> Prediction:
    """Moves the noise estimate by -sigma times the gradient (ADM, algorithm 2), for DDIM.

    The noise is derived from the (clipped) image; the new image is not clipped again, as in the public code.
    """
    dtype = ops.dtype(z)
    eps = noise_of(prediction.x, z, index, process)
    eps = eps - process.gather(np.sqrt(1 - process.alphas_cumprod), index, dtype) * gradient
    scale = process.gather(np.sqrt(1 / process.alphas_cumprod), index, dtype)
    x = scale * z - process.gather(np.sqrt(1 / process.alphas_cumprod - 1), index, dtype) * eps
    return prediction._replace(x=x, mean=process.posterior_mean(x, z, index))
