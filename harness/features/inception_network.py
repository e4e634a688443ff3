"""The Inception-v3 of FID as a Keras network: the graph of December 2015, not the later Inception-v3 of libraries.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", with the habits of that graph: average
pools do not count the padding, the last block's pool is a maximum, epsilon is 0.001, and there are 1,008 classes.
Convolutions and tensors are named as in the graph: 'mixed_6/tower_1/conv_2' and, for its parts, '.../conv2d_params',
'.../batchnorm/beta', 'gamma', 'moving_mean', 'moving_variance'.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers

SIZE = (299, 299)
CLASSES = 1008
SPATIAL_CHANNELS = 7  # of mixed_6/conv, 17 x 17 x 7 = 2,023 numbers: Nash et al. 2021, section 5
EPSILON = 0.001
NORMALISATION = ("beta", "gamma", "moving_mean", "moving_variance")

Kernel = tuple[int, int]
Convolve = Callable[..., keras.KerasTensor]
"""(name, x, filters, kernel, stride=1, padding='same') -> x: convolution, normalisation, rectification."""


def build_network() -> keras.Model:
    """A network without its weights: images float32 [B, 299, 299, 3] in 0..255 -> outputs by name, float32.

    '64', '192', '768' and 'pooled' (2048) are spatial means [B, N] after the first and second maximum pool, the last
    17 x 17 block and the last block; 'logits' [B, 1008] lack the final bias, as ADM's Inception Score takes them;
    'biased_logits' have it; 'spatial' [B, 2023] is for sFID. Normalisations are taken into the convolutions before.
    """

    def convolve(
        name: str, x: keras.KerasTensor, filters: int, kernel: Kernel, stride: int = 1, padding: str = "same"
    ) -> keras.KerasTensor:
        # Weights come from a file: zeros are the cheapest to begin with.
        layer = layers.Conv2D(
            filters, kernel, stride, padding, activation="relu", kernel_initializer="zeros", name=name.replace("/", ".")
        )
        return layer(x)

    image = keras.Input((*SIZE, 3))
    x = layers.Rescaling(1 / 128, -1.0)(image)
    outputs = {}
    outputs["64"], outputs["192"], x = _stem(convolve, x)
    for name, pool_filters in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):
        x = _block35(convolve, name, x, pool_filters)
    x = _reduction17(convolve, "mixed_3", x)
    for name, width in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
        first, x = _block17(convolve, name, x, width)
        if name == "mixed_6":
            outputs["spatial"] = layers.Flatten(name="spatial")(first[..., :SPATIAL_CHANNELS])
    outputs["768"] = layers.GlobalAveragePooling2D()(x)
    x = _reduction8(convolve, "mixed_8", x)
    x = _block8(convolve, "mixed_9", x, layers.AveragePooling2D(3, 1, "same"))
    x = _block8(convolve, "mixed_10", x, layers.MaxPooling2D(3, 1, "same"))
    outputs["pooled"] = layers.GlobalAveragePooling2D(name="pool_3")(x)
    dense = layers.Dense(CLASSES, use_bias=False, kernel_initializer="zeros", name="softmax.weights")
    outputs["logits"] = dense(outputs["pooled"])
    outputs["biased_logits"] = Bias(name="softmax.biases")(outputs["logits"])
    return keras.Model(image, outputs)


def shapes(network: keras.Model) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name in the graph, kernels as [height, width, in, out]."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in network.layers:
        name = layer.name.replace(".", "/")
        if isinstance(layer, layers.Conv2D):
            found[f"{name}/conv2d_params"] = tuple(layer.kernel.shape)
            found |= {f"{name}/batchnorm/{part}": (layer.filters,) for part in NORMALISATION}
        elif isinstance(layer, layers.Dense | Bias):
            found[name] = tuple(layer.variables[0].shape)
    return found


def load(network: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts the tensors of the graph, by name, into a network."""
    for layer in network.layers:
        name = layer.name.replace(".", "/")
        if isinstance(layer, layers.Conv2D):
            layer.set_weights(_folded(name, tensors))
        elif isinstance(layer, layers.Dense | Bias):
            layer.set_weights([tensors[name]])


def _folded(name: str, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Kernel [h, w, in, out] and bias [out] of a convolution that has taken in the normalisation after it.

    Folded in float64: what remains is the rounding of the result to float32.
    """
    kernel = tensors[f"{name}/conv2d_params"].astype(np.float64)
    beta, gamma, mean, variance = (tensors[f"{name}/batchnorm/{part}"].astype(np.float64) for part in NORMALISATION)
    scale = gamma / np.sqrt(variance + EPSILON)
    return [(kernel * scale).astype(np.float32), (beta - mean * scale).astype(np.float32)]


class Bias(layers.Layer):
    """Adds a vector [C] to [B, C]."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.bias


def _stem(convolve: Convolve, x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """[B, 299, 299, 3] -> the means of 64 and 192 channels, and [B, 35, 35, 192]."""
    x = convolve("conv", x, 32, (3, 3), 2, "valid")
    x = convolve("conv_1", x, 32, (3, 3), 1, "valid")
    x = layers.MaxPooling2D(3, 2)(convolve("conv_2", x, 64, (3, 3)))
    first = layers.GlobalAveragePooling2D()(x)
    x = convolve("conv_3", x, 80, (1, 1))
    x = layers.MaxPooling2D(3, 2)(convolve("conv_4", x, 192, (3, 3), 1, "valid"))
    return first, layers.GlobalAveragePooling2D()(x), x


def _block35(convolve: Convolve, name: str, x: keras.KerasTensor, pool_filters: int) -> keras.KerasTensor:
    """[B, 35, 35, C] -> [B, 35, 35, 224 + pool_filters]: branches of 1x1, 5x5, two 3x3 and a pool."""
    y = convolve(f"{name}/tower/conv", x, 48, (1, 1))
    z = convolve(f"{name}/tower_1/conv", x, 64, (1, 1))
    z = convolve(f"{name}/tower_1/conv_1", z, 96, (3, 3))
    branches = [
        convolve(f"{name}/conv", x, 64, (1, 1)),
        convolve(f"{name}/tower/conv_1", y, 64, (5, 5)),
        convolve(f"{name}/tower_1/conv_2", z, 96, (3, 3)),
        convolve(f"{name}/tower_2/conv", layers.AveragePooling2D(3, 1, "same")(x), pool_filters, (1, 1)),
    ]
    return layers.Concatenate()(branches)


def _reduction17(convolve: Convolve, name: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """[B, 35, 35, 288] -> [B, 17, 17, 768]."""
    y = convolve(f"{name}/tower/conv_1", convolve(f"{name}/tower/conv", x, 64, (1, 1)), 96, (3, 3))
    branches = [
        convolve(f"{name}/conv", x, 384, (3, 3), 2, "valid"),
        convolve(f"{name}/tower/conv_2", y, 96, (3, 3), 2, "valid"),
        layers.MaxPooling2D(3, 2)(x),
    ]
    return layers.Concatenate()(branches)


def _block17(
    convolve: Convolve, name: str, x: keras.KerasTensor, width: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """[B, 17, 17, 768] -> its 1x1 branch [B, 17, 17, 192], and [B, 17, 17, 768]; the others have 1x7 and 7x1 pairs."""
    first = convolve(f"{name}/conv", x, 192, (1, 1))
    y = convolve(f"{name}/tower/conv", x, width, (1, 1))
    y = convolve(f"{name}/tower/conv_1", y, width, (1, 7))
    z = convolve(f"{name}/tower_1/conv", x, width, (1, 1))
    z = convolve(f"{name}/tower_1/conv_1", z, width, (7, 1))
    z = convolve(f"{name}/tower_1/conv_2", z, width, (1, 7))
    z = convolve(f"{name}/tower_1/conv_3", z, width, (7, 1))
    branches = [
        first,
        convolve(f"{name}/tower/conv_2", y, 192, (7, 1)),
        convolve(f"{name}/tower_1/conv_4", z, 192, (1, 7)),
        convolve(f"{name}/tower_2/conv", layers.AveragePooling2D(3, 1, "same")(x), 192, (1, 1)),
    ]
    return first, layers.Concatenate()(branches)


def _reduction8(convolve: Convolve, name: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """[B, 17, 17, 768] -> [B, 8, 8, 1280]."""
    y = convolve(f"{name}/tower/conv", x, 192, (1, 1))
    z = convolve(f"{name}/tower_1/conv", x, 192, (1, 1))
    z = convolve(f"{name}/tower_1/conv_1", z, 192, (1, 7))
    z = convolve(f"{name}/tower_1/conv_2", z, 192, (7, 1))
    branches = [
        convolve(f"{name}/tower/conv_1", y, 320, (3, 3), 2, "valid"),
        convolve(f"{name}/tower_1/conv_3", z, 192, (3, 3), 2, "valid"),
        layers.MaxPooling2D(3, 2)(x),
    ]
    return layers.Concatenate()(branches)


def _block8(convolve: Convolve, name: str, x: keras.KerasTensor, pool: layers.Layer) -> keras.KerasTensor:
    """[B, 8, 8, C] -> [B, 8, 8, 2048]: the two towers fork into a 1x3 and a 3x1 convolution."""
    y = convolve(f"{name}/tower/conv", x, 384, (1, 1))
    z = convolve(f"{name}/tower_1/conv", x, 448, (1, 1))
    z = convolve(f"{name}/tower_1/conv_1", z, 384, (3, 3))
    branches = [
        convolve(f"{name}/conv", x, 320, (1, 1)),
        convolve(f"{name}/tower/mixed/conv", y, 384, (1, 3)),
        convolve(f"{name}/tower/mixed/conv_1", y, 384, (3, 1)),
        convolve(f"{name}/tower_1/mixed/conv", z, 384, (1, 3)),
        convolve(f"{name}/tower_1/mixed/conv_1", z, 384, (3, 1)),
        convolve(f"{name}/tower_2/conv", pool(x), 192, (1, 1)),
    ]
    return layers.Concatenate()(branches)
