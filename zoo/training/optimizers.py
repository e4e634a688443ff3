"""Adam with the papers' defaults, its updates fused, and learning-rate schedules."""

import abc
from collections.abc import Sequence

import tensorflow as tf


class RateSchedule(abc.ABC):
    """Contract of the family: a factor in [0, 1] of the learning rate at each optimizer step."""

    @abc.abstractmethod
    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Step int64 [], from 0 -> float32 []."""


class WarmUp(RateSchedule):
    """Grows linearly over the first `steps` steps, then stays."""

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.minimum(1.0, tf.cast(step + 1, tf.float32) / self.steps)


class LinearDecay(RateSchedule):
    """Falls linearly from 1 to 0, reached after `steps`."""

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.maximum(0.0, 1 - tf.cast(step, tf.float32) / self.steps)


class WarmUpCosine(RateSchedule):
    """Grows linearly over `warm_up` steps, then falls to 0 as half a cosine, reached after `steps`."""

    def __init__(self, steps: int, warm_up: int) -> None:
        if not 0 < warm_up < steps:
            raise ValueError(f"warm_up must be positive and below steps, got warm_up = {warm_up}, steps = {steps}")
        self.steps, self.warm_up = steps, warm_up

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step + 1, tf.float32)
        fall = tf.clip_by_value((done - self.warm_up) / (self.steps - self.warm_up), 0.0, 1.0)
        return tf.minimum(done / self.warm_up, 0.5 * (1 + tf.cos(3.141592653589793 * fall)))


class Optimizer(abc.ABC):
    """Contract of the family: slots for the trained variables and one update of them."""

    @abc.abstractmethod
    def slots(self, variables: Sequence[tf.Variable]) -> dict[str, list[tf.Variable]]:
        """Makes the state, one list a slot, in the order of `variables`; called inside the strategy's scope."""

    @abc.abstractmethod
    def apply(
        self,
        variables: Sequence[tf.Variable],
        slots: dict[str, list[tf.Variable]],
        gradients: Sequence[tf.Tensor],
        step: tf.Tensor,
    ) -> None:
        """Updates every variable in place, on the replica that calls it; `step` int64 [], from 0."""

    @abc.abstractmethod
    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate float32 [] of a step."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with `weight_decay` decoupled (AdamW).

    One fused operation a variable: the Keras optimizer takes a tenth longer for a training step (docs/facts.md). The
    operation applies epsilon before the bias correction, so epsilon is scaled to make up for it.
    """

    def __init__(
        self,
        learning_rate: float,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        schedule: RateSchedule | None = None,
    ) -> None:
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
        self.learning_rate, self.beta_1, self.beta_2 = learning_rate, beta_1, beta_2
        self.epsilon, self.weight_decay, self.schedule = epsilon, weight_decay, schedule

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        factor = tf.constant(1.0) if self.schedule is None else self.schedule(step)
        return self.learning_rate * factor

    def slots(self, variables: Sequence[tf.Variable]) -> dict[str, list[tf.Variable]]:
        return {name: [zeros_like(variable) for variable in variables] for name in ("first", "second")}

    def apply(
        self,
        variables: Sequence[tf.Variable],
        slots: dict[str, list[tf.Variable]],
        gradients: Sequence[tf.Tensor],
        step: tf.Tensor,
    ) -> None:
        rate = self.rate(step)
        count = tf.cast(step + 1, tf.float64)  # float32 powers lose digits after some thousand steps
        power_1, power_2 = (
            tf.pow(tf.constant(self.beta_1, tf.float64), count),
            tf.pow(tf.constant(self.beta_2, tf.float64), count),
        )
        epsilon = tf.cast(self.epsilon * tf.sqrt(1 - power_2), tf.float32)
        powers = tf.cast(power_1, tf.float32), tf.cast(power_2, tf.float32)
        for variable, first, second, gradient in zip(
            variables, slots["first"], slots["second"], gradients, strict=True
        ):
            if self.weight_decay:
                tf.raw_ops.ResourceApplyGradientDescent(
                    var=variable.handle, alpha=rate * self.weight_decay, delta=variable.read_value()
                )
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=epsilon,
                grad=gradient,
            )


class Momentum(Optimizer):
    """Gradient descent with momentum: linear in the gradients, so the optimizer of equality tests."""

    def __init__(self, learning_rate: float, momentum: float = 0.9) -> None:
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.learning_rate, self.momentum = learning_rate, momentum

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        return tf.constant(self.learning_rate, tf.float32)

    def slots(self, variables: Sequence[tf.Variable]) -> dict[str, list[tf.Variable]]:
        return {"velocity": [zeros_like(variable) for variable in variables]}

    def apply(
        self,
        variables: Sequence[tf.Variable],
        slots: dict[str, list[tf.Variable]],
        gradients: Sequence[tf.Tensor],
        step: tf.Tensor,
    ) -> None:
        for variable, velocity, gradient in zip(variables, slots["velocity"], gradients, strict=True):
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle, accum=velocity.handle, lr=self.learning_rate, grad=gradient, momentum=self.momentum
            )


def zeros_like(variable: tf.Variable) -> tf.Variable:
    """A variable of zeros that is not trained."""
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def average(averages: Sequence[tf.Variable], variables: Sequence[tf.Variable], decay: float, step: tf.Tensor) -> None:
    """Exponential moving average, in place, of the weights after steps 0 .. `step`.

    The share of the newest weights is (1 - decay) / (1 - decay^(step + 1)): 1 at first, 1 - decay in the long run. So
    the initial weights, which were never trained, have no part in it; in a short training they would have a large one.
    """
    history = 1 - tf.pow(tf.constant(decay, tf.float64), tf.cast(step + 1, tf.float64))
    share = tf.cast((1 - decay) / history, tf.float32)
    for mean, variable in zip(averages, variables, strict=True):
        tf.raw_ops.ResourceApplyGradientDescent(
            var=mean.handle, alpha=share, delta=mean.read_value() - variable.read_value()
        )
