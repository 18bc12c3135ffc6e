"""Elementwise computations as XLA kernels that pass over memory once, in the training steps that ask for them.

Without them, more than half of the time of a training step is elementwise traffic. XLA compiles again for each
shape.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import silence_retracing

__all__ = ["in_one_pass", "in_wide", "wide_dtype"]


def in_one_pass(f: Callable, *args: tf.Tensor, fused: bool) -> Any:
    """`f(*args)`, in a graph compiled by XLA if it is to be fused."""
    return (_compiled(f) if fused and not tf.executing_eagerly() else f)(*args)


@functools.cache
def _compiled(f):
    return silence_retracing(tf.function(f, jit_compile=True, autograph=False))


def wide_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which values of `dtype` are computed: float32 at least."""
    return dtype if dtype.size > 4 else tf.float32


def in_wide(f: Callable) -> Callable:
    """`f` computed in float32 at least, with results in the dtype of its first argument.

    bfloat16 halves the memory that is passed over. Its arithmetic is that of float32 anyway, with a rounding after
    each operation, which takes longer.
    """

    @functools.wraps(f)
    def wide(x, *args):
        results = f(*(tf.cast(arg, wide_dtype(x.dtype)) for arg in (x, *args)))
        return tf.nest.map_structure(lambda result: tf.cast(result, x.dtype), results)

    return wide
