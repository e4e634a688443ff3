"""From bytes to the range of the networks, [-1, 1], mirrored or not, in one pass over the batch."""

import numpy as np
from numba import njit

VALUES = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)  # of every byte


@njit(nogil=True, cache=True)
def to_floats(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] -> float32 in [-1, 1], those images mirrored left and right where `mirrored` [N] is true."""
    count, height, width, channels = images.shape
    floats = np.empty((count, height, width, channels), np.float32)
    for image in range(count):
        for y in range(height):
            row, result = images[image, y].reshape(-1), floats[image, y].reshape(-1)
            if mirrored[image]:
                for x in range(width):
                    for channel in range(channels):
                        result[(width - 1 - x) * channels + channel] = VALUES[row[x * channels + channel]]
            else:
                for j in range(len(row)):
                    result[j] = VALUES[row[j]]
    return floats
