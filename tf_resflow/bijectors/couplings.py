"""Couplings, which map one part of an event elementwise, given the other part."""

import abc

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import Context, LipschitzConstants, Pass
from tf_resflow.bijectors.networks import bounded_norm, network_shapes
from tf_resflow.bijectors.parametrized import NetworkBijector


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
    `forward` maps data to latent, unlike in distrax and FlowJAX.

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
    as cheap as the forward pass. `forward` maps data to latent, unlike in distrax and FlowJAX.

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
