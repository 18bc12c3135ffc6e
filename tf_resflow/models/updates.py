"""Updates of variables as calls of functions that variables of equal shape share."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.tracing import traced_once
from tf_resflow.private_api import share_updates


def share_adam_updates(optimizer: keras.Optimizer) -> None:
    """Makes Keras's Adam or AdamW share updates. Other optimizers, and subclasses, are unchanged."""
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad:
        share_updates(optimizer, lambda index, *args: update_variable(adam_move(optimizer), *args))


def adam_move(optimizer: keras.optimizers.Adam) -> tuple[tuple[Any, ...], Callable[..., None]]:
    """Returns the update rule of Adam, as its settings and the function `move` (see `update_variable`)."""
    beta_1, beta_2, epsilon = (float(value) for value in (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon))

    def move(variable, moments, gradient, rate, without_bias):
        names = {"var": variable, "m": moments[0], "v": moments[1], "grad": gradient, "lr": without_bias}
        powers = dict.fromkeys(("beta1_power", "beta2_power"), tf.zeros([], gradient.dtype))
        tf.raw_ops.ResourceApplyAdam(**names, **powers, beta1=beta_1, beta2=beta_2, epsilon=epsilon)

    return ("adam", beta_1, beta_2, epsilon), move


def update_variable(
    rule: tuple[tuple[Any, ...], Callable[..., None]],
    variable: tf.Variable,
    moments: list[tf.Tensor],
    gradient: tf.Tensor,
    rates: tf.Tensor,
    decays: bool,
) -> None:
    """Applies weight decay to a variable, then `move(handle, moments, gradient, rate, without_bias)`.

    `rule` has the settings of `move`, and `move`. See `share_updates` for the other arguments.
    """
    settings, move = rule

    def update(handle, moments, gradient, rates):
        rate, without_bias, decay = tf.unstack(tf.cast(rates, gradient.dtype))
        if decays:
            value = read(handle, gradient)
            tf.raw_ops.AssignSubVariableOp(resource=handle, value=decay * value)
        move(handle, moments, gradient, rate, without_bias)

    key = "update", *settings, decays, variable.dtype, *variable.shape
    traced_once(key, update, variable.handle, moments, gradient, rates)


def update_average(average: tf.Variable, variable: tf.Variable, share: tf.Tensor) -> None:
    """Moves an average by a share of its distance to the variable."""

    def update(average, variable, share, unit):
        distance = read(variable, unit) - read(average, unit)
        tf.raw_ops.AssignAddVariableOp(resource=average, value=tf.cast(share, unit.dtype) * distance)

    unit = tf.ones([], variable.dtype)
    traced_once(("average", variable.dtype, *variable.shape), update, average.handle, variable.handle, share, unit)


def read(handle: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns the value of the variable with a resource handle, which has the dtype of another tensor."""
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=like.dtype)
