"""The base of the couplings: one part of an event is mapped elementwise, as the other part says."""

import abc

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import FlowBijector, Pass
from tf_resflow.bijectors.networks import (
    adopt,
    check_built,
    check_event,
    from_rows,
    input_shapes,
    parameter_dtype,
    to_rows,
)

__all__ = ["Coupling"]


class Coupling(FlowBijector):
    r"""`y_a = x_a`, `y_b = exp(s(x_a)) x_b + t(x_a)` for the two parts a and b of an event.

    \\(\log|\det J| = \sum_i s_i(x_a)\\): the Jacobian is triangular. The inverse is as cheap as the forward pass,
    whatever the network is. Value and log-determinant come from one evaluation of it.

    The shape of an event follows from the network, which takes a and returns `num_parameters` values for each
    element of b:

    - `split="channels"`: a is the first channels of an image or the first coordinates of a vector, b the rest.
    - `split="checkerboard"`, for images: a is the pixels whose row + column is even. The network takes the image
      with zeros in the place of b, and returns values for all of its elements; those of a are left out.

    A subclass sets `num_parameters`, and turns the network's output into t and s.

    Args:
      network: built Keras layer or model.
      split: "channels" or "checkerboard".
      swap: whether a is the last channels, or the pixels whose row + column is odd.
      name: `str`, a key of checkpoints: see `Flow`, which numbers members of one name.

    Raises:
      ValueError: when the network is not built, or its output does not fit its input and the split.
    """

    _default_name = "coupling"
    num_parameters: int

    def __init__(self, network, split="channels", swap=False, name=None):
        name = name or self._default_name
        parameters = dict(locals())
        if split not in ("channels", "checkerboard"):
            raise ValueError(f"split is 'channels' or 'checkerboard'; got {split!r}.")
        self._network = self._no_dependency(network)
        self._split, self._swap = split, swap
        self._num_given, self._num_mapped, self._event_shape = _sizes(network, split, self.num_parameters)
        self._network_variables = adopt(network)
        super().__init__(
            forward_min_event_ndims=self._event_shape.rank,
            dtype=parameter_dtype(network),
            parameters=parameters,
            name=f"{name}/",
        )

    @property
    def keras_parts(self):
        """The network."""
        return self._network

    @property
    def network(self):
        """The Keras layer or model."""
        return self._network

    @abc.abstractmethod
    def _shift_and_log_scale(self, output):
        """The shift t and the log-scale s, from the network's output."""

    def run(self, x, context):
        """The `Pass` from x, data to latent."""
        context.take(self.name)
        given, mapped = self._divide(x)
        shift, log_scale = self._evaluate(given)
        return Pass(self._unite(given, tf.exp(log_scale) * mapped + shift), self._sum(log_scale))

    def undo(self, y, context):
        """The `Pass` from y, latent to data."""
        context.take(self.name)
        given, mapped = self._divide(y)
        shift, log_scale = self._evaluate(given)
        return Pass(self._unite(given, tf.exp(-log_scale) * (mapped - shift)), -self._sum(log_scale))

    def _sum(self, log_scale):
        return tf.reduce_sum(log_scale, axis=list(range(-self._event_shape.rank, 0)))

    def _divide(self, x):
        """The parts a and b; of a checkerboard, images with zeros in the place of the other part."""
        check_event(f"{self.name} maps events", self._event_shape, x)
        if self._split == "checkerboard":
            mask = self._mask(x)
            return (1 - mask) * x, mask * x
        if self._swap:
            mapped, given = tf.split(x, [self._num_mapped, self._num_given], axis=-1)
        else:
            given, mapped = tf.split(x, [self._num_given, self._num_mapped], axis=-1)
        return given, mapped

    def _unite(self, given, mapped):
        if self._split == "checkerboard":
            return given + mapped
        return tf.concat([mapped, given] if self._swap else [given, mapped], axis=-1)

    def _mask(self, x):
        """1 at the pixels of b, 0 at those of a: `[H, W, 1]`."""
        height, width = tf.unstack(tf.shape(x)[-3:-1])
        odd = (tf.range(height)[:, tf.newaxis] + tf.range(width)) % 2
        odd = tf.cast(odd, x.dtype)[..., tf.newaxis]
        return 1 - odd if self._swap else odd

    def _evaluate(self, given):
        """The shift and the log-scale of each element; zero where nothing is mapped."""
        rank = self._event_shape.rank
        batch_shape = tf.shape(given)[: given.shape.rank - rank]
        output = from_rows(self._network(to_rows(given, batch_shape, rank)), batch_shape)
        output = tf.ensure_shape(output, [*given.shape[:-1], self.num_parameters * self._num_mapped])
        shift, log_scale = self._shift_and_log_scale(tf.cast(output, given.dtype))
        if self._split == "checkerboard":
            mask = self._mask(given)
            return mask * shift, mask * log_scale
        return shift, log_scale


def _sizes(network, split, num_parameters):
    """Channels that the network takes, channels that are mapped, and the shape of an event."""
    check_built(network)
    shapes = input_shapes(network)
    if len(shapes) != 1:
        raise ValueError(
            f"The network of a coupling has one input of a known shape; {network.name!r} tells {len(shapes)}. "
            "Build it as keras.Sequential([keras.Input(shape), ...])."
        )
    shape = shapes[0][1:]
    spec = keras.KerasTensor((None, *shape), dtype=parameter_dtype(network).name)
    output = tuple(network.compute_output_spec(spec).shape)[1:]
    mapped, rest = divmod(output[-1], num_parameters)
    fits = output[:-1] == shape[:-1] and mapped > 0 and rest == 0
    if split == "checkerboard":
        fits = fits and len(shape) == 3 and mapped == shape[-1]
        wanted = f"an image [H, W, C] to [H, W, {num_parameters} C]"
    else:
        wanted = f"[..., C_a] to [..., {num_parameters} C_b], where an event is [..., C_a + C_b]"
    if not fits:
        raise ValueError(
            f"The network maps {shape} to {output}. With split={split!r} and {num_parameters} parameter(s) for "
            f"each element it is to map {wanted}."
        )
    channels = mapped if split == "checkerboard" else shape[-1] + mapped
    return shape[-1], mapped, tf.TensorShape([*shape[:-1], channels])
