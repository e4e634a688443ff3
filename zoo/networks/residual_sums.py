"""How the branch of a residual or attention block joins the image that it was computed from."""

import abc
import math
from typing import Any


class ResidualSum(abc.ABC):
    """Contract of the family: shortcut and branch, of one shape, become the output of a block.

    The plain sum is the absence of one: `UNet.residual_sum = None`.
    """

    @abc.abstractmethod
    def __call__(self, shortcut: Any, branch: Any) -> Any:
        """Both [B, H, W, C] -> [B, H, W, C]."""


class RescaledSum(ResidualSum):
    """(x + h) / sqrt 2, which keeps the variance of two independent terms (Score SDE; SR3; ADM, table 1)."""

    def __call__(self, shortcut: Any, branch: Any) -> Any:
        return (shortcut + branch) * math.sqrt(0.5)
