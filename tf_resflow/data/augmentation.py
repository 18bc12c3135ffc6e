"""Random changes of training images, as pure functions of a seed."""

__all__ = ["random_crop", "random_flip"]

import tensorflow as tf

from tf_resflow.data.shares import part


def random_crop(images: tf.Tensor, padding: int, seed: tf.Tensor, share: tuple[int, int] = (0, 1)) -> tf.Tensor:
    """Pads images on all sides, by reflection, and cuts each to its size at a uniform position.

    Args:
      images: `[rows, height, width, channels]`, of static shape.
      padding: pixels, below height and width: shifts of -padding, ..., padding are equally likely.
      seed: integer tensor of shape `[2]`.
      share: the part `(index, num)` of a batch that the images are. Each is changed as in the whole batch.
    """
    shape = [2, share[1] * images.shape[0], 1]
    shifts = tf.random.stateless_uniform(shape, seed, -padding, padding + 1, dtype=tf.int32)
    for axis, shift in zip((1, 2), tf.unstack(shifts), strict=True):
        last = images.shape[axis] - 1
        index = tf.range(last + 1) + part(shift, share)
        reflected = last - tf.abs(last - tf.abs(index))
        images = tf.gather(images, reflected, axis=axis, batch_dims=1)
    return images


def random_flip(images: tf.Tensor, seed: tf.Tensor, share: tuple[int, int] = (0, 1)) -> tf.Tensor:
    """Mirrors each image left to right with probability 1/2; the arguments are those of `random_crop`."""
    mirror = tf.random.stateless_uniform([share[1] * images.shape[0], 1, 1, 1], seed) < 0.5
    return tf.where(part(mirror, share), images[:, :, ::-1], images)
