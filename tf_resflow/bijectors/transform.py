"""A map of a flow without its log-determinant, member by member."""

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.bijectors.invert import _Invert  # what tfb.Invert of our bijectors is

from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["transform"]


def transform(bijector, x, visit=None, inverse=False, **kwargs):
    """`bijector.forward(x)`, for which no residual block evaluates the series of its log-determinant.

    Args:
      bijector: a bijector, mapping data to latent: `Flow`, `MultiscaleFlow`, `tfb.Chain`, `tfb.JointMap`,
        `tfb.Invert` of one of them, or one member.
      x: `[batch, *event]`.
      visit: function of a member, its input, and whether it is inverted, called before the member is applied; for
        members of members alone.
      inverse: whether to apply `bijector.inverse` instead.
      **kwargs: as for `bijector.forward`.

    Returns:
      The latent.
    """
    if isinstance(bijector, _Invert):
        return transform(bijector.bijector, x, visit, not inverse, **kwargs)
    if isinstance(bijector, (tfp.bijectors.Composition, MultiscaleFlow)):

        def step(member, x, **arguments):
            return transform(member, x, visit, inverse, **arguments)

        walk = bijector._walk_inverse if inverse else bijector._walk_forward
        return walk(step, x, **kwargs)
    if visit is not None:
        visit(bijector, x, inverse)
    if isinstance(bijector, ResidualBlock) and not inverse:
        return bijector.transform(x, **kwargs)
    apply = bijector.inverse if inverse else bijector.forward
    return apply(tf.nest.map_structure(tf.identity, x), **kwargs)
