"""One training example becomes a loss; one network output becomes a step of the reverse process."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from zoo.diffusion.level_samplers import LevelSampler
from zoo.diffusion.losses import Loss, bound_term
from zoo.diffusion.process import DiscreteProcess, Level, Process
from zoo.diffusion.targets import Target
from zoo.diffusion.variances import Variance
from zoo.diffusion.weightings import Weighting

Network = Callable[[dict[str, Any]], Any]


class Prediction(NamedTuple):
    """What a network output says about z_t: tensors that broadcast over [B, H, W, C]."""

    x: Any
    """The image, clipped where asked."""
    mean: Any
    """Mean of p(z_s | z_t)."""
    variance: Any
    log_variance: Any


class Objective:
    """Process, target, variance and loss of a model: all that is needed to train it and to read its outputs.

    Args:
        process: what noise does.
        target: what the network predicts.
        variance: of the reverse process.
        loss: of an image.
        levels: which steps are trained; None draws them uniformly. It remembers losses, so a training step asks it and
            puts the chosen steps into `level`.
        weighting: of the squared error over noise levels; None takes that of the target as it is.
    """

    def __init__(
        self,
        process: Process,
        target: Target,
        variance: Variance,
        loss: Loss,
        levels: LevelSampler | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        if levels is not None and not isinstance(process, DiscreteProcess):
            raise ValueError(
                f"levels must be None: it remembers the losses of steps, and {type(process).__name__} has none"
            )
        self.process, self.target, self.variance, self.loss, self.levels = process, target, variance, loss, levels
        self.weighting = weighting

    def randomness(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What `training_loss` needs drawn for images of `shape` [B, H, W, C]: name -> (distribution, shape)."""
        chosen = {} if self.levels is None else {"level_choice": ("uniform", (shape[0], 2))}
        return {"noise": ("normal", shape), "level": ("uniform", (shape[0], 2)), **chosen}

    def training_loss(
        self, network: Network, x: Any, inputs: dict[str, Any], random: dict[str, Any], seed: Any = None
    ) -> Any:
        """The loss of each image [B] at a drawn noise level.

        Args:
            network: called with one dictionary, as docs/design.md says.
            x: images [B, H, W, C] in [-1, 1].
            inputs: conditioning inputs of the network.
            random: the arrays that `randomness` names.
            seed: int32 [2], from which the network draws its dropout masks; None drops nothing out.
        """
        level = self.process.draw(random["level"])
        z = self.process.corrupt(x, random["noise"], level)
        output = network({**inputs, **level.inputs, "image": z, **({} if seed is None else {"seed": seed})})
        # A network that computes in half precision is still compared in full.
        return self.loss_at(ops.cast(output, ops.dtype(z)), x, z, random["noise"], level)

    def loss_at(self, output: Any, x: Any, z: Any, noise: Any, level: Level) -> Any:
        """The loss [B] of a network output at z = alpha x + sigma noise."""
        wanted = self.target.value(x, noise, z, level, self.process)
        return self.loss_against(output, wanted, x, z, level, self.process)

    def loss_against(self, output: Any, wanted: Any, x: Any, z: Any, level: Level, process: Process) -> Any:
        """The loss [B] of a network output that should have said `wanted` of z, which the image x stands behind.

        `process` is the one that `level` is of: the trained one, or steps of it.
        """
        value, extra = self.split(output)
        error = wanted - value
        if self.weighting is not None:
            error = ops.sqrt(self.weighting(level, process, self.target)) * error

        def bound(detach_mean: bool) -> Any:
            detached = ops.stop_gradient(value) if detach_mean else value
            return self.bound(self._predict(detached, extra, z, level, process, None), x, z, level, process)

        return self.loss(error, bound, process.steps)

    def split(self, output: Any) -> tuple[Any, Any]:
        """Network output -> target and variance channels (None where the variance is not learned)."""
        if self.variance.outputs == 1:
            return output, None
        return tuple(ops.split(output, 2, axis=-1))

    def predict(
        self, output: Any, z: Any, level: Level, process: Process, clip: Callable[[Any], Any] | None
    ) -> Prediction:
        """Reads a network output at z, where `process` is the trained one or the steps of a sampler."""
        value, extra = self.split(output)
        return self._predict(value, extra, z, level, process, clip)

    def _predict(
        self, value: Any, extra: Any, z: Any, level: Level, process: Process, clip: Callable[[Any], Any] | None
    ) -> Prediction:
        x = self.target.image(value, z, level, process)
        if clip is not None:
            x = clip(x)
        variance, log_variance = self.variance(extra, process, level.index, ops.dtype(z))
        return Prediction(x, self.target.mean(value, x, z, level, process), variance, log_variance)

    def bound(self, prediction: Prediction, x: Any, z: Any, level: Level, process: Process) -> Any:
        """The term of the variational bound [B] in bits per dimension at z."""
        posterior_mean = process.posterior_mean(x, z, level.index)
        _, posterior_log_variance = process.small_variance(level.index, ops.dtype(z))
        # Broadcast so that the mean over pixels is over all of them.
        log_variance = prediction.log_variance + ops.zeros_like(z)
        return bound_term(
            x, prediction.mean, log_variance, posterior_mean, posterior_log_variance, process.ends(level.index)
        )
