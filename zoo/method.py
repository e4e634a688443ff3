"""The method of a stage without its data and machines: what is drawn, told to the network and lost. No backend."""

from typing import Any

from zoo.diffusion.conditioning import Conditioning, Draws
from zoo.diffusion.objective import Objective


class Method:
    """Objective and conditioning together."""

    objective: Objective
    conditioning: tuple[Conditioning, ...]

    def conditioning_draws(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What conditioning needs drawn, in training or sampling."""
        draws: Draws = {}
        for part in self.conditioning:
            draws |= part.randomness(shapes)
        return draws

    def randomness(self, shapes: dict[str, tuple[int, ...]]) -> Draws:
        """What a training step needs drawn, given the shapes of its batch."""
        return {**self.objective.randomness(shapes["image"]), **self.conditioning_draws(shapes)}

    def training_loss(self, network: Any, batch: dict[str, Any], random: dict[str, Any], seed: Any) -> Any:
        """The loss [B] of a batch of `image` and, where they are told, `label`, `text` and `low_resolution`."""
        inputs: dict[str, Any] = {}
        for part in self.conditioning:
            inputs |= part.training_inputs(batch, random)
        return self.objective.training_loss(network, batch["image"], inputs, random, seed)

    def sampling_inputs(self, batch: dict[str, Any], random: dict[str, Any]) -> dict[str, Any]:
        """Network inputs that stay the same over all steps of a sample."""
        inputs: dict[str, Any] = {}
        for part in self.conditioning:
            inputs |= part.sampling_inputs(batch, random)
        return inputs
