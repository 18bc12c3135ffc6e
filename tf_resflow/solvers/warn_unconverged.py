"""The warning of a solver that stopped before it met its tolerance."""

import sys

import tensorflow as tf

from tf_resflow.private_api import is_xla

__all__ = ["warn_unconverged"]


def warn_unconverged(solution, message):
    """Prints a warning to stderr when some examples did not converge; not where XLA compiles, which cannot print.

    Args:
      solution: a `Solution`.
      message: `str`, what did not converge.

    Returns:
      An operation, to be a control dependency of the result.
    """
    if is_xla():
        return tf.no_op()
    failed = tf.reduce_sum(tf.cast(~solution.converged, tf.int32))
    # tf.vectorized_map runs both branches for a condition of each element; what it formats is one for all elements.
    some_failed = tf.strings.regex_full_match(tf.strings.format("{}", failed, summarize=-1), "(?s).*[1-9].*")
    warn = lambda: tf.print(  # noqa: E731
        "WARNING:", message, "\n  number of examples:", failed, "most evaluations:",
        tf.reduce_max(solution.num_iterations), "largest residual:", tf.reduce_max(solution.residual),
        output_stream=sys.stderr,
    )  # fmt: skip
    return tf.cond(some_failed, warn, tf.no_op)
