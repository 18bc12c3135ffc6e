"""The parameters of a simulator as unconstrained vectors."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow.messages import counted
from tf_resflow.serialization import serialize
from tf_resflow.vi.surrogate_posteriors import from_vectors


class ParameterSpace:
    """The support of a prior, which must be one distribution of real numbers of one dtype.

    Attributes:
      prior: the prior.
      bijector: bijector from unconstrained vectors to parameters.
      size: size of a vector.
      dtype: name of the dtype.
    """

    def __init__(self, prior: tfd.Distribution):
        dtype, *others = {*tf.nest.flatten(prior.dtype)}
        is_joint = isinstance(prior, tfd.JointDistribution)
        members = tf.nest.flatten(prior.sample_distributions(seed=[0, 0])[0]) if is_joint else [prior]
        discrete = [member.name for member in members if member.experimental_default_event_space_bijector() is None]
        if discrete:
            raise ValueError(
                f"No bijector maps real numbers to the support of {', '.join(discrete)} in the prior. Parameters "
                "must be continuous; discrete parameters are not supported."
            )
        is_batch = any(shape.rank for shape in tf.nest.flatten(prior.batch_shape))
        if is_batch or others or not dtype.is_floating:
            raise ValueError(
                f"The prior has the batch shape {prior.batch_shape} and the dtype {prior.dtype}. Give one "
                "distribution of real numbers of one dtype."
            )
        constraint = prior.experimental_default_event_space_bijector()
        self.size, into_events = from_vectors(prior.event_shape, constraint)
        self.prior, self.bijector, self.dtype = prior, tfb.Chain(into_events[::-1]), dtype.name
        try:
            serialize(prior)
        except (TypeError, ValueError) as error:
            warnings.warn(f"The estimator cannot be saved with its prior: {error}", stacklevel=3)

    def vectors(self, theta: Any, num: int) -> np.ndarray:
        """Maps parameters to unconstrained vectors `[num, size]`, those on bounds to the most extreme others."""
        tf.nest.assert_same_structure(self.prior.dtype, theta, check_types=isinstance(self.prior.dtype, Mapping))
        theta = tf.nest.map_structure(lambda part: tf.cast(part, self.dtype), theta)
        shapes = [part.shape for part in tf.nest.flatten(theta)]
        if shapes != [[num, *event] for event in tf.nest.flatten(self.prior.event_shape)]:
            raise ValueError(f"theta has the shapes {shapes}. Give parameters [num, *event_shape] with num={num}.")
        z = self.bijector.inverse(theta).numpy()
        back = self.bijector.forward(tf.constant(z))
        moved = [*map(_moved, tf.nest.flatten(theta), tf.nest.flatten(back))]
        if bad := np.count_nonzero(np.isnan(z).any(axis=1) | np.any(moved, axis=0)):
            raise ValueError(
                f"Found NaN or values outside the prior's support in {counted(int(bad), 'row')} of theta. "
                "Leave them out."
            )
        finite = np.where(np.isinf(z), np.nan, z)
        return np.clip(z, np.nanmin(finite, axis=0), np.nanmax(finite, axis=0))


def _moved(theta, back):
    """Returns which parameters are infinite or change in a round trip, which may turn values on bounds into NaN."""
    rounding = np.cbrt(np.finfo(theta.dtype.as_numpy_dtype).eps)
    tolerance = rounding * (1 + tf.reduce_max(tf.abs(theta), axis=0))
    moved = tf.math.is_inf(theta) | (tf.abs(back - theta) > tolerance)
    return tf.reduce_any(moved, axis=range(1, moved.shape.rank))


def checked_rows(is_valid: np.ndarray, drop: bool) -> np.ndarray:
    """Returns `is_valid`, after a warning or an error that counts the invalid observations and names the first."""
    if not is_valid.all():
        where = f"{np.count_nonzero(~is_valid):,} of {counted(len(is_valid), 'observation')}"
        message = f"Found NaN or infinity in {where}, starting with x[{np.argmin(is_valid)}]."
        if not (drop and is_valid.any()):
            raise ValueError(f"{message} Leave them out.")
        warnings.warn(f"{message} fit leaves them and their parameters out.", stacklevel=3)
    return is_valid
