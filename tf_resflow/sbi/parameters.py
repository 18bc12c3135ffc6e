"""The parameters of a simulator as unconstrained vectors."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow._internal.messages import counted
from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.serialization import serialize
from tf_resflow.vi.surrogate_posteriors import from_vectors

# Parameters whose log-density is below that of draws of the prior by more than both together are refused.
_MARGIN_IN_NATS = 50.0
_MARGIN_IN_DEVIATIONS = 10.0


class ParameterSpace:
    """The support of a prior, which must be one distribution of real numbers of one dtype.

    Attributes:
      prior: The prior.
      bijector: Bijector from unconstrained vectors to parameters.
      size: Size of a vector.
      dtype: Name of the dtype.
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
                "distribution of real numbers of one dtype. For a batch of independent parameters, give "
                "tfd.Independent(prior)."
            )
        constraint = prior.experimental_default_event_space_bijector()
        self.size, into_events = from_vectors(prior.event_shape, constraint)
        self.prior = prior
        self.bijector = tfb.Chain(into_events[::-1])
        self.dtype = dtype.name
        try:
            serialize(prior)
        except (TypeError, ValueError) as error:
            warnings.warn(f"The estimator cannot be saved with its prior: {error}", stacklevel=3)

    def events(self, theta: Any, num: int) -> Any:
        """Returns parameters `[num, *event_shape]` as tensors in the structure of the prior's events."""
        dtypes = self.prior.dtype
        if not tf.nest.is_nested(dtypes):  # a nested list is one array
            theta = as_array(theta, "theta")
        try:
            tf.nest.assert_same_structure(dtypes, theta, check_types=isinstance(dtypes, Mapping))
        except (TypeError, ValueError) as error:
            raise ValueError(f"theta does not have the structure of the prior's events, {dtypes}.") from error
        tensors = [tf.cast(as_array(values, "theta"), self.dtype) for values in tf.nest.flatten(theta)]
        shapes = [values.shape for values in tensors]
        if shapes != [[num, *event] for event in tf.nest.flatten(self.prior.event_shape)]:
            raise ValueError(f"theta has the shapes {shapes}. Give parameters [num, *event_shape] with num={num}.")
        return tf.nest.pack_sequence_as(dtypes, tensors)

    def check_drawn(self, theta: Any) -> None:
        """Raises a ValueError if parameters are much less probable than 1,000 draws of the prior."""
        log_probs_of_draws = self.prior.log_prob(self.prior.sample(1000, seed=stateless_seed(0))).numpy()
        log_probs_of_draws = log_probs_of_draws[np.isfinite(log_probs_of_draws)]
        log_probs = self.prior.log_prob(theta).numpy()
        least_of_draws = log_probs_of_draws.min(initial=np.inf)
        least = least_of_draws - _MARGIN_IN_NATS - _MARGIN_IN_DEVIATIONS * log_probs_of_draws.std()
        if np.any(np.isfinite(log_probs) & (log_probs < least)):
            row = np.nanargmin(log_probs)
            raise ValueError(
                f"The prior cannot have drawn theta[{row}]: its log-density is {log_probs[row]:.4g}, and that of "
                f"1,000 draws is at least {least_of_draws:.4g}. Give draws of the prior or of a proposal, in the "
                "units of the prior."
            )

    def vectors(self, theta: Any, num: int) -> np.ndarray:
        """Maps parameters to unconstrained vectors `[num, size]`, those on bounds to the most extreme others."""
        theta = self.events(theta, num)
        z = self.bijector.inverse(theta).numpy()
        back = self.bijector.forward(tf.constant(z))
        moved = [*map(_moved, tf.nest.flatten(theta), tf.nest.flatten(back))]
        is_outside = np.isnan(z).any(axis=1) | np.any(moved, axis=0)
        if is_outside.any():
            num_outside = int(np.count_nonzero(is_outside))
            raise ValueError(
                f"Found NaN or values outside the prior's support in {counted(num_outside, 'row')} of theta. "
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


def as_array(values: Any, name: str) -> Any:
    """Returns numbers as an array or a tensor. Raises a ValueError if they are not one array of numbers."""
    if tf.is_tensor(values):
        return values
    try:
        array = np.asarray(values)
        array.astype(np.float64)  # raises for text
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not one array of numbers: {error}. Give numbers in an array of one shape. Fill up sets of "
            "different sizes with NaN."
        ) from error
    return array


def check_varying(vectors: np.ndarray, name: str) -> None:
    """Raises a ValueError if a coordinate of rows has only one value."""
    is_constant = ~(np.ptp(vectors, axis=0) > 0)
    if np.any(is_constant):
        raise ValueError(
            f"Coordinate {np.argmax(is_constant)} of {name} has the same value in all {len(vectors):,} pairs, so "
            "it has no density. Draw it from its distribution, or leave it out."
        )


def checked_rows(is_valid: np.ndarray, drop: bool) -> np.ndarray:
    """Returns `is_valid`, after a warning or an error that counts the invalid observations and names the first."""
    if not is_valid.all():
        where = f"{np.count_nonzero(~is_valid):,} of {counted(len(is_valid), 'observation')}"
        message = f"Found NaN or infinity in {where}, starting with x[{np.argmin(is_valid)}]."
        if not (drop and is_valid.any()):
            raise ValueError(f"{message} Leave them out.")
        warnings.warn(f"{message} fit leaves them and their parameters out.", stacklevel=3)
    return is_valid
