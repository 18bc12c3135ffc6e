"""Targets of variational inference that say what is wrong with them."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import is_xla

__all__ = ["checked_log_prob"]


def checked_log_prob(target_log_prob_fn: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A target log-density that raises an error where it is not finite.

    A single NaN makes the loss NaN, and with the next step all parameters of a surrogate.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow

    target = resflow.vi.checked_log_prob(lambda x: tf.math.log(x) - x)
    print(target(tf.constant([1.0])).numpy())
    # [-1.]
    try:
        target(tf.constant([1.0, -2.0]))
    except tf.errors.InvalidArgumentError as error:
        message = str(error)
    print("NaN or infinite" in message)
    # True
    ```

    Args:
      target_log_prob_fn: function of the parts of an event, as of `tfp.vi.fit_surrogate_posterior`.

    Returns:
      The same function with the check. Compiled by XLA, which has no errors, it checks nothing.

    Raises:
      ValueError: if it is no function; when called, if its values are not floating-point tensors, or of another
        dtype than the parameters.
      InvalidArgumentError: when called, if a value is NaN or infinite, with the first such point.
    """
    if not callable(target_log_prob_fn):
        raise ValueError(f"target_log_prob_fn must be a function of the parameters; got {target_log_prob_fn!r}.")

    @functools.wraps(target_log_prob_fn)
    def checked(*args: Any, **kwargs: Any) -> tf.Tensor:
        log_prob = tf.convert_to_tensor(target_log_prob_fn(*args, **kwargs))
        if not log_prob.dtype.is_floating:
            raise ValueError(f"The target log-density must be a float for each sample; got {log_prob.dtype.name}.")
        _check_dtype(log_prob.dtype, tf.nest.flatten((args, kwargs)))
        if is_xla():
            return log_prob
        wrong = tf.logical_not(tf.math.is_finite(log_prob))
        message = [
            "The target log-density is NaN or infinite. Such points:",
            tf.math.count_nonzero(wrong),
            "of",
            tf.size(wrong),
            "The first of them:",
            *_first(wrong, tf.nest.flatten((args, kwargs))),
            "Parameters with constraints need a constraining_bijector; otherwise the model is wrong there.",
        ]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(~wrong), message, summarize=20)]):
            return tf.identity(log_prob)

    return checked


def _check_dtype(dtype, parts):
    """Raises a ValueError unless the parameters with a float dtype have this one."""
    others = {tf.as_dtype(part.dtype) for part in parts if hasattr(part, "dtype")} - {dtype}
    if floats := [other.name for other in others if other.is_floating]:
        raise ValueError(
            f"The target log-density is {dtype.name}, and its parameters are {floats[0]}: give the surrogate "
            f"dtype={dtype.name!r} (resflow.vi.flow_surrogate_posterior), or compute the target in {floats[0]}."
        )


def _first(wrong, parts):
    """The parts of the first point of a batch that is wrong."""
    place = tf.argmax(tf.reshape(wrong, [-1]), output_type=tf.int32)
    parts = [tf.convert_to_tensor(part) for part in parts if part is not None]
    rank = wrong.shape.rank
    batched = [part for part in parts if part.shape[:rank].is_compatible_with(wrong.shape)]
    return [tf.reshape(part, tf.concat([[-1], tf.shape(part)[rank:]], 0))[place] for part in batched]
