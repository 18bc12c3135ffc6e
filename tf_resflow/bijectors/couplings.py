"""Couplings and affine maps of an event whose parameters come from a network."""

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.private_api import untracked
from tf_resflow.bijectors.base import Context, NetworkBijector, Pass, StretchBounds
from tf_resflow.bijectors.networks import Networks, bounded_norm, from_rows, network_shapes, parameter_dtype

_LEAST = 1e-3  # slope of a spline, and share of a bin in its width and height
_SLOPE_OFFSET = np.log(np.expm1(1 - _LEAST))  # softplus maps it to 1 - _LEAST


class Coupling(NetworkBijector):
    """Base class of the couplings `y_a = x_a`, `y_b = f(x_b)`, where x_a determines f; see `AffineCoupling`.

    A subclass sets `num_parameters`, the number of parameters of f for each element of b, and implements `_map`.
    """

    _default_name = "coupling"
    _settings: dict[str, float] = {}  # arguments of a subclass
    num_parameters: int

    def __init__(
        self, network: keras.Layer, split: str = "channels", swap: bool = False, *, name: str | None = None
    ) -> None:
        name = name or self._default_name
        parameters = dict(locals(), **self._settings)
        if split not in ("channels", "checkerboard"):
            raise ValueError(f"Got split={split!r}; it must be 'channels' or 'checkerboard'.")
        self._split = split
        self._swap = swap
        (input_shape, *condition_shapes), output_shape = network_shapes(network)
        self._num_kept = input_shape[-1]
        self._num_mapped = _num_mapped(input_shape, output_shape, split, self.num_parameters)
        channels = self._num_mapped + (self._num_kept if split == "channels" else 0)
        self._event_shape = tf.TensorShape([*input_shape[:-1], channels])
        super().__init__(network, condition_shapes, parameters=parameters, name=name)

    @classmethod
    def num_parameters_with(cls, **settings: Any) -> int:
        """Returns `num_parameters` of a coupling with these arguments."""
        return cls.num_parameters

    @abc.abstractmethod
    def _map(self, b, parameters, inverse):
        """Returns f(b), or the inverse of f at b, and the logarithm of the slope at each element."""

    def forward_pass(self, x: tf.Tensor, context: Context, inverse: bool = False) -> Pass:
        a, b = self._divide(x)
        output = self._output(context)(a)
        output = tf.ensure_shape(output, [*a.shape[:-1], self.num_parameters * self._num_mapped])
        mapped, log_slopes = map(self._masked, self._map(b, self._masked(output), inverse))
        log_det = tf.reduce_sum(log_slopes, axis=list(range(-self._event_shape.rank, 0)))
        return Pass(self._unite(a, mapped), log_det)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return self.forward_pass(y, context, inverse=True)

    def _divide(self, x):
        """Returns the parts a and b. On a checkerboard, each is an image where the other part is zero."""
        if self._split == "checkerboard":
            return (1 - self._mask(x)) * x, self._masked(x)
        if self._swap:
            return tf.split(x, [self._num_mapped, self._num_kept], axis=-1)[::-1]
        return tf.split(x, [self._num_kept, self._num_mapped], axis=-1)

    def _unite(self, a, b):
        if self._split == "checkerboard":
            return a + b
        return tf.concat([b, a] if self._swap else [a, b], axis=-1)

    def _mask(self, x):
        """Returns 1 for the pixels of b and 0 for the pixels of a, `[H, W, 1]`."""
        height, width = tf.unstack(tf.shape(x)[-3:-1])
        odd = (tf.range(height)[:, tf.newaxis] + tf.range(width)) % 2
        odd = tf.cast(odd, x.dtype)[..., tf.newaxis]
        return 1 - odd if self._swap else odd

    def _masked(self, tensor):
        """Returns the tensor with zeros for the pixels of a on a checkerboard."""
        return self._mask(tensor) * tensor if self._split == "checkerboard" else tensor


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

    def _stretch_bounds(self, certified, bound):
        order, reason = bounded_norm(self.network)
        if reason:
            return StretchBounds(reason=reason)
        constant = 1.0 + float(bound(self.network, certified=certified))
        return StretchBounds(constant, constant, order)

    def _map(self, b, parameters, inverse):
        return b - parameters if inverse else b + parameters, tf.zeros_like(b)


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
      network: Built Keras layer or model, with two inputs for a conditional coupling.
      split: "channels" or "checkerboard".
      swap: Whether a is the last channels, or the pixels with an odd row + column.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.
      Kingma and Dhariwal, Glow, 2018, Section 3.3 (the scale follows the code of Glow and of Residual Flows).
    """

    _default_name = "affine_coupling"
    num_parameters = 2
    _why_unbounded = "An affine coupling scales b by a function of a, so its slope in a grows with b, without bound"

    def _map(self, b, parameters, inverse):
        shift, logits = tf.split(parameters, 2, axis=-1)
        log_scale = tf.math.log_sigmoid(logits + 2)
        if inverse:
            return tf.exp(-log_scale) * (b - shift), -log_scale
        return tf.exp(log_scale) * b + shift, log_scale


class SplineCoupling(Coupling):
    r"""Coupling of the two parts a and b of an event: `y_a = x_a`, and `y_b` is a monotone spline of `x_b`.

    The spline is rational-quadratic on the K bins from `-bound` to `bound`, and the identity outside. In a bin
    \\([x_k, x_{k+1}]\\) with mean slope s and slopes \\(d_k\\) and \\(d_{k+1}\\) at its ends, it is
    \\(y_k + (y_{k+1} - y_k) (s \xi^2 + d_k \xi (1 - \xi)) / (s + (d_k + d_{k+1} - 2 s) \xi (1 - \xi))\\), where
    \\(\xi = (x - x_k) / (x_{k+1} - x_k)\\). The inverse is as cheap as the forward pass.

    The network returns 3K - 1 neighboring values for each element of b: K widths, K heights and K - 1 slopes. If
    they are zero, the spline is the identity. Widths and heights are at least `2 bound / 1000`, and slopes 1/1000.
    See `AffineCoupling` for the parts and the other arguments.

    Args:
      num_bins: Number K of bins, from 2 to 500.
      bound: End of the last bin. Scale the data so that few of them are beyond it, for example with an ActNorm.

    References:
      Durkan et al., Neural Spline Flows, 2019.
    """

    _default_name = "spline_coupling"
    num_parameters = 23
    _why_unbounded = "The spline of b depends on a network of a, so its slope in a has no known bound"

    def __init__(
        self,
        network: keras.Layer,
        split: str = "channels",
        swap: bool = False,
        *,
        num_bins: int = 8,
        bound: float = 5.0,
        name: str | None = None,
    ) -> None:
        if not (2 <= num_bins <= 500 and 0 < bound < np.inf):
            raise ValueError(f"Got num_bins={num_bins}, bound={bound}. Use 2 to 500 bins and a positive bound.")
        self._settings = untracked({"num_bins": num_bins, "bound": bound})
        self._num_bins = num_bins
        self._bound = bound
        self.num_parameters = self.num_parameters_with(num_bins=num_bins)
        super().__init__(network, split, swap, name=name)

    @classmethod
    def num_parameters_with(cls, num_bins: int = 8, **settings: Any) -> int:
        return 3 * num_bins - 1

    def _map(self, b, parameters, inverse):
        # tfp.bijectors.RationalQuadraticSpline needs nine times as many operations, and its inverse can be NaN.
        # tfp.bijectors.RationalQuadraticSpline needs nine times as many operations, and its inverse can be NaN.
        inside = tf.abs(b) < self._bound
        zero = tf.zeros_like(b)
        value = tf.where(inside, b, zero)
        spline = self._bins_of(value, parameters, inverse)
        xi = spline.inverse_position(value) if inverse else spline.position(value)
        xi = tf.clip_by_value(xi, -1, 2)  # infinite for extremely steep splines
        xi += tf.stop_gradient(tf.clip_by_value(xi, 0, 1) - xi)  # rounding at a knot must not stop the gradient
        mapped, log_slope = spline.at(xi, inverse)
        return tf.where(inside, mapped, b), tf.where(inside, log_slope, zero)

    def _bins_of(self, value, parameters, inverse):
        """Returns the bin of each value: of y if `inverse`, otherwise of x."""
        num = self._num_bins
        parameters = tf.reshape(parameters, tf.concat([tf.shape(value), [3 * num - 1]], 0))
        width_logits, height_logits, slopes = tf.split(parameters, [num, num, num - 1], axis=-1)
        slopes = _LEAST + tf.nn.softplus(slopes + _SLOPE_OFFSET)
        slopes = tf.pad(slopes, [*[[0, 0]] * value.shape.rank, [1, 1]], constant_values=1)
        widths = 2 * self._bound * (_LEAST + (1 - _LEAST * num) * tf.nn.softmax(width_logits))
        heights = 2 * self._bound * (_LEAST + (1 - _LEAST * num) * tf.nn.softmax(height_logits))
        x_starts = tf.cumsum(widths, axis=-1, exclusive=True) - self._bound
        y_starts = tf.cumsum(heights, axis=-1, exclusive=True) - self._bound
        starts = y_starts if inverse else x_starts
        index = tf.math.count_nonzero(starts <= value[..., tf.newaxis], axis=-1) - 1
        is_bin = tf.one_hot(index, num, dtype=value.dtype)
        of_bins = (x_starts, y_starts, widths, heights, slopes[..., :-1], slopes[..., 1:])
        return _SplineBin(*(tf.reduce_sum(is_bin * numbers, axis=-1) for numbers in of_bins))


class _SplineBin:
    """The bin of a rational-quadratic spline that each value is in, with the slopes at its start and end."""

    def __init__(self, x, y, width, height, start_slope, end_slope):
        self.x = x
        self.y = y
        self.width = width
        self.height = height
        self.start_slope = start_slope
        self.end_slope = end_slope
        self.mean_slope = height / width
        self.bend = start_slope + end_slope - 2 * height / width

    def position(self, x):
        """Returns xi of x: 0 at the start of the bin, and 1 at the end."""
        return (x - self.x) / self.width

    def inverse_position(self, y):
        """Returns xi of y, the root of a quadratic polynomial.

        From the nearer end of the bin, there is no cancellation at the end.
        """
        up = y - self.y
        is_high = up > self.height / 2
        up = tf.where(is_high, self.y + self.height - y, up)
        near_slope = tf.where(is_high, self.end_slope, self.start_slope)
        linear = self.height * near_slope - up * self.bend
        square = self.height * (self.mean_slope - near_slope) + up * self.bend
        discriminant = linear**2 + 4 * up * self.mean_slope * square
        root = tf.sqrt(tf.maximum(discriminant, (1e-7 * linear) ** 2))  # > 0 after rounding
        total = tf.abs(linear) + root
        falls = linear < 0  # decides between two forms, of which one has no cancellation
        xi = tf.where(falls, total, 2 * up * self.mean_slope) / tf.where(falls, 2 * square, total)
        return tf.where(is_high, 1 - xi, xi)

    def at(self, xi, inverse):
        """Returns y and the logarithm of the slope of the spline, or x and that of the inverse."""
        both = xi * (1 - xi)
        scale = self.mean_slope / (self.mean_slope + self.bend * both)
        slope = self.end_slope * xi**2 + 2 * self.mean_slope * both + self.start_slope * (1 - xi) ** 2
        log_slope = tf.math.log(slope) + 2 * tf.math.log(scale)
        if inverse:
            return self.x + self.width * xi, -log_slope
        return self.y + self.height * (xi**2 + self.start_slope * both / self.mean_slope) * scale, log_slope


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
      network: Built Keras layer or model that maps a condition `[condition_size]` to `[D (D + 3) / 2]`.
    """

    _why_unbounded = "The matrix of a conditional affine map is a function of the condition"

    def __init__(self, network: keras.Layer, *, name: str = "conditional_affine") -> None:
        parameters = dict(locals())
        (condition, *other_inputs), output = network_shapes(network)
        sizes = {size * (size + 3) // 2: size for size in range(1, 1 + output[-1])}
        if other_inputs or len(condition) != 1 or len(output) != 1 or output[0] not in sizes:
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
      network: Built Keras layer or model of x or of `[x, condition]`, for example from
        `tf_resflow.flows.autoregressive_network`.
      reverse: Whether to reverse the order of the coordinates: \\(x_{>i}\\) instead of \\(x_{<i}\\).

    Raises:
      ValueError: If the network is not autoregressive in this order.

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
        order = tf.range(size - 1, -1, -1) if self._reverse else tf.range(size)  # the step of each coordinate

        def find_next(i, x, _):
            shift, log_scale = self._shift_and_log_scale(x, network)
            x = tf.where(order <= i, tf.exp(-log_scale) * (y - shift), 0.0)
            return i + 1, tf.ensure_shape(x, y.shape), tf.reduce_sum(log_scale, -1)

        start = (0, tf.zeros_like(y), tf.zeros_like(y[..., 0]))
        _, x, log_det = tf.while_loop(lambda *_: True, find_next, start, maximum_iterations=size)
        return Pass(x, -log_det)

    def forward_with_density_gradient(self, x: tf.Tensor, gradient: tf.Tensor, networks: Networks) -> tuple | None:
        """Returns the same as the method of `ResidualBlock`, or None if the Jacobian is not known."""
        network = networks[self.network]
        if self.has_condition or not network.program.supports_jacobian:
            return None
        output, tangents = (tf.cast(value, x.dtype) for value in network.jacobian([x]))
        shift, r = tf.split(output, 2, -1)
        shift_jacobian, r_jacobian = tf.split(tf.transpose(tangents, [2, 0, 1]), 2, 1)
        half = tf.tanh(r / 2.0)
        scale = tf.exp(2.0 * half)
        log_scale_jacobian = (1.0 - half**2)[..., tf.newaxis] * r_jacobian
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
