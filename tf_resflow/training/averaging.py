"""A model under its averaged weights, for evaluation."""

import contextlib

import tensorflow as tf

from tf_resflow import layers

__all__ = ["averaged_weights", "use_averaged_weights"]

# Of the power iterations before an evaluation; training takes few, warm-started.
_TOLERANCE = 1e-5
_MAX_ITERATIONS = 500


def use_averaged_weights(model, optimizer):
    """Replaces the weights by their average and brings the norms up to date.

    Args:
      model: a `FlowModel`.
      optimizer: the built optimizer of its trainable variables. Without an average, or before the
        first step, the weights stay; the norms are brought up to date all the same.
    """
    if optimizer.use_ema and int(optimizer.iterations) > 0:
        optimizer.finalize_variable_values(model.trainable_variables)
    update = tf.function(lambda: layers.update_norms(model.flow, _TOLERANCE, _MAX_ITERATIONS))
    update()


@contextlib.contextmanager
def averaged_weights(model, optimizer):
    """Within it the model has its averaged weights; after it, bit by bit what it had before.

    Args:
      model: a `FlowModel`.
      optimizer: the built optimizer of its trainable variables.
    """
    saved = [tf.identity(weight) for weight in model.weights]
    use_averaged_weights(model, optimizer)
    try:
        yield
    finally:
        for weight, value in zip(model.weights, saved, strict=True):
            weight.assign(value)
