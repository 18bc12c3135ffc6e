"""Elementwise work as XLA kernels of one pass over memory each, where a training step asks for them."""

__all__ = ["fused_kernels", "in_one_pass"]

import contextlib
import contextvars
import functools

import tensorflow as tf

from tf_resflow.private_api import silence_retracing

_FUSED = contextvars.ContextVar("tf_resflow_fused_kernels", default=False)


@contextlib.contextmanager
def fused_kernels():
    """What is traced within it computes its elementwise parts as XLA kernels of one pass over memory each.

    These are the activations: more than half of a training step is elementwise traffic without it. The training
    step of this package uses it; a step of your own may, inside its `tf.function`. XLA compiles anew for each
    shape, so it is for steps whose batches have one size, and not for a SavedModel that is to run without XLA.

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


def in_one_pass(f, *args):
    """`f(*args)`, compiled by XLA within `fused_kernels`."""
    fused = _FUSED.get() and not tf.executing_eagerly()
    return (_compiled(f) if fused else f)(*args)


@functools.cache
def _compiled(f):
    return silence_retracing(tf.function(f, jit_compile=True, autograph=False))
