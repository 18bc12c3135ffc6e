"""The affine autoregressive layer of MAF and IAF."""

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.bijectors.base import Context, Pass
from tf_resflow.bijectors.networks import Networks, bound_network, network_shapes, parameter_dtype
from tf_resflow.bijectors.parametrized import NetworkBijector


class AffineAutoregressive(NetworkBijector):
    r"""Affine autoregressive layer on vectors: \\(y_i = e^{s_i(x_{<i})} x_i + t_i(x_{<i})\\).

    The network returns `[t, r]`, concatenated along the last axis, and \\(s_i = 2 \tanh(r_i / 2)\\). The Jacobian
    is triangular, with \\(\log|\det J| = \sum_i s_i\\). The inverse computes one coordinate after another, with one
    evaluation of the network for each. `forward` maps data to latent, unlike in distrax and FlowJAX. In this
    direction, the layers form a masked autoregressive flow; inverted, an inverse autoregressive flow.

    Args:
      network: built Keras layer or model of x or of `[x, condition]`, for example from
        `tf_resflow.flows.autoregressive_network`.
      reverse: whether to reverse the order of the coordinates: \\(x_{>i}\\) instead of \\(x_{<i}\\).

    Raises:
      ValueError: if the network is not autoregressive in this order.

    References:
      Papamakarios, Pavlakou and Murray, Masked Autoregressive Flow for Density Estimation, 2017, Section 3.1.
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016.
    """

    _why_unbounded = (
        "An autoregressive layer scales x_i by a function of the others: its slope in them is unbounded"
    )

    def __init__(self, network: keras.Layer, reverse: bool = False, *, name: str = "affine_autoregressive") -> None:
        parameters = dict(locals())
        (shape, *condition), output = network_shapes(network)
        if len(shape) != 1 or output != (2 * shape[0],):
            raise ValueError(
                f"The network {network.name!r} maps {shape} to {output}; it must map [D] to [2 D]. Use "
                "tf_resflow.flows.autoregressive_network."
            )
        self._event_shape = tf.TensorShape(shape)
        self._reverse = reverse
        super().__init__(network, condition, parameters=parameters, name=name)
        with tf.init_scope():
            _check_autoregressive(network, reverse)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        shift, log_scale = self._shift_and_log_scale(x, self._output(context))
        return Pass(tf.exp(log_scale) * x + shift, tf.reduce_sum(log_scale, -1))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        network = self._output(context)
        size = self._event_shape[0]
        place = tf.range(size - 1, -1, -1) if self._reverse else tf.range(size)

        def find_next(i, x, _):
            shift, log_scale = self._shift_and_log_scale(x, network)
            found = tf.where(place <= i, tf.exp(-log_scale) * (y - shift), 0.0)
            return i + 1, tf.ensure_shape(found, y.shape), tf.reduce_sum(log_scale, -1)

        start = 0, tf.zeros_like(y), tf.zeros_like(y[..., 0])
        _, x, log_det = tf.while_loop(lambda *_: True, find_next, start, maximum_iterations=size)
        return Pass(x, -log_det)

    def carry(self, x: tf.Tensor, gradient: tf.Tensor, networks: Networks) -> tuple[tf.Tensor, ...] | None:
        r"""Returns y, log|det J| and \\(J^{-T} (\mathrm{gradient} - \nabla_x \log|\det J|)\\), if unconditional."""
        if self.has_condition:
            return None
        y, log_scale, jacobian, log_scale_jacobian = self._with_jacobian(x, networks)
        gradient = (gradient - tf.reduce_sum(log_scale_jacobian, 1))[..., tf.newaxis]
        gradient = tf.linalg.triangular_solve(jacobian, gradient, lower=not self._reverse, adjoint=True)
        return y, tf.reduce_sum(log_scale, -1), gradient[..., 0]

    def _with_jacobian(self, x, networks=None):
        """Returns y and s at x `[batch, D]`, and their Jacobians `[batch, D, D]`, without a condition."""
        network = bound_network(self.network, networks)
        if network.program.knows_jacobian:
            output, tangents = network.jacobian([x])
            shift_r, output_jacobian = tf.cast(output, x.dtype), tf.transpose(tf.cast(tangents, x.dtype), [2, 0, 1])
        else:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                shift_r = tf.cast(network(x), x.dtype)
            output_jacobian = tape.batch_jacobian(shift_r, x)
        (shift, r), (shift_jacobian, r_jacobian) = tf.split(shift_r, 2, -1), tf.split(output_jacobian, 2, 1)
        half = tf.tanh(r / 2.0)
        scale, log_scale_jacobian = tf.exp(2.0 * half), (1.0 - half**2)[..., tf.newaxis] * r_jacobian
        jacobian = shift_jacobian + (scale * x)[..., tf.newaxis] * log_scale_jacobian
        return scale * x + shift, 2.0 * half, tf.linalg.set_diag(jacobian, scale), log_scale_jacobian

    def _shift_and_log_scale(self, x, network):
        shift, r = tf.split(tf.ensure_shape(network(x), [*x.shape[:-1], 2 * self._event_shape[0]]), 2, -1)
        return shift, 2.0 * tf.tanh(r / 2.0)


def _check_autoregressive(network, reverse):
    """Raises a ValueError if an output depends on a coordinate that it must not see, for random weights."""
    generator = np.random.default_rng(0)
    ((size,), *condition), _ = network_shapes(network)
    dtype = (parameter_dtype(network) or tf.float32).name
    x = generator.normal(size=[1, size]) + np.eye(size + 1, size)  # row j changes coordinate j; the last row, none
    weights = [generator.normal(size=variable.shape) for variable in network.trainable_variables]
    inputs = [tf.constant(x, dtype), *(tf.zeros([size + 1, *shape], dtype) for shape in condition)]
    output, _ = network.stateless_call(weights, network.non_trainable_variables, inputs if condition else inputs[0])
    change = np.abs(output[:-1] - output[-1:]).reshape(size, 2, size).max(axis=1).T
    seen = change > 1e-4 * (1 + np.abs(output).max())  # [output, coordinate]
    for i, j in np.argwhere(np.tril(seen) if reverse else np.triu(seen)):
        raise ValueError(
            f"The network {network.name!r} is not autoregressive with reverse={reverse}: its output for coordinate "
            f"{i} depends on coordinate {j}. Use tf_resflow.flows.autoregressive_network, or mask the kernels."
        )
