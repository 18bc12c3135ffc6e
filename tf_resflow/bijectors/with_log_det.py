"""The same flow under another estimator of the log-determinant."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["with_log_det"]


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
    return _view(flow, log_det)


def _view(part, log_det):
    if isinstance(part, ResidualBlock):
        return part.copy(log_det=log_det)
    if isinstance(part, (tfp.bijectors.Bijector, tfp.distributions.Distribution)):
        changes = {}
        for key, value in part.parameters.items():
            changed = _view_nest(value, log_det)
            if changed is not value:
                changes[key] = changed
        # Not part.copy: a distribution's copy keeps the original, blocks and all, among its submodules.
        return type(part)(**{**part.parameters, **changes}) if changes else part
    return part


def _view_nest(value, log_det):
    """`value` with the parts of a nest of it replaced; the same object where nothing changes."""
    parts = tf.nest.flatten(value)
    views = [_view(part, log_det) for part in parts]
    if all(view is part for view, part in zip(views, parts, strict=True)):
        return value
    return tf.nest.pack_sequence_as(value, views)
