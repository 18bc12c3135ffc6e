"""The values inside a flow, from the pass that gives the latent and the log-determinant."""

from typing import NamedTuple

import tensorflow as tf

from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.squeeze_2d import Squeeze2D
from tf_resflow.bijectors.transform import transform

__all__ = ["Features", "feature_shapes", "forward_features"]


class Features(NamedTuple):
    """What one pass through a flow gives.

    Attributes:
      latent: the flow's output.
      log_det: log|det J|, of the batch shape or a scalar; None where it was not asked for.
      features: list of the values after each scale, first scale first.
    """

    latent: tf.Tensor
    log_det: tf.Tensor | None
    features: list[tf.Tensor]


def forward_features(flow, x, log_det=True, **kwargs):
    """The latent, the log-determinant and the values after each scale, each block evaluated once.

    The scales of a `MultiscaleFlow` are its flows; the value after one has all of its channels, those that leave
    and those that go on. A scale of a `Flow` ends with a `Squeeze2D` that some trained member precedes; the last
    one ends with the flow, and its value is the latent.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1, 1, 1), width=8, num_fc_blocks=0)
    x = tf.fill([5, 8, 8, 1], 0.5)
    latent, log_det, features = resflow.bijectors.forward_features(flow, x, seed=1)
    print(log_det.shape, [feature.shape[1:].as_list() for feature in features])
    # (5,) [[4, 4, 4], [2, 2, 16], [2, 2, 16]]
    ```

    Args:
      flow: `Flow` or `MultiscaleFlow`, data to latent.
      x: `[batch, *event]`.
      log_det: whether to compute the log-determinant; without it no residual block evaluates a series.
      **kwargs: `seed` and `conditional_input`, as for `flow.forward`.

    Returns:
      A `Features`.
    """
    x = tf.identity(tf.convert_to_tensor(x, flow.dtype))
    log_dets = []

    def step(member, x, **arguments):
        if not log_det:
            return transform(member, x, **arguments)
        y = member.forward(x, **arguments)
        log_dets.append(member.forward_log_det_jacobian(x, x.shape.rank - 1, **arguments))
        return y

    latent, features = _walk(flow, step, x, **kwargs)
    return Features(latent, sum(log_dets) if log_det else None, features)


def feature_shapes(flow, event_shape):
    """The shapes of the features of `forward_features`, without the batch.

    Args:
      flow: `Flow` or `MultiscaleFlow`.
      event_shape: shape of an event of the data.

    Returns:
      A list of tuples.
    """
    if isinstance(flow, MultiscaleFlow):
        return flow.output_shapes
    _, shapes = _walk(flow, lambda member, shape: member.forward_event_shape(shape), tf.TensorShape(event_shape))
    return [tuple(shape) for shape in shapes]


def _walk(flow, step, x, **kwargs):
    """Applies the members of a flow by `step`; the output, and the values after each scale."""
    if isinstance(flow, MultiscaleFlow):
        return flow.walk(step, x, **kwargs)
    ends, features = _ends_of_scales(flow), []

    def keep(member, x, **arguments):
        y = step(member, x, **arguments)
        if next(ends):
            features.append(y)
        return y

    return flow._walk_forward(keep, x, **kwargs), features


def _ends_of_scales(flow):
    """Whether a scale ends with a member, of each."""
    trained = False
    *members, _ = flow.bijectors
    for member in members:
        yield isinstance(member, Squeeze2D) and trained
        trained = trained or bool(member.trainable_variables)
    yield True
