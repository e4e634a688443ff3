"""The tiny cascades with untrained networks that are quick to trace, for tests of what is done with any network."""

from pathlib import Path
from typing import Any

import keras
import tiny
from keras import ops

from zoo import recipe
from zoo.classifier_stage import ClassifierStage
from zoo.experiment import Experiment
from zoo.learner import Learner

GUIDED = tiny.ROOT / "tests" / "recipes" / "tiny_guided.gin"


class Denoiser(keras.Model):
    """All that a network is told, through one convolution: quick to trace."""

    classes = 10

    def build(self, shapes: dict[str, Any]) -> None:
        # Made here, as the U-Net's: an initializer draws its seed when it is made.
        self.convolution = keras.layers.Conv2D(3, 3, padding="same", name="convolution")
        if self.classes:
            self.label = keras.layers.Embedding(self.classes, 3, name="label")
        self.time = keras.layers.Dense(3, name="time")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        image = inputs["image"]
        told = self.time(inputs["time"][:, None] / 1000)
        if "label" in inputs:
            told = told + self.label(inputs["label"])
        if "low_resolution" in inputs:
            told = told + self.time(inputs["low_resolution_time"][:, None] / 1000)
            image = image + ops.image.resize(inputs["low_resolution"], image.shape[1:3])
        return self.convolution(image) + told[:, None, None]


class Classifier(keras.Model):
    """Logits that are linear in the image."""

    out_classes = 10

    def build(self, shapes: dict[str, Any]) -> None:
        self.linear = keras.layers.Dense(self.out_classes, name="linear")
        self.time = keras.layers.Dense(self.out_classes, name="time")
        super().build(shapes)

    def call(self, inputs: dict[str, Any]) -> Any:
        image = inputs["image"]
        return self.linear(ops.reshape(image, (image.shape[0], -1))) + self.time(inputs["time"][:, None] / 1000)


def network_of(stage: Learner) -> keras.Model:
    """An untrained network for a stage of a tiny cascade."""
    if isinstance(stage, ClassifierStage):
        return Classifier()
    network = Denoiser()
    network.classes = stage.network.classes
    return network


def experiment_of(workdir: Path, *bindings: str, source: Path = tiny.RECIPE) -> Experiment:
    """A tiny cascade with untrained networks, checkpointed at step 0."""
    untrained = [f"{name}/Training.steps = 0" for name in ("base", "sr", *(["classifier"] if source == GUIDED else []))]
    asked = recipe.load(source, [*untrained, *bindings])
    experiment = Experiment(asked, asked.build(), workdir)
    for stage in experiment.pipeline.stages:
        stage.network = network_of(stage)
    experiment.train(experiment.pipeline.stages)
    return experiment
