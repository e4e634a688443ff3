"""ResNet-50 as the classifiers of ImageNet are built (arXiv:1512.03385, version 1.5): from scratch, for the CAS."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

# Of ImageNet's colours, in units of 255.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
BLOCKS = (3, 4, 6, 3)
BATCH = 128  # images a forward pass on one device, when testing


def build_resnet(size: int, classes: int, seed: int, width: int = 64, blocks: tuple[int, ...] = BLOCKS) -> keras.Model:
    """Images [B, size, size, 3] in 0..255 -> (features [B, 4 width 2^levels], logits [B, classes]).

    Version 1.5: the stride of a block is in its 3x3 convolution. `keras.applications.ResNet50` has it in the first
    1x1 convolution, has biases before the normalisations, an epsilon of 1.001e-5, a momentum of 0.99, and other
    initial weights. Here everything is as in Cloud TPU's public ResNet-50: fixed padding before strides, epsilon
    1e-5, momentum 0.9, the last scale of each block starts at zero.

    Args:
        size: pixels a side.
        seed: of the initial weights.
        width: channels of the stem; 64 in ResNet-50.
        blocks: bottleneck blocks at each resolution.
    """
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))
    image = keras.Input((size, size, 3))
    variance = [(255 * deviation) ** 2 for deviation in DEVIATION]
    x = layers.Normalization(mean=[255 * mean for mean in MEAN], variance=variance)(image)
    x = _relu(_normalise(_convolve(x, width, 7, 2, seeds)))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for level, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if level > 0 and index == 0 else 1
            x = _bottleneck(x, width * 2**level, stride, index == 0, seeds)
    features = layers.GlobalAveragePooling2D()(x)
    initial = keras.initializers.RandomNormal(stddev=0.01, seed=next(seeds))
    return keras.Model(image, (features, layers.Dense(classes, kernel_initializer=initial)(features)))


def _bottleneck(
    x: keras.KerasTensor, width: int, stride: int, projects: bool, seeds: Iterator[int]
) -> keras.KerasTensor:
    """1x1, 3x3 with the stride, 1x1 to four times the width, and the way around them."""
    around = _normalise(_convolve(x, 4 * width, 1, stride, seeds)) if projects else x
    x = _relu(_normalise(_convolve(x, width, 1, 1, seeds)))
    x = _relu(_normalise(_convolve(x, width, 3, stride, seeds)))
    x = _normalise(_convolve(x, 4 * width, 1, 1, seeds), initial="zeros")
    return _relu(layers.Add()([x, around]))


def _convolve(x: keras.KerasTensor, channels: int, kernel: int, stride: int, seeds: Iterator[int]) -> keras.KerasTensor:
    """Without a bias; before a stride the padding depends on the kernel alone, and is the same on both sides."""
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D((kernel - 1) // 2)(x)
    initial = keras.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal", seed=next(seeds))
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(channels, kernel, stride, padding, use_bias=False, kernel_initializer=initial)(x)


def _normalise(x: keras.KerasTensor, initial: str = "ones") -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=initial)(x)


def _relu(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(x)


def forward_flops(network: keras.Model) -> int:
    """Floating-point operations of the convolutions and the last layer for one image; a multiply-add counts as two."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            places = np.prod(layer.output.shape[1:-1], dtype=np.int64)  # 1 for a dense layer
            total += 2 * int(np.prod(layer.kernel.shape)) * int(places)
    return total


def activation_bytes(network: keras.Model) -> int:
    """Bytes of what the convolutions give for one image in float32."""
    convolutions = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
    return sum(4 * int(np.prod(layer.output.shape[1:])) for layer in convolutions)
