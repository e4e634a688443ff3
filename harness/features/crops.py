"""The crops of ImageNet classifiers: a random one for training, the middle for testing (arXiv:1512.03385, TPU code)."""

import tensorflow as tf

MIDDLE = 224 / 256  # of the shorter side, when testing


def random_crop(image: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """A random part of an image [H, W, C], enlarged or reduced to `size`, mirrored half of the time: float32 in 0..255.

    The part has 8 to 100 % of the area and an aspect ratio of 3/4 to 4/3; where ten draws fit none, it is the middle.

    Args:
        seed: int [2]; all that is random depends on it alone.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seeds[0],
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
    )
    whole, part = tf.reduce_all(extent[:2] == tf.shape(image)[:2]), tf.slice(image, begin, extent)
    cropped = tf.cond(whole, lambda: middle_crop(image[None], size), lambda: _resized(part[None], size))[0]
    mirrored = tf.random.stateless_uniform([], seeds[1]) < 0.5
    return tf.where(mirrored, cropped[:, ::-1], cropped)


def middle_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle square of images [B, H, W, C], 7/8 of the shorter side, at `size`: float32 in 0..255."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    side = tf.cast(MIDDLE * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return _resized(images[:, top : top + side, left : left + side], size)


def _resized(images: tf.Tensor, size: int) -> tf.Tensor:
    """Bicubic as TensorFlow 1 has it, which the published numbers were made with."""
    resized = tf.compat.v1.image.resize_bicubic(tf.cast(images, tf.float32), [size, size])
    return tf.ensure_shape(resized, [None, size, size, 3])
