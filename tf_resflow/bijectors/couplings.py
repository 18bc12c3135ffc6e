"""Couplings and other affine maps of an event whose parameters come from a network."""

import abc

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.base import Context, LipschitzConstants, NetworkBijector, Pass
from tf_resflow.bijectors.networks import Networks, bounded_norm, from_rows, network_shapes, parameter_dtype


class Coupling(NetworkBijector):
    """Base class of the couplings `y_a = x_a`, `y_b = exp(s(x_a)) x_b + t(x_a)`; see `AffineCoupling`.

    A subclass sets `num_parameters` and computes t and s from the network's output.
    """

    _default_name = "coupling"
    num_parameters: int

    def __init__(
        self, network: keras.Layer, split: str = "channels", swap: bool = False, *, name: str | None = None
    ) -> None:
        name = name or self._default_name
        parameters = dict(locals())
        if split not in ("channels", "checkerboard"):
            raise ValueError(f"Got split={split!r}; it must be 'channels' or 'checkerboard'.")
        self._split, self._swap = split, swap
        (given, *condition), output = network_shapes(network)
        self._num_given = given[-1]
        self._num_mapped = _num_mapped(given, output, split, self.num_parameters)
        channels = self._num_mapped + (self._num_given if split == "channels" else 0)
        self._event_shape = tf.TensorShape([*given[:-1], channels])
        super().__init__(network, condition, parameters=parameters, name=name)

    @abc.abstractmethod
    def _shift_and_log_scale(self, output):
        """Returns the shift t and the log-scale s."""

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        given, mapped = self._divide(x)
        shift, log_scale = self._evaluate(given, context)
        return Pass(self._unite(given, tf.exp(log_scale) * mapped + shift), self._sum(log_scale))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        given, mapped = self._divide(y)
        shift, log_scale = self._evaluate(given, context)
        return Pass(self._unite(given, tf.exp(-log_scale) * (mapped - shift)), -self._sum(log_scale))

    def _sum(self, log_scale):
        return tf.reduce_sum(log_scale, axis=list(range(-self._event_shape.rank, 0)))

    def _divide(self, x):
        """Returns the parts a and b. On a checkerboard, each is an image where the other part is zero."""
        if self._split == "checkerboard":
            mask = self._mask(x)
            return (1 - mask) * x, mask * x
        if self._swap:
            return tf.split(x, [self._num_mapped, self._num_given], axis=-1)[::-1]
        return tf.split(x, [self._num_given, self._num_mapped], axis=-1)

    def _unite(self, given, mapped):
        if self._split == "checkerboard":
            return given + mapped
        return tf.concat([mapped, given] if self._swap else [given, mapped], axis=-1)

    def _mask(self, x):
        """Returns 1 for the pixels of b and 0 for the pixels of a, `[H, W, 1]`."""
        height, width = tf.unstack(tf.shape(x)[-3:-1])
        odd = (tf.range(height)[:, tf.newaxis] + tf.range(width)) % 2
        odd = tf.cast(odd, x.dtype)[..., tf.newaxis]
        return 1 - odd if self._swap else odd

    def _evaluate(self, given, context):
        output = self._output(context)(given)
        output = tf.ensure_shape(output, [*given.shape[:-1], self.num_parameters * self._num_mapped])
        shift, log_scale = self._shift_and_log_scale(output)
        if self._split == "checkerboard":
            mask = self._mask(given)
            return mask * shift, mask * log_scale
        return shift, log_scale


def _num_mapped(shape, output, split, num_parameters):
    """Returns the number of channels of part b. Raises a ValueError if the network's output has a wrong shape."""
    mapped, rest = divmod(output[-1], num_parameters)
    fits = output[:-1] == shape[:-1] and mapped > 0 and rest == 0
    if not fits or (split == "checkerboard" and (len(shape) != 3 or mapped != shape[-1])):
        raise ValueError(
            f"The network maps {shape} to {output}. It must map [..., C_a] to [..., {num_parameters} C_b], or "
            f"[H, W, C] to [H, W, {num_parameters} C] with split='checkerboard'. Change the shape of its output."
        )
    return mapped


class AdditiveCoupling(Coupling):
    r"""Volume-preserving coupling of the two parts a and b of an event: `y_a = x_a`, `y_b = x_b + t(x_a)`.

    The network returns t, one value for each element of b. See `AffineCoupling` for the parts and the arguments.
    If t has a known Lipschitz constant L in an l^p norm, the coupling and its inverse have the constant 1 + L.

    References:
      Dinh et al., NICE, 2015, Section 3.
    """

    _default_name = "additive_coupling"
    num_parameters = 1

    def _lipschitz_constants(self, certified, bound):
        order, reason = bounded_norm(self.network)
        if reason:
            return LipschitzConstants(reason=reason)
        constant = 1.0 + float(bound(self.network, certified=certified))
        return LipschitzConstants(constant, constant, order)

    def _shift_and_log_scale(self, output):
        return output, tf.zeros_like(output)


class AffineCoupling(Coupling):
    r"""Coupling of the two parts a and b of an event: `y_a = x_a`, `y_b = sigmoid(r(x_a) + 2) x_b + t(x_a)`.

    The Jacobian is triangular, with \\(\log|\det J| = \sum_i \log \mathrm{sigmoid}(r_i(x_a) + 2)\\). The inverse is
    as cheap as the forward pass.

    The network determines the shape of an event. It maps a to `[t, r]`, concatenated along the last axis: two
    values for each element of b.

    - `split="channels"`: a is the first channels of an image or the first coordinates of a vector; b is the rest.
    - `split="checkerboard"`, for images: a is the pixels with an even row + column. The network receives the image
      with b set to zero. It returns values for all elements, and those for a are ignored.

    A network of `[a, condition]` makes the coupling conditional. The methods then require `condition`, whose batch
    shape must broadcast to the batch shape of the value.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    network = resflow.flows.coupling_network((4, 4, 6), width=8)
    coupling = resflow.bijectors.AffineCoupling(network)
    print(network.input_shape, network.output_shape, coupling.forward(tf.zeros([2, 4, 4, 6])).shape)
    # (None, 4, 4, 3) (None, 4, 4, 6) (2, 4, 4, 6)
    ```

    Args:
      network: built Keras layer or model, with two inputs for a conditional coupling.
      split: "channels" or "checkerboard".
      swap: whether a is the last channels, or the pixels with an odd row + column.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.
      Kingma and Dhariwal, Glow, 2018, Section 3.3 (the scale follows the code of Glow and of Residual Flows).
    """

    _default_name = "affine_coupling"
    num_parameters = 2
    _why_unbounded = "An affine coupling scales b by a function of a, so its slope in a grows with b, without bound"

    def _shift_and_log_scale(self, output):
        shift, logits = tf.split(output, 2, axis=-1)
        return shift, tf.math.log_sigmoid(logits + 2)


class ConditionalAffine(NetworkBijector):
    r"""Affine map of vectors x given a condition c: `y = L(c) x + t(c)`, with a lower triangular matrix L.

    \\(\log|\det J| = \sum_i l_i(c)\\), where \\(\exp(l_i(c))\\) is the diagonal of L. With a normal base, the
    density is Gaussian, and its mean and covariance are functions of c. The inverse is as cheap as the forward
    pass.

    For events of D coordinates, the network returns t (D values) and L (D (D + 1) / 2 values in the order of
    `tfp.math.fill_triangular`), concatenated along the last axis. The diagonal of L is given by its logarithm l.

    ```python
    import keras
    import tensorflow as tf
    import tf_resflow as resflow
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(5)])  # 2 + 2 * 3 / 2
    affine = resflow.bijectors.ConditionalAffine(network)
    print(affine.forward(tf.ones([4, 2]), condition=tf.ones([4, 3])).shape)
    # (4, 2)
    ```

    Args:
      network: built Keras layer or model that maps a condition `[condition_size]` to `[D (D + 3) / 2]`.
    """

    _why_unbounded = "The matrix of a conditional affine map is a function of the condition"

    def __init__(self, network: keras.Layer, *, name: str = "conditional_affine") -> None:
        parameters = dict(locals())
        (condition, *others), output = network_shapes(network)
        sizes = {size * (size + 3) // 2: size for size in range(1, 1 + output[-1])}
        if others or len(condition) != 1 or len(output) != 1 or output[0] not in sizes:
            raise ValueError(
                f"The network maps {condition} to {output}. For D coordinates, it must map a vector to "
                "D (D + 3) / 2 values: 2 for one coordinate, 5 for two, 9 for three. Change the size of its output."
            )
        self._size = sizes[output[0]]
        self._event_shape = tf.TensorShape([self._size])
        super().__init__(network, [condition], parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        x, batch_shape, shift, matrix, log_det = self._evaluate(x, context)
        y = tf.linalg.matvec(matrix, x) + shift
        return Pass(from_rows(y, batch_shape), from_rows(log_det, batch_shape))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        y, batch_shape, shift, matrix, log_det = self._evaluate(y, context)
        x = tf.squeeze(tf.linalg.triangular_solve(matrix, (y - shift)[..., tf.newaxis]), -1)
        return Pass(from_rows(x, batch_shape), from_rows(-log_det, batch_shape))

    def _evaluate(self, x, context):
        network, condition = self._network_and_condition(context)
        x, condition, batch_shape = self._to_rows(x, condition)
        output = tf.cast(network(condition), x.dtype)
        matrix = tfp.math.fill_triangular(output[:, self._size :])
        diagonal = tf.eye(self._size, dtype=x.dtype)  # XLA supports its gradients for any batch size
        log_scale = tf.reduce_sum(matrix * diagonal, axis=-1)
        matrix = (1 - diagonal) * matrix + diagonal * tf.exp(log_scale)[:, tf.newaxis]
        return x, batch_shape, output[:, : self._size], matrix, tf.reduce_sum(log_scale, axis=-1)


class AffineAutoregressive(NetworkBijector):
    r"""Affine autoregressive layer on vectors: \\(y_i = e^{s_i(x_{<i})} x_i + t_i(x_{<i})\\).

    The network returns `[t, r]`, concatenated along the last axis, and \\(s_i = 2 \tanh(r_i / 2)\\). The Jacobian
    is triangular, with \\(\log|\det J| = \sum_i s_i\\). The inverse computes one coordinate after another, with one
    evaluation of the network for each. The layers form a masked autoregressive flow; inverted, an inverse
    autoregressive flow.

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

    def forward_with_density_gradient(self, x: tf.Tensor, gradient: tf.Tensor, networks: Networks) -> tuple | None:
        """Returns the same as the method of `ResidualBlock`, or None if the Jacobian is not known."""
        network = networks[self.network]
        if self.has_condition or not network.program.supports_jacobian:
            return None
        output, tangents = (tf.cast(value, x.dtype) for value in network.jacobian([x]))
        (shift, r), tangents = tf.split(output, 2, -1), tf.transpose(tangents, [2, 0, 1])
        shift_jacobian, r_jacobian = tf.split(tangents, 2, 1)
        half = tf.tanh(r / 2.0)
        scale, log_scale_jacobian = tf.exp(2.0 * half), (1.0 - half**2)[..., tf.newaxis] * r_jacobian
        jacobian = shift_jacobian + (scale * x)[..., tf.newaxis] * log_scale_jacobian
        gradient = (gradient - tf.reduce_sum(log_scale_jacobian, 1))[..., tf.newaxis]
        jacobian = tf.linalg.set_diag(jacobian, scale)
        gradient = tf.linalg.triangular_solve(jacobian, gradient, lower=not self._reverse, adjoint=True)
        return scale * x + shift, tf.reduce_sum(2.0 * half, -1), gradient[..., 0]

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
