"""How the tensors of the Inception network are called: in the graph of 2015, and in PyTorch copies of it."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.features.inception_network import NORMALISATION

STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
BLOCK35 = {
    "conv": "branch1x1",
    "tower/conv": "branch5x5_1",
    "tower/conv_1": "branch5x5_2",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/conv_2": "branch3x3dbl_3",
    "tower_2/conv": "branch_pool",
}
REDUCTION17 = {
    "conv": "branch3x3",
    "tower/conv": "branch3x3dbl_1",
    "tower/conv_1": "branch3x3dbl_2",
    "tower/conv_2": "branch3x3dbl_3",
}
BLOCK17 = {
    "conv": "branch1x1",
    "tower/conv": "branch7x7_1",
    "tower/conv_1": "branch7x7_2",
    "tower/conv_2": "branch7x7_3",
    "tower_1/conv": "branch7x7dbl_1",
    "tower_1/conv_1": "branch7x7dbl_2",
    "tower_1/conv_2": "branch7x7dbl_3",
    "tower_1/conv_3": "branch7x7dbl_4",
    "tower_1/conv_4": "branch7x7dbl_5",
    "tower_2/conv": "branch_pool",
}
REDUCTION8 = {
    "tower/conv": "branch3x3_1",
    "tower/conv_1": "branch3x3_2",
    "tower_1/conv": "branch7x7x3_1",
    "tower_1/conv_1": "branch7x7x3_2",
    "tower_1/conv_2": "branch7x7x3_3",
    "tower_1/conv_3": "branch7x7x3_4",
}
BLOCK8 = {
    "conv": "branch1x1",
    "tower/conv": "branch3x3_1",
    "tower/mixed/conv": "branch3x3_2a",
    "tower/mixed/conv_1": "branch3x3_2b",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/mixed/conv": "branch3x3dbl_3a",
    "tower_1/mixed/conv_1": "branch3x3dbl_3b",
    "tower_2/conv": "branch_pool",
}
BLOCKS = {
    "mixed": ("Mixed_5b", BLOCK35),
    "mixed_1": ("Mixed_5c", BLOCK35),
    "mixed_2": ("Mixed_5d", BLOCK35),
    "mixed_3": ("Mixed_6a", REDUCTION17),
    "mixed_4": ("Mixed_6b", BLOCK17),
    "mixed_5": ("Mixed_6c", BLOCK17),
    "mixed_6": ("Mixed_6d", BLOCK17),
    "mixed_7": ("Mixed_6e", BLOCK17),
    "mixed_8": ("Mixed_7a", REDUCTION8),
    "mixed_9": ("Mixed_7b", BLOCK8),
    "mixed_10": ("Mixed_7c", BLOCK8),
}
TORCH_NORMALISATION = dict(zip(NORMALISATION, ("bias", "weight", "running_mean", "running_var"), strict=True))


class Name(NamedTuple):
    """One tensor: its name in the graph and in the PyTorch copies, and how the axes of the latter are to be ordered."""

    graph: str
    torch: str
    axes: tuple[int, ...]


def convolutions() -> Iterator[tuple[str, str]]:
    """Every convolution: its name in the graph and in the PyTorch copies."""
    yield from STEM.items()
    for block, (torch_block, parts) in BLOCKS.items():
        for part, torch_part in parts.items():
            yield f"{block}/{part}", f"{torch_block}.{torch_part}"


def names() -> Iterator[Name]:
    """Every tensor, in the order in which their hash is taken."""
    for graph, torch in convolutions():
        yield Name(f"{graph}/conv2d_params", f"{torch}.conv.weight", (2, 3, 1, 0))
        for part, torch_part in TORCH_NORMALISATION.items():
            yield Name(f"{graph}/batchnorm/{part}", f"{torch}.bn.{torch_part}", (0,))
    yield Name("softmax/weights", "fc.weight", (1, 0))
    yield Name("softmax/biases", "fc.bias", (0,))
