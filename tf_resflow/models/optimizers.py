"""Optimizers that add few operations to a graph, so training starts sooner."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.private_api import adam_state, has_weight_decay
from tf_resflow.layers.tracing import traced_once

_MOMENTUM = 0.95


@keras.saving.register_keras_serializable("tf_resflow")
class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` without `amsgrad`, with less than a fifth of its operations in the graph.

    With `weight_decay`, it is AdamW.
    """

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state of the optimizer."""
        if self.amsgrad:
            raise ValueError(f"Got amsgrad=True, which {type(self).__name__} does not support. Leave it out.")
        super().build(variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Computes the numbers that all variables share once, and passes them as the learning rate."""
        step = tf.cast(self.iterations + 1, tf.float64)
        rate = tf.cast(learning_rate, tf.float64)
        beta_1 = float(self.beta_1)
        beta_2 = float(self.beta_2)
        unbiased = rate * tf.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
        decay = rate * tf.cast(0.0 if self.weight_decay is None else self.weight_decay, tf.float64)
        variable_numbers = [tf.cast(value, tf.float32) for value in (rate, unbiased, decay)]
        constants = [tf.constant(value) for value in (0.0, beta_1, beta_2, float(self.epsilon), _MOMENTUM)]
        super()._backend_update_step(grads, trainable_variables, (*variable_numbers, *constants))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        is_single = tf.distribute.get_strategy().num_replicas_in_sync == 1  # Keras would copy each gradient twice
        return grads_and_vars if is_single else super()._all_reduce_sum_gradients(grads_and_vars)

    def _apply_weight_decay(self, variables):
        """Does nothing, because `update_step` applies it."""

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Updates one variable, given the numbers of `_backend_update_step`."""
        rate, unbiased, decay, *constants = (tf.cast(number, variable.dtype) for number in learning_rate)
        if has_weight_decay(self, variable):
            variable.assign_sub(decay * variable, read_value=False)
        index, *moments = adam_state(self, variable)
        self._move(index, variable, moments, tf.cast(gradient, variable.dtype), (rate, unbiased, *constants))

    def _move(self, index, variable, moments, gradient, numbers):
        _, rate, zero, beta_1, beta_2, epsilon, _ = numbers  # the rate is corrected, so the powers of beta are 0
        names = {"var": variable.handle, "m": moments[0].handle, "v": moments[1].handle, "grad": gradient}
        names |= {"lr": rate, "beta1_power": zero, "beta2_power": zero}
        tf.raw_ops.ResourceApplyAdam(**names, beta1=beta_1, beta2=beta_2, epsilon=epsilon)


@keras.saving.register_keras_serializable("tf_resflow")
class Muon(Adam):
    """Applies Muon to kernels, as matrices with one column per output, and AdamW to all other variables.

    Unlike Keras's Muon, it also applies to the kernels of convolutions.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
      Liu et al., Muon is scalable for LLM training, 2025: the size of the update.
    """

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state of the optimizer, and records which variables are kernels."""
        if not self.built:
            self._are_kernels = [variable.name.endswith("kernel") for variable in variables]
        super().build(variables)

    def _move(self, index, variable, moments, gradient, numbers):
        if not self._are_kernels[index]:
            super()._move(index, variable, moments, gradient, numbers)
            return
        rate, *_, beta = numbers
        arguments = gradient, tf.convert_to_tensor(moments[0]), rate, beta
        momentum, update = traced_once(("muon", *variable.shape), _muon_update, *arguments)
        moments[0].assign(momentum, read_value=False)
        variable.assign_sub(update, read_value=False)


def _muon_update(gradient, momentum, rate, beta):
    """Returns the momentum, and U T V' for a kernel U S V', scaled to the size of AdamW's update.

    Five Newton-Schulz iterations make the singular values T nearly equal.
    """
    a, b, c = (tf.constant(value, gradient.dtype) for value in (3.4445, -4.7750, 2.0315))
    momentum = beta * momentum + gradient
    direction = gradient + beta * momentum
    x = tf.reshape(direction, [-1, direction.shape[-1]])
    size = 0.2 * max(x.shape) ** 0.5
    is_wide = x.shape[0] < x.shape[1]
    x = x if is_wide else tf.transpose(x)
    x = x / (tf.norm(x) + 1e-7)
    for _ in range(5):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + (b * square + c * square @ square) @ x
    return momentum, (rate * size) * tf.reshape(x if is_wide else tf.transpose(x), direction.shape)
