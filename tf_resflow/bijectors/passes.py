"""Passes through a flow that return features or solver diagnostics, or initialize the flow from data."""

from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_resflow.bijectors.base import Context, FlowBijector, pass_through
from tf_resflow.bijectors.flow import route
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.solvers import Solution
from tf_resflow.typing import Seed, TensorLike


class _Features(NamedTuple):
    latent: tf.Tensor
    log_det: tf.Tensor | None
    features: list[tf.Tensor]


def forward_features(flow: FlowBijector, x: TensorLike, compute_log_det: bool = True, **kwargs: Any) -> _Features:
    """Returns the latent, the log-determinant and the values after each scale, evaluating each block once.

    The scales of a `MultiscaleFlow` are its flows, and the values include the channels that are then factored out.
    In a `Flow`, a scale ends at each `Squeeze2D` that follows a trained member, and at the end of the flow.

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
      compute_log_det: whether to compute the log-determinant.
      **kwargs: `seed` and `condition`, as for `flow.forward`.

    Returns:
      A named tuple of `latent`, `log_det` (log|det J|, or None) and `features`, a list of the values after each
      scale.
    """
    x = tf.identity(tf.convert_to_tensor(x, flow.dtype))
    result = pass_through(flow, x, Context(kwargs, compute_log_det), event_ndims=x.shape.rank - 1)
    return _Features(result.value, result.log_det, list(result.features))


def _given(**arguments):
    return {name: value for name, value in arguments.items() if value is not None}


def inverse_with_solutions(
    flow: tfb.Bijector,
    z: TensorLike,
    *,
    atol: float = 0.0,
    condition: TensorLike | None = None,
    networks: Networks | None = None,
) -> tuple[tf.Tensor, list[Solution]]:
    """Returns `flow.inverse(z)` with the solver's diagnostics instead of warnings.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=3, hidden=(8,))
    x, solutions = resflow.bijectors.inverse_with_solutions(flow, [[0.1, 0.2]])
    print(x.shape, len(solutions), all(solution.converged for solution in solutions))
    # (1, 2) 3 True
    ```

    Args:
      flow: a bijector from data to latent.
      z: `[batch, *latent]`.
      atol: absolute tolerance for blocks with the default solver; by default the rounding error of their dtype.
      condition: the condition of conditional blocks.
      networks: the bound `Networks` of the flow, if available.

    Returns:
      The data, and a list with the `tf_resflow.solvers.Solution` of each block in the order of inversion.

    Raises:
      ValueError: if a block is inside a bijector with unknown members, such as `tfb.TransformDiagonal`.
    """

    def on_leaf(bijector, value, inverse):
        _check_reachable("inverse_with_solutions", bijector, lambda part: isinstance(part, ResidualBlock))

    arguments = _given(condition=condition, networks=networks)
    context = Context(arguments, compute_log_det=False, warning_threshold=None, atol=atol, on_leaf=on_leaf)
    result = pass_through(flow, z, context, inverse=True)
    return result.value, list(result.solutions)


def initialize(
    flow: tfb.Bijector, batch: TensorLike, seed: Seed = None, *, condition: TensorLike | None = None
) -> tf.Tensor:
    """Sets every `ActNorm` and `DCTConv` of a flow from the statistics of a batch, in order from data to latent.

    Call it once before training, outside of `strategy.run`; calls inside `strategy.scope()` are fine. Inside a
    `tfb.Invert`, data pass through the inverse of an `ActNorm`, so the inverse is set to normalize them.

    Args:
      flow: bijector from data to latent.
      batch: dequantized data `[batch, *event]` as the flow receives them, or a structure for a `tfb.JointMap`.
      seed: seed of members that draw random numbers.
      condition: the condition of conditional blocks.

    Returns:
      The batch mapped to the latent space.

    Raises:
      ValueError: if the batch has NaN or infinite values, or an `ActNorm` or `DCTConv` is inside a bijector with
        unknown members, such as `tfb.TransformDiagonal`.
    """
    if tf.nest.is_nested(flow.forward_min_event_ndims):
        batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
    else:
        batch = tf.convert_to_tensor(batch, flow.dtype)
    if not all(bool(tf.reduce_all(tf.math.is_finite(part))) for part in tf.nest.flatten(batch)):
        raise ValueError("The batch for initialize has NaN or infinite values. Remove or replace them first.")
    arguments = route(flow, _given(seed=seed, condition=condition))
    return pass_through(flow, batch, Context(arguments, compute_log_det=False, on_leaf=_initialize)).value


def _initialize(bijector, x, inverse):
    _check_reachable("initialize", bijector, _is_set_from_data)
    if _is_set_from_data(bijector):
        bijector.initialize(x, inverse)


def _is_set_from_data(part):
    return isinstance(part, FlowBijector) and hasattr(part, "initialize")


def _check_reachable(function, bijector, is_needed):
    """Raises a ValueError if a bijector contains a part that the function needs to reach."""
    if hidden := [part.name for part in bijector.submodules if is_needed(part)]:
        raise ValueError(
            f"{function} cannot reach {', '.join(hidden)} inside {bijector.name}, because the members of a "
            f"{type(bijector).__name__} are not known. Move them out of it."
        )
