"""What is done to all the Lipschitz layers of a branch, a flow or a distribution at once."""

__all__ = ["learned_orders", "lipschitz_layers", "mean_norm", "scaled_kernels", "update_norms"]

import contextlib

import keras
import tensorflow as tf

from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.lipschitz_layer import _SCALED, LipschitzLayer


def lipschitz_layers(obj):
    """The distinct `LipschitzLayer`s of an object, in order.

    Args:
        obj: a Keras layer or model, a `tf.Module` whose modules hold Keras layers as `branch` (a
            bijector, a flow, a distribution), or a list or tuple of these.

    Returns:
        A list of layers.

    Raises:
        ValueError: if obj is none of these.
    """
    return list({id(layer): layer for layer in _walk(obj)}.values())


def _walk(obj):
    if isinstance(obj, (list, tuple)):
        for item in obj:
            yield from _walk(item)
    elif isinstance(obj, keras.layers.Layer):
        if isinstance(obj, LipschitzLayer):
            yield obj
        yield from _walk(obj._flatten_layers(include_self=False, recursive=False))
    elif isinstance(obj, tf.Module):
        for module in (obj, *obj.submodules):
            branch = getattr(module, "branch", None)
            if isinstance(branch, keras.layers.Layer):
                yield from _walk(branch)
    else:
        raise ValueError(
            "Expected a Keras layer or model, a tf.Module such as a bijector or a distribution, "
            f"or a list of these, but got {obj!r}."
        )


def update_norms(obj, tolerance=None, max_iterations=None):
    """Calls `update_norm` on every Lipschitz layer: once after each change of the kernels.

    Args:
        obj: as of `lipschitz_layers`.
        tolerance: default each layer's; give a tight one, with a large number of iterations,
            before evaluation and export.
        max_iterations: default each layer's.

    Returns:
        The largest number of iterations that a layer took, an int32 scalar.

    Raises:
        ValueError: if a layer is not built.
    """
    counts = [layer.update_norm(tolerance, max_iterations) for layer in lipschitz_layers(obj)]
    return tf.reduce_max(tf.stack([tf.constant(0), *counts]))


@contextlib.contextmanager
def scaled_kernels(obj):
    """Within it every Lipschitz layer of obj applies a kernel that was scaled once, on entry.

    It serves loops that evaluate a branch many times:

    ```python
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    y = tf.ones([1, 2])
    with resflow.layers.scaled_kernels(branch):
        x, = tf.while_loop(lambda x: True, lambda x: [y - branch(x)], [y], maximum_iterations=20)
    ```

    Gradients in the kernels flow through the scaled ones: open it inside the gradient tape. It
    holds for the present thread, and in the loops and branches of the present graph; a
    `tf.function` called within it scales the kernels itself.

    Args:
        obj: as of `lipschitz_layers`.

    Raises:
        ValueError: if a layer is not built.
    """
    scaled = {id(layer): layer._applied_kernel() for layer in lipschitz_layers(obj)}
    token = _SCALED.set({**(_SCALED.get() or {}), **scaled})
    try:
        yield
    finally:
        _SCALED.reset(token)


def learned_orders(obj):
    """The distinct `LearnedOrder`s of an object's layers, in order.

    Args:
        obj: as of `lipschitz_layers`.

    Returns:
        A list of `LearnedOrder`s.
    """
    orders = [order for layer in lipschitz_layers(obj) for order in (layer.domain, layer.codomain)]
    return list({id(order): order for order in orders if isinstance(order, LearnedOrder)}.values())


def mean_norm(obj):
    """The objective of the learned orders: the mean norm of the layers that have one.

    Differentiable in the orders alone, so that a training step may add it to its loss.

    Args:
        obj: as of `lipschitz_layers`.

    Returns:
        A float32 scalar; 0 if no layer has a learned order.

    References:
        Chen et al., "Residual Flows" (2019), learned mixed norms.
    """
    layers = [layer for layer in lipschitz_layers(obj) if layer.has_learned_order]
    norms = [tf.cast(layer.order_objective(), tf.float32) for layer in layers]
    return tf.add_n(norms) / len(norms) if norms else tf.constant(0.0)
