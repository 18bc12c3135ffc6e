"""Views of a flow with another estimator, and the Lipschitz bounds of its residual blocks."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow._internal.typing import LogDet
from tf_resflow.bijectors.flow import modules, parts_by_name
from tf_resflow.bijectors.networks import bounded_norm
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.layers import lipschitz_constant

_REPLACEABLE = (tfb.Bijector, tfd.Distribution)
_Flow = TypeVar("_Flow", bound=tf.Module)


def with_log_det_estimator(flow: _Flow, log_det_estimator: LogDet) -> _Flow:
    """Returns a view of a bijector or distribution in which every `ResidualBlock` uses another estimator.

    The view shares the variables of the original, so training and evaluation can use different estimators.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    block = resflow.bijectors.ResidualBlock(branch)
    exact = resflow.bijectors.with_log_det_estimator(block, resflow.logdet.Exact())
    print(exact.branch is block.branch, type(exact.log_det_estimator).__name__)
    # True Exact
    ```

    Args:
      flow: A bijector or distribution, with blocks at any depth.
      log_det_estimator: A `tf_resflow.logdet` estimator, or a dict of estimators by block name. Repeated names are
        numbered: block, block_1. Blocks that are not in the dict keep their estimator.

    Returns:
      An object of the same type. Parts without residual blocks are not copied.

    Raises:
      ValueError: If `flow` is a joint distribution whose model contains functions, or holds blocks that are not
        among its constructor's arguments. Such blocks cannot be replaced.
    """
    if not isinstance(log_det_estimator, Mapping):
        return with_replaced(flow, ResidualBlock, lambda block: block.copy(log_det_estimator=log_det_estimator))
    blocks = blocks_by_name(flow)
    unknown = log_det_estimator.keys() - blocks.keys()
    if unknown:
        named = f"named {', '.join(sorted(unknown))}"
        raise ValueError(f"{flow.name} has no residual block {named}. Its blocks: {', '.join(blocks) or 'none'}.")
    estimators = {id(blocks[name]): estimator for name, estimator in log_det_estimator.items()}

    def copy(block):
        return block.copy(log_det_estimator=estimators.get(id(block), block.log_det_estimator))

    return with_replaced(flow, ResidualBlock, copy)


def blocks_by_name(flow: tf.Module) -> dict[str, ResidualBlock]:
    """Returns the `ResidualBlock`s in a bijector or distribution by name. Repeated names are numbered."""
    bijectors = parts_by_name(flow)
    return {name: bijector for name, bijector in bijectors.items() if isinstance(bijector, ResidualBlock)}


def uncertified_blocks(flow: tf.Module) -> dict[str, str]:
    """Returns the residual blocks whose `lipschitz_constant` cannot be verified, as a dict from name to reason."""
    reasons = {name: bounded_norm(block.branch)[1] for name, block in blocks_by_name(flow).items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def certified_bounds(flow: tf.Module, bound: Callable[..., Any] = lipschitz_constant) -> dict[str, float]:
    """Returns a rigorous upper bound on the Lipschitz constant of each residual branch, by block name.

    A bound is the product of the bounds of the layers and activations, for the current weights. Below 1, it proves
    that the block is invertible. Above 1, it proves nothing. It is infinite for blocks that cannot be verified.
    """
    return {name: certified_bound(block, bound) for name, block in blocks_by_name(flow).items()}


def certified_bound(block: ResidualBlock, bound: Callable[..., Any] = lipschitz_constant) -> float:
    """Returns the bound of one block, see `certified_bounds`."""
    _, reason = bounded_norm(block.branch)
    return math.inf if reason else float(bound(block.branch, certified=True))


def with_replaced(flow: _Flow, kind: type[tfb.Bijector], copy: Callable[[Any], Any]) -> _Flow:
    """Returns a view of a bijector or distribution with copies of its bijectors of a kind."""
    if not isinstance(flow, _REPLACEABLE):
        raise ValueError(f"Got a {type(flow).__name__}; expected a bijector or a distribution.")
    view = _replace(flow, kind, copy)
    originals = {id(member) for member in _of_kind(flow, kind)}
    missed = {member.name for member in _of_kind(view, kind) if id(member) in originals}
    if missed:
        raise ValueError(
            f"{flow.name} ({type(flow).__name__}) holds blocks that are not among its constructor's arguments: "
            f"{', '.join(sorted(missed))}. Build it from a view of the flow instead."
        )
    return view


def _of_kind(flow, kind):
    return [module for module in modules(flow) if isinstance(module, kind)]


def _replace(value, kind, copy):
    """Returns a value with copies of its bijectors of a kind, or the same object if it has none."""
    if isinstance(value, kind):
        return copy(value)
    if not isinstance(value, _REPLACEABLE):
        if not tf.nest.is_nested(value):
            return value
        views = tf.nest.map_structure(lambda leaf: _replace(leaf, kind, copy), value)
        pairs = zip(tf.nest.flatten(views), tf.nest.flatten(value), strict=True)
        return value if all(view is leaf for view, leaf in pairs) else views
    if isinstance(value, tfb.Bijector) and not _of_kind(value, kind):
        return value  # it may be built from the supports of a joint distribution with functions
    members = tf.nest.flatten(value.model) if isinstance(value, tfd.JointDistribution) else []
    if not all(isinstance(member, tfd.Distribution) for member in members):
        raise ValueError(
            f"{value.name} ({type(value).__name__}) is made of functions, in which blocks cannot be replaced. "
            "Build it from views of the distributions that the functions use."
        )
    views = {key: _replace(parameter, kind, copy) for key, parameter in value.parameters.items()}
    if all(view is value.parameters[key] for key, view in views.items()):
        return value
    # Not value.copy, because a distribution's copy keeps the original and its blocks among its submodules.
    return type(value)(**views)
