"""Finds the Lipschitz layers of a branch, a flow or a distribution, and updates their norms."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.private_api import sublayers
from tf_resflow.layers.attributes import networks_of
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.lipschitz_layer import LipschitzLayer, stacks, update_stack


def lipschitz_layers(obj: Any) -> list[LipschitzLayer]:
    """Returns the distinct `LipschitzLayer`s of an object in order. See `update_norms`."""
    return list({id(layer): layer for layer in _walk(obj)}.values())


def _walk(obj):
    if isinstance(obj, (list, tuple)):
        for item in obj:
            yield from _walk(item)
    elif isinstance(obj, keras.layers.Layer):
        if isinstance(obj, LipschitzLayer):
            yield obj
        yield from _walk(sublayers(obj))
    elif isinstance(obj, tf.Module):
        for module in (obj, *obj.submodules):
            yield from _walk(
                [network for network in networks_of(module) if isinstance(network, keras.layers.Layer)]
            )
    else:
        raise ValueError(f"Got {obj!r}. Expected a Keras layer, a tf.Module, or a list of these.")


@tf.autograph.experimental.do_not_convert
def update_norms(
    obj: Any, tolerance: float | None = None, max_iterations: int | None = None, *, num_fresh: int | None = None
) -> tf.Tensor:
    """Updates the norm of every Lipschitz layer. Call it once after each change of the kernels.

    Each call of a layer checks the stored vectors that this function updates, and searches for the norm of the
    kernel if they no longer fit. Only a training step (`tf_resflow.bijectors.Networks` with `training=True`) uses
    the stored vectors unchecked.

    However a kernel has changed, one update finds the norm 2 -> 2 of an operator with at most 64 inputs or outputs
    to a relative 0.05 %. For larger operators, a singular value that overtakes the largest one by a few percent can
    take several updates, and other orders have local maxima. Before you rely on the constant of such layers, call
    `converge_norms` and check `tf_resflow.layers.lipschitz_constant(branch, certified=True)`.

    With TFP's trainers, use `update_norms` in `trace_fn`:

    ```python
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_resflow as resflow
    exact = resflow.logdet.Exact()
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,), log_det_estimator=exact)
    posterior = tfp.distributions.TransformedDistribution(
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2)), flow)
    target = tfp.distributions.MultivariateNormalDiag([1.0, 2.0])

    def trace_fn(state):
        return state.loss, resflow.layers.update_norms(posterior)

    optimizer = keras.optimizers.Adam(1e-2)
    losses, _ = tfp.vi.fit_surrogate_posterior(
        target.log_prob, posterior, optimizer, num_steps=2, seed=1, trace_fn=trace_fn)
    print(losses.shape)
    # (2,)
    ```

    Args:
      obj: A Keras layer or model; a `tf.Module` that contains bijectors with Keras layers in their attributes,
        such as a flow or a distribution; or a list or tuple of these.
      tolerance: Relative change at which to stop; by default, that of each layer. `converge_norms` uses 1e-5.
      max_iterations: Maximum number of iterations; by default, that of each layer.
      num_fresh: Number of random starts for orders other than 2, in addition to the stored vectors. By default, 8
        to 128, fewer for larger operators. With 0, eager mode searches like a graph, and decomposes no kernels.

    Returns:
      The largest number of iterations of any layer, an int32 scalar.
    """
    groups = stacks(lipschitz_layers(obj))
    counts = [update_stack(group, tolerance, max_iterations, num_fresh) for group in groups]
    return tf.reduce_max(tf.stack([tf.constant(0), *counts]))


def converge_norms(obj: Any) -> None:
    """Updates the norms to rounding precision from many random starts, before evaluation, export or certification.

    Args:
      obj: As for `update_norms`.
    """
    update_norms(obj, tolerance=1e-5, max_iterations=500, num_fresh=256)


def learned_orders(obj: Any) -> list[LearnedOrder]:
    """Returns the distinct `LearnedOrder`s of an object's layers in order. See `update_norms`."""
    orders = [order for layer in lipschitz_layers(obj) for order in layer.learned_orders]
    return list({id(order): order for order in orders}.values())


@tf.autograph.experimental.do_not_convert
def mean_norm(obj: Any) -> tf.Tensor:
    """Returns the objective of the learned orders: the mean norm of the layers that have a learned order.

    It is differentiable only in the orders, so a training step can add it to its loss.

    Args:
      obj: As for `update_norms`.

    Returns:
      A float32 scalar, which is 0 if no layer has a learned order.
    """
    layers = [layer for layer in lipschitz_layers(obj) if layer.learned_orders]
    norms = [tf.cast(layer.order_objective(), tf.float32) for layer in layers]
    return tf.add_n(norms) / len(norms) if norms else tf.constant(0.0)
