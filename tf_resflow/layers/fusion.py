"""Elementwise computations as XLA kernels that pass over memory once, in the training steps that ask for them."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf

from tf_resflow.private_api import silence_retracing

__all__ = ["fused_kernels", "in_one_pass", "in_wide", "is_fused", "wide_dtype"]

_FUSED = contextvars.ContextVar("tf_resflow_fused_kernels", default=False)


@contextlib.contextmanager
def fused_kernels() -> Iterator[None]:
    """A context in which activations are traced as XLA kernels that pass over memory once.

    Without it, more than half of the time of a training step is elementwise traffic. `FlowModel` trains in it; your
    own training step may, too, inside its `tf.function`. XLA compiles again for each shape: use it for steps whose
    batches have one size, and not for a SavedModel that must run without XLA.

    ```python
    @tf.function
    def loss(x):
        with resflow.layers.fused_kernels():
            return tf.reduce_sum(branch(x) ** 2)

    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipSwish()])
    print(loss(tf.zeros([8, 2])).numpy())
    # 0.0
    ```
    """
    token = _FUSED.set(True)
    try:
        yield
    finally:
        _FUSED.reset(token)


def in_one_pass(f: Callable, *args: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, ...]:
    """`f(*args)`, compiled by XLA within `fused_kernels`."""
    return (_compiled(f) if is_fused() else f)(*args)


def is_fused() -> bool:
    """Whether `in_one_pass` compiles: in a graph, within `fused_kernels`."""
    return _FUSED.get() and not tf.executing_eagerly()


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
