"""The forward map of a flow without its log-determinant."""

import functools

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import Flow, route
from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["transform"]


def transform(bijector, x, visit=None, **kwargs):
    """`bijector.forward(x)`, for which no residual block evaluates the series of its log-determinant.

    Args:
      bijector: `Flow`, `MultiscaleFlow`, `tfb.Chain`, or one bijector, mapping data to latent.
      x: `[batch, *event]`.
      visit: function of a member and its input, called before the member is applied; members of members alone.
      **kwargs: `seed` and `conditional_input`, for members that take them.

    Returns:
      The latent.
    """
    if isinstance(bijector, MultiscaleFlow):
        return bijector.walk(functools.partial(transform, visit=visit), x, **kwargs)[0]
    if isinstance(bijector, tfp.bijectors.Composition):
        members = bijector.bijectors
        for member in members if isinstance(bijector, Flow) else reversed(members):
            x = transform(member, x, visit, **kwargs)
        return x
    if visit is not None:
        visit(bijector, x)
    if isinstance(bijector, ResidualBlock):
        return bijector.transform(x, **route(bijector, kwargs))
    return bijector.forward(tf.identity(x), **route(bijector, kwargs))
