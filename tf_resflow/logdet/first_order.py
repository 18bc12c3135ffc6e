"""A guard around gradients that cannot be differentiated again."""

from collections.abc import Sequence

import tensorflow as tf

from tf_resflow.private_api import custom_gradient

__all__ = ["first_order_only"]


def first_order_only(tensors: Sequence[tf.Tensor], remedy: str) -> list[tf.Tensor]:
    """Equal tensors that raise a ValueError when they are differentiated, which ends with `remedy`.

    For gradients that hold some of what they depend on constant.
    """

    @custom_gradient
    def guard(*values):
        def grad(*_):
            raise ValueError(
                "A second derivative was requested of a gradient that holds its probe vectors constant; it would "
                f"be silently wrong. {remedy}"
            )

        return [tf.identity(value) for value in values], grad

    return list(guard(*tensors))
