"""Figures of the networks and the method that any backend computes alike: functions of NumPy arrays. See test_jax.py.

As a program (python both_backends.py FILE) it computes them on the backend of KERAS_BACKEND=jax, without TensorFlow.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml
from keras import ops

from zoo.diffusion import bound
from zoo.diffusion.conditioning import GaussianBlur, GaussianNoise
from zoo.diffusion.distillation import GuidanceDistillation, ProgressiveDistillation
from zoo.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from zoo.diffusion.logsnr_process import LogSNRProcess
from zoo.diffusion.logsnr_schedules import CosineLogSNRSchedule, InterpolatedSchedule
from zoo.diffusion.losses import HybridLoss, MultiscaleLoss
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import ContinuousNoiseProcess, DiscreteProcess
from zoo.diffusion.samplers import AncestralSampler
from zoo.diffusion.schedules import CosineSchedule
from zoo.diffusion.targets import NoiseTarget, VelocityTarget
from zoo.diffusion.variances import LearnedRangeVariance
from zoo.diffusion.weightings import TargetWeighting
from zoo.networks import attention, layers
from zoo.networks.embeddings import LogSNREmbedding, StepEmbedding
from zoo.networks.patching import ConvolutionPatching, WaveletPatching
from zoo.networks.shifted_embedding import ShiftedLogSNREmbedding
from zoo.networks.simple_unet import DropoutFromResolution, SimpleDiffusionUNet
from zoo.networks.transformer import TextInput, Transformer
from zoo.networks.unet import LowResolutionInput, UNet
from zoo.networks.uvit import UViT

ROOT = Path(__file__).resolve().parent.parent
BATCH, SIZE, STEPS = 2, 8, 40
Figures = dict[str, np.ndarray]
# (network, loss of the network's output) -> loss and its gradients in the trainable variables
Differentiate = Callable[[keras.Model, Callable[[Any], Any]], tuple[Any, list[Any]]]


def family(name: str) -> list[type]:
    """The classes of a family of registry.yaml; `Component.load` would import TensorFlow."""
    entries = yaml.safe_load((ROOT / "registry.yaml").read_text())["components"].values()
    targets = [entry["target"].rpartition(".") for entry in entries if entry["family"] == name]
    return [getattr(importlib.import_module(module), cls) for module, _, cls in targets]


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


IMAGES, NOISE = np.tanh(normal(BATCH, SIZE, SIZE, 3, seed=1)), normal(BATCH, SIZE, SIZE, 3, seed=2)
LOW = np.tanh(normal(BATCH, SIZE // 2, SIZE // 2, 3, seed=3))
RANDOM = {"noise": NOISE, "level": np.array([[0.1, 0.3], [0.6, 0.9]], "float32")}


def stub(inputs: dict[str, Any]) -> Any:
    """A network without weights, with enough outputs for a learned variance."""
    return ops.concatenate([ops.sin(2 * inputs["image"]), ops.cos(inputs["image"])], axis=-1)


def objective(**parts: Any) -> Objective:
    process = DiscreteProcess(parts.pop("schedule", CosineSchedule()), STEPS)
    given = {"target": VelocityTarget(), "variance": LearnedRangeVariance(), "loss": HybridLoss()} | parts
    return Objective(given.pop("process", process), **given)


def cut(output: Any, one: Objective) -> Any:
    return output[..., : 3 * one.variance.outputs]


def method() -> Figures:
    """The loss with every listed part, and a walk with every sampler."""
    found = {}
    objectives = {
        f"{kind}={cls.__name__}": objective(**{kind: cls(base=4) if cls is MultiscaleLoss else cls()})
        for kind in ("schedule", "target", "variance", "loss")
        for cls in family(f"{kind}s")
    }
    continuous = LogSNRProcess(InterpolatedSchedule(CosineLogSNRSchedule(), 64, 32, 64), STEPS)
    objectives["process"] = objective(process=ContinuousNoiseProcess(CosineSchedule(), STEPS))
    objectives["continuous time"] = objective(process=continuous)
    objectives |= {
        f"weighting={cls.__name__}": objective(
            process=continuous, weighting=cls(NoiseTarget()) if cls is TargetWeighting else cls()
        )
        for cls in family("weightings")
    }
    for name, one in objectives.items():
        found[f"loss {name}"] = one.training_loss(lambda inputs, one=one: cut(stub(inputs), one), IMAGES, {}, RANDOM)
    for cls in family("samplers"):
        sampler, one = cls(steps=5), objective()
        process, z = sampler.plan(one.process), ops.convert_to_tensor(NOISE)
        memory = sampler.start(z)
        for step in reversed(range(process.steps)):
            index = np.full(BATCH, step, "int32")
            prediction = one.predict(stub({"image": z}), z, process.level(index), process, None)
            z, memory = sampler.advance(prediction, z, index, normal(*z.shape, seed=step), process, memory)
        found[f"walk {cls.__name__}"] = z
    return found | readings() | guided() | distilled()


def guided() -> Figures:
    """An answer without a classifier, in one pass and in two; steps that a classifier pulls, by its gradient."""
    z, index = ops.convert_to_tensor(NOISE), np.array([3, 20], "int32")
    given = {"image": z, "label": np.array([1, 3], "int32")}

    def network(inputs: dict[str, Any]) -> Any:
        return stub(inputs) * ops.reshape(ops.cast(inputs["label"], "float32"), (-1, 1, 1, 1))

    def classifier(inputs: dict[str, Any]) -> Any:
        return ops.mean(ops.sin(3 * stub(inputs)), axis=(1, 2))

    found = {f"guided, {passes}": ClassifierFreeGuidance(3.0, passes).answer(network, given) for passes in (1, 2)}
    pull = ClassifierGuidance(2.0).pull(classifier, given, given["label"], gradient)
    one = objective()
    prediction = one.predict(stub(given), z, one.process.level(index), one.process, None)
    for cls in family("samplers"):
        shifted = cls().shift(prediction, pull, z, index, one.process)
        found[f"shifted {cls.__name__}"] = ops.stack([shifted.x, shifted.mean])
    return found


def distilled() -> Figures:
    """The loss of a student, by every distillation."""
    one = objective(process=LogSNRProcess(CosineLogSNRSchedule(), STEPS))
    label = np.array([1, 3], "int32")

    def teacher(inputs: dict[str, Any]) -> Any:
        told = ops.reshape(ops.cast(inputs["label"], "float32"), (-1, 1, 1, 1))
        return (2 + told) * stub(inputs)

    made = [GuidanceDistillation(ClassifierFreeGuidance(3.0)), ProgressiveDistillation(4)]
    assert {type(each) for each in made} == set(family("distillations"))
    return {
        f"loss {type(each).__name__}": each.training_loss(stub, teacher, one, IMAGES, {"label": label}, RANDOM)
        for each in made
    }


def gradient(function: Any, x: Any) -> Any:
    """The gradient of a number in x."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(x)
    from zoo.training.gradients import input_gradient

    return input_gradient(function, x)


def readings() -> Figures:
    """An output read at several temperatures and as a term of the bound; steps chosen by their losses."""
    one, z, index = objective(), ops.convert_to_tensor(NOISE), np.array([3, 20], "int32")
    level, output = one.process.level(index), stub({"image": NOISE})
    found = {}
    for cls in family("temperatures"):
        sampler = AncestralSampler(temperature=cls(0.9))
        found[f"read {cls.__name__}"] = sampler.predict(one, output, z, level, one.process).mean
        found[f"noise {cls.__name__}"] = sampler.scaled(z)
    for name, term in bound.terms(one, output, IMAGES, NOISE, level, one.process)._asdict().items():
        found[f"term {name}"] = term
    for cls in family("level samplers"):
        sampler, losses = cls(), normal(16 * STEPS, seed=5) ** 2
        state = sampler.learn(sampler.start(STEPS), np.arange(16 * STEPS, dtype="int32") % STEPS, losses)
        found[f"probabilities {cls.__name__}"] = sampler.probabilities(state)
        found |= {f"chosen {cls.__name__} {i}": v for i, v in enumerate(sampler.choose(state, RANDOM["level"]))}
    found |= {f"clipped {cls.__name__}": cls()(2 * ops.convert_to_tensor(NOISE)) for cls in family("clippings")}
    return found


def conditioning() -> Figures:
    """Augmented and enlarged low-resolution images."""
    draws = {"augmentation_noise": normal(*LOW.shape, seed=4), "augmentation_level": RANDOM["level"]}
    noise = GaussianNoise(DiscreteProcess(CosineSchedule(), STEPS), s=5)
    found = {f"noise {name}": value for name, value in noise.augment(LOW, draws).items()}
    found["blur"] = GaussianBlur(0.4, 0.6, probability=1.0).augment(LOW, draws)["low_resolution"]
    found |= {f"enlarged {cls.__name__}": cls()(LOW, (SIZE, SIZE)) for cls in family("enlargings")}
    return found | {f"rounded {cls.__name__}": cls()(LOW) for cls in family("roundings")}


def network(**changes: Any) -> keras.Model:
    """A small network with every kind of input; its weights are drawn by NumPy."""
    parts: dict[str, Any] = {
        "channels": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "out_channels": 6,
        "time": StepEmbedding(),
        "modulation": family("modulations")[0](),
        "resampling": family("resamplings")[0](),
        "attention": attention.SelfAttention((4,), attention.HeadCount(2), attention.HeadsLast()),
        "normalisation": layers.GroupNormalisation(groups=8),
        "low_resolution": LowResolutionInput(family("enlargings")[0](), StepEmbedding()),
        "classes": 4,
    }
    made = UNet(**(parts | changes))
    draw(made, inputs(made))
    return made


def draw(made: keras.Model, given: dict[str, np.ndarray]) -> None:
    """Makes a network's weights, and draws them by NumPy."""
    made({name: keras.KerasTensor(value.shape, str(value.dtype)) for name, value in given.items()})
    for index, variable in enumerate(made.trainable_variables):
        variable.assign(float(variable.name == "gamma") + 0.1 * normal(*variable.shape, seed=index))


def inputs(made: UNet) -> dict[str, np.ndarray]:
    return {
        "image": NOISE,
        made.time.source: np.array([3, 30] if made.time.source == "time" else [2.5, -7], "float32"),
        "label": np.array([0, 3], "int32"),
        "low_resolution": LOW,
        "low_resolution_time": np.array([0, 5], "float32"),
    }


def networks(differentiate: Differentiate) -> Figures:
    """Outputs with every member of the slots; the training loss and gradients of one network."""
    slots = {"modulation": "modulations", "resampling": "resamplings", "order": "attention orders"}
    members = {slot: family(name) for slot, name in slots.items()}
    found = {}
    for number in range(max(map(len, members.values()))):  # as many networks as the largest family has members
        parts = {slot: classes[number % len(classes)]() for slot, classes in members.items()}
        order = parts.pop("order")
        time = LogSNREmbedding() if number == 0 else StepEmbedding()
        made = network(attention=attention.SelfAttention((4,), attention.HeadChannels(16), order), time=time, **parts)
        found[f"network {number}"] = made(inputs(made))
    made = network()
    conditions = {name: value for name, value in inputs(made).items() if name not in ("image", "time")}

    def loss(call: Any) -> Any:
        return ops.mean(objective().training_loss(call, IMAGES, conditions, RANDOM))

    value, gradients = differentiate(made, loss)
    found["training loss"] = value
    return found | {f"gradient {index}": gradient for index, gradient in enumerate(gradients)}


def simple_diffusion(differentiate: Differentiate) -> Figures:
    """A loss of the output, and its gradients, of the U-ViT and the U-Net of simple diffusion."""
    parts: dict[str, Any] = {
        "channels": 32,
        "multipliers": (1, 2),
        "out_channels": 3,
        "embedding_channels": 32,
        "time": ShiftedLogSNREmbedding(image_d=SIZE, noise_d=4),
        "normalisation": layers.GroupNormalisation(groups=8),
        "classes": 4,
    }
    heads = attention.HeadCount(2)
    text = np.pad(normal(BATCH, 3, 6, seed=5), ((0, 0), (0, 2), (0, 0)))  # and two tokens that are not there
    uvit = UViT(
        blocks=(1,),
        transformer=Transformer(1, heads, dropout=0.2),
        text=TextInput(6),
        patching=WaveletPatching(),
        **parts,
    )
    unet = SimpleDiffusionUNet(
        blocks=(1, 1), heads=heads, attention_resolutions=(2,), patching=ConvolutionPatching(2),
        dropout=DropoutFromResolution(0.1, 2), **parts,
    )  # fmt: skip
    # beside the lower end, where the arguments of the sinusoids are small enough for float32
    label, logsnr = np.array([-1, 3], "int32"), np.array([-16.2, -15], "float32")
    found = {}
    for name, made in {"uvit": uvit, "simple unet": unet}.items():
        given = {"image": NOISE, "logsnr": logsnr, "label": label, "text": text}
        draw(made, given)

        def loss(call: Any, given: dict[str, Any] = given) -> Any:
            return ops.mean(ops.square(call(given)))

        found[name], gradients = differentiate(made, loss)
        found |= {f"gradient {name} {index}": gradient for index, gradient in enumerate(gradients)}
    return found


def half() -> Figures:
    """A network that computes in bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = network()
        return {"bfloat16": ops.cast(made(inputs(made)), "float32")}
    finally:
        keras.config.set_dtype_policy("float32")


def figures(differentiate: Differentiate) -> Figures:
    found = {**method(), **conditioning(), **networks(differentiate), **simple_diffusion(differentiate), **half()}
    return {name: ops.convert_to_numpy(value) for name, value in found.items()}


def differentiate_on_jax(made: keras.Model, loss: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
    import jax

    def of_weights(weights: list[Any]) -> Any:
        return loss(lambda given: made.stateless_call(weights, [], given)[0])

    # compiled as a whole: operation by operation each of them would be compiled for itself
    return jax.jit(jax.value_and_grad(of_weights))([variable.value for variable in made.trainable_variables])


if __name__ == "__main__":
    assert keras.backend.backend() == "jax"
    np.savez(sys.argv[1], **figures(differentiate_on_jax))
    assert "tensorflow" not in sys.modules
