"""The tiny cascade with untrained networks that are quick to trace, for tests of what is done with any network."""

from pathlib import Path
from typing import Any

import keras
import tiny
from keras import ops

from zoo import recipe
from zoo.experiment import Experiment


class Denoiser(keras.Model):
    """All that a network is told, through one convolution: quick to trace."""

    classes = 10

    def build(self, shapes: dict[str, Any]) -> None:
        # Made here, as the U-Net's: an initializer draws its seed when it is made.
        self.convolution = keras.layers.Conv2D(3, 3, padding="same", name="convolution")
        self.label = keras.layers.Embedding(self.classes, 3, name="label")
        self.time = keras.layers.Dense(3, name="time")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        image = inputs["image"]
        told = self.label(inputs["label"]) + self.time(inputs["time"][:, None] / 1000)
        if "low_resolution" in inputs:
            told = told + self.time(inputs["low_resolution_time"][:, None] / 1000)
            image = image + ops.image.resize(inputs["low_resolution"], image.shape[1:3])
        return self.convolution(image) + told[:, None, None]


def experiment_of(workdir: Path, *bindings: str) -> Experiment:
    """The tiny cascade with untrained denoisers, checkpointed at step 0."""
    asked = recipe.load(tiny.RECIPE, ["base/Training.steps = 0", "sr/Training.steps = 0", *bindings])
    experiment = Experiment(asked, asked.build(), workdir)
    for stage in experiment.pipeline.stages:
        stage.network = Denoiser()
    experiment.train(experiment.pipeline.stages)
    return experiment
