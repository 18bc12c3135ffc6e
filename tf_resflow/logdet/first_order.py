"""A guard around gradients that cannot be differentiated again."""

import tensorflow as tf

__all__ = ["first_order_only"]


def first_order_only(tensors, remedy):
    """Passes `tensors` through; differentiating them raises.

    Args:
      tensors: a list of tensors.
      remedy: `str`, the end of the message: what to use instead.

    Returns:
      A list of tensors equal to `tensors`.

    Raises:
      ValueError: when the result is differentiated (while tracing, in a `tf.function`).
    """

    @tf.custom_gradient
    def guard(*values):
        def grad(*_):
            raise ValueError(
                "A second derivative was asked of a gradient that holds its probe vectors constant; it "
                f"would be silently wrong. {remedy}"
            )

        return [tf.identity(value) for value in values], grad

    return list(guard(*tensors))
