"""The same flow under another estimator of the log-determinant, or another solver of the inverse."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["with_arguments", "with_inverse_solver", "with_log_det"]


def with_log_det(flow, log_det):
    """Rebuilds a bijector or distribution with every `ResidualBlock` under another estimator.

    Variables are shared: this is a view, say for evaluation while training goes on.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    block = resflow.bijectors.ResidualBlock(branch)
    exact = resflow.bijectors.with_log_det(block, resflow.logdet.Exact())
    print(exact.branch is block.branch, type(exact.log_det).__name__)
    # True Exact
    ```

    Args:
      flow: a bijector or distribution, with blocks at any depth.
      log_det: a `tf_resflow.logdet` estimator.

    Returns:
      An object of the same type. Parts without blocks are the same objects, since their log-determinants are
      exact; so is all of a flow of couplings.
    """
    return with_arguments(flow, lambda block: {"log_det": log_det})


def with_inverse_solver(flow, inverse_solver):
    """Rebuilds a bijector or distribution with every `ResidualBlock` under another solver of the inverse.

    Variables are shared, as in `with_log_det`.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    loose = resflow.bijectors.with_inverse_solver(flow, resflow.solvers.FixedPoint(atol=1e-2))
    print(loose.forward([[0.1, 0.2]]).shape)
    # (1, 2)
    ```

    Args:
      flow: a bijector or distribution, at any depth of which there are blocks.
      inverse_solver: `tf_resflow.solvers.Anderson` or `FixedPoint`, or a callable like them.

    Returns:
      An object of the same type. Parts without blocks are the same objects.
    """
    return with_arguments(flow, lambda block: {"inverse_solver": inverse_solver})


def with_arguments(part, arguments):
    """A view of a bijector or distribution, in which a block has the arguments `arguments(block)`, a dict."""
    if isinstance(part, ResidualBlock):
        return part.copy(**arguments(part))
    if isinstance(part, (tfp.bijectors.Bijector, tfp.distributions.Distribution)):
        changes = {}
        for key, value in part.parameters.items():
            changed = _view_nest(value, arguments)
            if changed is not value:
                changes[key] = changed
        # Not part.copy: a distribution's copy keeps the original, blocks and all, among its submodules.
        return type(part)(**{**part.parameters, **changes}) if changes else part
    return part


def _view_nest(value, arguments):
    """`value` with the parts of a nest of it replaced; the same object where nothing changes."""
    parts = tf.nest.flatten(value)
    views = [with_arguments(part, arguments) for part in parts]
    if all(view is part for view, part in zip(views, parts, strict=True)):
        return value
    return tf.nest.pack_sequence_as(value, views)
