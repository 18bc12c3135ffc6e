"""Multi-scale architecture, which factors out half of the channels at each scale."""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector, Pass, pass_through_members
from tf_resflow.bijectors.flow import Flow, by_name, check_distinct_names, route_members
from tf_resflow.typing import Shape


class MultiscaleFlow(FlowBijector):
    """Composes flows, and factors out half of the channels after each flow but the last.

    `forward` maps data to latent, unlike in distrax and FlowJAX: `[H, W, C]` to a vector of the same size. After
    flow i, the first half of the channels goes on to flow i + 1, and the second half is factored out. The latent
    concatenates the factored-out channels, scale by scale, and the output of the last flow, each flattened.

    Args:
      flows: list of at least two `Flow`s on images. All but the last must end in an even number of channels.
      event_shape: `[H, W, C]` of the data.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.6.
    """

    def __init__(self, flows: Sequence[Flow], event_shape: Shape, *, name: str = "multiscale_flow") -> None:
        parameters = dict(locals())
        self.flows = self._no_dependency(list(flows))
        check_distinct_names(flows)
        self._flows = by_name(flows)
        self._members = self._no_dependency(by_name(flows))
        self._input_shape = tf.TensorShape(event_shape).with_rank(3)
        self._final_shapes = self._no_dependency(_final_shapes(flows, self._input_shape))
        ndims = {"forward_min_event_ndims": 3, "inverse_min_event_ndims": 1}
        super().__init__(**ndims, dtype=flows[0].dtype, parameters=parameters, name=f"{name}/")

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from data to latent. Its features are the outputs of the flows with all channels."""
        return pass_through_members(self, x, context, False, 3)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return pass_through_members(self, y, context, True, 3)

    def _walk_forward(self, step_fn, x, **kwargs):
        routed = route_members(self, self._members, kwargs)
        *_, last = self._members
        final = []
        for (key, flow), shape in zip(self._members.items(), self._final_shapes, strict=True):
            y = step_fn(flow, x, **routed[key])
            if key != last:
                x, y = tf.split(y, 2, axis=-1)
            final.append(tf.reshape(y, tf.concat([tf.shape(y)[:-3], [np.prod(shape)]], 0)))
        return tf.concat(final, axis=-1)

    def _walk_inverse(self, step_fn, y, **kwargs):
        routed = route_members(self, self._members, kwargs)
        parts = tf.split(y, [int(np.prod(shape)) for shape in self._final_shapes], axis=-1)
        x = None
        scales = list(zip(self._members.items(), parts, self._final_shapes, strict=True))
        for (key, flow), part, shape in reversed(scales):
            part = tf.reshape(part, tf.concat([tf.shape(part)[:-1], shape], 0))
            x = step_fn(flow, part if x is None else tf.concat([x, part], axis=-1), **routed[key])
        return x

    def feature_shapes(self, event_shape: Shape) -> list[tuple[int | None, ...]]:
        """Returns the shapes of the features of `forward_features` for this event shape, without the batch axis."""
        self._input_shape.assert_is_compatible_with(event_shape)
        *halved, last = self._final_shapes
        return [(*shape[:-1], 2 * shape[-1]) for shape in halved] + [tuple(last)]

    def _compose(self, constants):
        """Counts the rest of the flow as at least 1, because it leaves the factored-out channels unchanged."""
        return functools.reduce(lambda rest, constant: constant * max(1.0, rest), reversed(constants), 0.0)

    def _forward_event_shape(self, shape):
        return shape[:-3].concatenate([self._input_shape.num_elements()])

    def _inverse_event_shape(self, shape):
        return shape[:-1].concatenate(self._input_shape)

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-3], [self._input_shape.num_elements()]], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], self._input_shape.as_list()], 0)


def _final_shapes(flows, shape):
    shapes = []
    for flow in flows:
        shape = flow.forward_event_shape(shape)
        if flow is not flows[-1]:
            if shape[-1] % 2:
                raise ValueError(f"{flow.name} ends in {shape[-1]} channels, which is odd. End it with Squeeze2D.")
            shape = tf.TensorShape([*shape[:-1], shape[-1] // 2])
        shapes.append(shape.as_list())
    return shapes
