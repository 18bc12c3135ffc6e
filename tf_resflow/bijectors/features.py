"""The values inside a flow, from the pass that gives the latent and the log-determinant."""

from typing import NamedTuple

import tensorflow as tf

from tf_resflow.bijectors.base import Context, run

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
    done = run(flow, x, Context(kwargs, log_det), event_ndims=x.shape.rank - 1)
    return Features(done.value, done.log_det, list(done.features))


def feature_shapes(flow, event_shape):
    """The shapes of the features of `forward_features`, without the batch.

    Args:
      flow: `Flow` or `MultiscaleFlow`.
      event_shape: shape of an event of the data.

    Returns:
      A list of tuples.
    """
    return flow.feature_shapes(event_shape)
