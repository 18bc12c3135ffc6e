"""Passes through a flow that return features or solver diagnostics, or initialize the flow from data."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow._internal.typing import Seed, TensorLike
from tf_resflow.bijectors.base import Context, FlowBijector, _leaves, _needs_solver, pass_through
from tf_resflow.bijectors.flow import Flow, modules, route
from tf_resflow.bijectors.linear import ActNorm, DCTConv
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.preprocessing import Logit
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.solvers import Solution


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
      compute_log_det: Whether to compute the log-determinant.
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
      flow: A bijector from data to latent.
      z: `[batch, *latent]`.
      atol: Absolute tolerance for blocks with the default solver; by default the rounding error of their dtype.
      condition: The condition of conditional blocks.
      networks: The bound `Networks` of the flow, if available.

    Returns:
      The data, and a list with the `tf_resflow.solvers.Solution` of each block in the order of inversion.

    Raises:
      ValueError: If a block is inside a bijector with unknown members, such as `tfb.TransformDiagonal`.
    """

    def on_leaf(bijector, value, inverse):
        _check_reachable("inverse_with_solutions", bijector, lambda inner: isinstance(inner, ResidualBlock))

    arguments = _given(condition=condition, networks=networks)
    context = Context(arguments, compute_log_det=False, warning_threshold=None, atol=atol, on_leaf=on_leaf)
    result = pass_through(flow, z, context, inverse=True)
    return result.value, list(result.solutions)


def initialize(
    flow: tfb.Bijector | tfd.Distribution,
    batch: TensorLike,
    seed: Seed = None,
    *,
    condition: TensorLike | None = None,
) -> tf.Tensor:
    """Sets every `ActNorm` and `DCTConv` of a flow from the statistics of a batch, in order from data to latent.

    Call it once before training, outside of `strategy.run`; calls inside `strategy.scope()` are fine. Inside a
    `tfb.Invert`, data pass through the inverse of an `ActNorm`, so the inverse is set to normalize them.

    Args:
      flow: Bijector from data to latent; or the density of the data, a `tfd.TransformedDistribution`, also inside a
        `tfd.Independent` or `tfd.Sample`.
      batch: At least two dequantized examples `[batch, *event]` as the flow receives them, or a structure for a
        `tfb.JointMap`.
      seed: Seed of members that draw random numbers.
      condition: The condition of conditional blocks.

    Returns:
      The batch mapped to the latent space.

    Raises:
      ValueError: If the batch has fewer than two different examples; if it has NaN or infinite values, or the flow
        maps it to such values; if an `ActNorm` or `DCTConv` is inside a bijector with unknown members, such as
        `tfb.TransformDiagonal`; or if a TFP bijector such as `tfb.Invert(flow)` is given, because the `bijector` of
        a density maps latent to data.
    """
    if isinstance(flow, tfd.Distribution):
        flow = _data_to_latent(flow)
    if not isinstance(flow, tfb.Bijector) or isinstance(batch, (tfb.Bijector, tfd.Distribution)):
        advice = (
            "flow.initialize(batch)" if hasattr(flow, "initialize") else "initialize(flow, batch), in this order"
        )
        raise ValueError(f"flow is {flow!r:.100}, and batch is {batch!r:.100}. Call {advice}.")
    check_direction(flow)
    if tf.nest.is_nested(flow.forward_min_event_ndims):
        batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
    else:
        batch = tf.convert_to_tensor(batch, flow.dtype)
    tf.nest.map_structure(_check_batch, batch, flow.forward_min_event_ndims)
    changed = [name for name, is_changed in _changed(flow).items() if is_changed]
    if changed:
        warnings.warn(
            f"initialize replaces the values of {', '.join(changed)}, which were already initialized or trained. "
            "Call it once, before training. To train again, build a new flow.",
            stacklevel=2,
        )

    def on_leaf(bijector, x, inverse):
        _check_reachable("initialize", bijector, _is_set_from_data)
        _check_range(flow, batch, x)
        if _is_set_from_data(bijector):
            bijector.initialize(x, inverse)

    arguments = route(flow, _given(seed=seed, condition=condition))
    latent = pass_through(flow, batch, Context(arguments, compute_log_det=False, on_leaf=on_leaf)).value
    _check_range(flow, batch, latent)
    return latent


def check_direction(flow: tfb.Bijector) -> None:
    """Raises a ValueError if a TFP bijector inverts a flow, as the `bijector` of a density does."""
    inverted = [leaf.name for leaf, is_inverted in _leaves(flow) if is_inverted and isinstance(leaf, FlowBijector)]
    if inverted and not isinstance(flow, FlowBijector):
        raise ValueError(
            f"Got {flow.name} ({type(flow).__name__}), which applies the inverse of {', '.join(inverted)}. Give "
            "the bijector from data to latent; that of a density maps latent to data. Pass the flow itself, or the "
            "density to bijectors.initialize. If data do pass through the inverse, pass Flow([bijector])."
        )


def needs_initialization(flow: tf.Module) -> bool:
    """Whether a flow has ActNorms or DCTConvs, and all of them are still the identity."""
    changed = _changed(flow)
    return bool(changed) and not any(changed.values())


def _data_to_latent(density):
    """Returns the flow from the data of a distribution to its latents."""
    members: list[tfb.Bijector] = []
    distribution = density
    while any(map(_is_set_from_data, distribution.submodules)):
        if isinstance(getattr(distribution, "bijector", None), tfb.Bijector):
            members.append(tfb.Invert(distribution.bijector))
        elif not hasattr(distribution, "reinterpreted_batch_ndims") and not hasattr(distribution, "sample_shape"):
            raise ValueError(
                f"initialize cannot follow data through {distribution.name} ({type(distribution).__name__}). Give "
                "a tfd.TransformedDistribution, a tfd.Independent or tfd.Sample of one, or its flow."
            )
        distribution = distribution.distribution
    flow = Flow(members or [tfb.Identity()])
    if _needs_solver(flow, inverse=False):
        warnings.warn(
            f"The bijector of {density.name} maps latent to data by the forward method of a flow, so log_prob "
            "solves an equation for each block. If tfb.Invert was forgotten, build the density with it.",
            stacklevel=3,
        )
    return flow


def _changed(flow):
    """Returns whether each ActNorm and DCTConv of a flow, by name, is no longer the identity."""
    affine = [module for module in modules(flow) if isinstance(module, (ActNorm, DCTConv))]
    return {bijector.name: any(map(np.any, bijector.variables)) for bijector in affine}


def _check_batch(batch, event_ndims):
    """Raises a ValueError if a batch has no statistics, and warns of constant coordinates."""
    if not batch.dtype.is_floating:
        raise ValueError(f"The batch for initialize has the dtype {batch.dtype.name}. Give floating-point numbers.")
    if not bool(tf.reduce_all(tf.math.is_finite(batch))):
        raise ValueError("The batch for initialize has NaN or infinite values. Remove or replace them first.")
    event_shape = batch.shape[batch.shape.rank - event_ndims :]
    rows = np.reshape(batch, [-1, event_shape.num_elements()])
    is_constant = np.all(rows == rows[:1], axis=0)
    if len(rows) < 2 or np.all(is_constant):
        raise ValueError(
            f"The batch for initialize has {len(rows)} examples of shape {event_shape}, but needs at least two "
            "that differ. Give 64 or more if possible."
        )
    if np.any(is_constant):
        warnings.warn(
            f"{is_constant.sum()} of {is_constant.size} coordinates of the batch for initialize are constant, such "
            f"as number {np.argmax(is_constant)}. The density of such data is infinite. Remove these coordinates, "
            "or add noise to them.",
            stacklevel=3,
        )


def _check_range(flow, batch, x):
    """Raises a ValueError if a flow has mapped a batch to NaN or infinite values x."""
    if all(bool(tf.reduce_all(tf.math.is_finite(tensor))) for tensor in tf.nest.flatten(x)):
        return
    tensors = tf.nest.flatten(batch)
    low = min(map(np.min, tensors))
    high = max(map(np.max, tensors))
    advice = "Check the scale of the data."
    if any(isinstance(module, Logit) for module in modules(flow)):
        advice = "Its Logit needs values in [0, 1]: scale the data, or give integers and the levels= of FlowModel."
    raise ValueError(
        f"{flow.name} maps the batch, with values from {low:g} to {high:g}, to NaN or infinity. {advice}"
    )


def _is_set_from_data(module):
    return isinstance(module, FlowBijector) and hasattr(module, "initialize")


def _check_reachable(function, bijector, is_needed):
    """Raises a ValueError if a bijector contains a module that the function needs to reach."""
    hidden = [module.name for module in bijector.submodules if is_needed(module)]
    if hidden:
        raise ValueError(
            f"{function} cannot reach {', '.join(hidden)} inside {bijector.name}, because the members of a "
            f"{type(bijector).__name__} are not known. Move them out of it."
        )
