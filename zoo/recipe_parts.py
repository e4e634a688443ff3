"""Network, objective and sampler of a recipe's stages, without TensorFlow: for machines with another backend alone.

Data, training and evaluation are not built but described, by the values that their constructors would be given.
"""

import ast
import importlib
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from zoo import recipe, recipe_building
from zoo.diffusion.conditioning import Conditioning
from zoo.diffusion.objective import Objective
from zoo.diffusion.samplers import Sampler
from zoo.method import Method
from zoo.registry import Component
from zoo.signatures import Signatures

# The packages that import Keras alone.
BACKEND_FREE = ("zoo.networks.", "zoo.diffusion.")


class Described:
    """Stands for a component that is not imported: has the values of its constructor's parameters as attributes."""

    def __init__(self, **parameters: Any) -> None:
        self.__dict__.update(parameters)


class StageParts(Method):
    """What of a stage runs on any backend: how its network is called, trained and sampled, but not on what.

    Args:
        stage: a described Stage.
    """

    def __init__(self, stage: Any) -> None:
        self.name: str = stage.name
        self.network: keras.Model = stage.network
        self.objective: Objective = stage.objective
        self.sampler: Sampler = stage.sampler
        self.conditioning: tuple[Conditioning, ...] = tuple(stage.conditioning)
        self.images, self.training = stage.images, stage.training

    @property
    def image_shape(self) -> tuple[int, int, int]:
        width = getattr(self.images.crop, "width", self.images.size)  # of a crop that makes no squares
        return self.images.size, width, self.images.channels

    def build_network(self, seed: int, policy: str = "float32", recompute: Any = None) -> keras.Model:
        """The network with its variables, initialised from the seed.

        Args:
            policy: of Keras, which its layers compute under.
            recompute: see `UNet.recompute`.
        """
        # what Keras draws the seeds of initializers from; its own set_random_seed imports TensorFlow where there is one
        random.seed((seed * 1_000_003 + zlib.crc32(self.name.encode())) % 2**31)
        before = keras.config.dtype_policy()
        self.network.dtype_policy = keras.DTypePolicy(policy)
        self.network.recompute = recompute
        keras.config.set_dtype_policy(policy)
        try:
            self.network({name: keras.KerasTensor(*what) for name, what in self.input_spec(1).items()})
        finally:
            keras.config.set_dtype_policy(before)
        return self.network


def load(path: str | Path, bindings: Sequence[str] = ()) -> list[StageParts]:
    """The stages of a recipe that make images; students, whose training asks another network, are left out.

    Args:
        path: a Gin file, or the name of a recipe in registry.yaml.
        bindings: Gin bindings that are applied last.

    Raises:
        UserError: what is wrong with the recipe.
    """
    found = recipe.load(path, bindings)
    found.require_names()
    pipeline = recipe_building.build(
        found.source, found.instances, found.registry, lambda component: _class_of(component, found.signatures)
    ).root
    return [StageParts(stage) for stage in pipeline.stages if type(stage).__name__ == "Stage"]


def _class_of(component: Component, signatures: Signatures) -> type:
    """The class itself where it needs no TensorFlow, else one that keeps its parameters."""
    if component.target.startswith(BACKEND_FREE):
        return getattr(importlib.import_module(component.module), component.name)
    parameters = signatures.of(component.name).parameters.items()
    defaults = {name: _literal(parameter.default) for name, parameter in parameters if parameter.default is not None}

    def describe(self: Described, **given: Any) -> None:
        Described.__init__(self, **(defaults | given))

    return type(component.name, (Described,), {"__init__": describe})


def _literal(text: str) -> Any:
    """The value of a default, None where it is more than a number or a text."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return None
