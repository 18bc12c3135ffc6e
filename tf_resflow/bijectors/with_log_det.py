"""The same flow under another estimator of the log-determinant, or another solver of the inverse."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import residual_blocks
from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["with_arguments", "with_inverse_solver", "with_log_det"]

_PARTS = (tfp.bijectors.Bijector, tfp.distributions.Distribution)


def with_log_det(flow, log_det):
    """Rebuilds a bijector or distribution with every `ResidualBlock` under another estimator.

    Variables are shared: this is a view, say for evaluation while training goes on.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    block = resflow.bijectors.ResidualBlock(branch)
    exact = resflow.bijectors.with_log_det(block, resflow.logdet.Exact())
    print(exact.branch is block.branch, type(exact.log_det).__name__)
    # True Exact
    ```

    Args:
      flow: a bijector or distribution, with blocks at any depth.
      log_det: a `tf_resflow.logdet` estimator.

    Returns:
      An object of the same type. Parts without blocks are the same objects, since their log-determinants are
      exact; so is all of a flow of couplings.

    Raises:
      ValueError: for what is neither bijector nor distribution, a joint distribution whose model has functions,
        and what holds blocks elsewhere than in the arguments that it was made of.
    """
    return with_arguments(flow, lambda block: {"log_det": log_det})


def with_inverse_solver(flow, inverse_solver):
    """Rebuilds a bijector or distribution with every `ResidualBlock` under another solver of the inverse.

    Variables are shared, as in `with_log_det`.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    loose = resflow.bijectors.with_inverse_solver(flow, resflow.solvers.FixedPoint(atol=1e-2))
    print(loose.forward([[0.1, 0.2]]).shape)
    # (1, 2)
    ```

    Args:
      flow: a bijector or distribution, at any depth of which there are blocks.
      inverse_solver: `tf_resflow.solvers.Anderson` or `FixedPoint`, or a callable like them.

    Returns:
      An object of the same type. Parts without blocks are the same objects.

    Raises:
      ValueError: as `with_log_det`.
    """
    return with_arguments(flow, lambda block: {"inverse_solver": inverse_solver})


def with_arguments(part, arguments):
    """A view of a bijector or distribution, in which a block has the arguments `arguments(block)`, a dict."""
    if not isinstance(part, _PARTS):
        raise ValueError(
            f"A view is of a bijector or a distribution; got {type(part).__name__}. Take those of the flow or the "
            "density in it."
        )
    view = _view(part, arguments)
    originals = {id(block) for block in residual_blocks(part)}
    left = {block.name for block in residual_blocks(view) if id(block) in originals}
    if left:
        raise ValueError(
            f"{part.name} ({type(part).__name__}) holds blocks elsewhere than in the arguments that it was made "
            f"of, where they cannot be replaced: {', '.join(sorted(left))}. Take the view of the flow first, and "
            "make this of it."
        )
    return view


def _view(part, arguments):
    if isinstance(part, ResidualBlock):
        return part.copy(**arguments(part))
    if not isinstance(part, _PARTS):
        return part
    _check_model(part)
    changes = {}
    for key, value in part.parameters.items():
        changed = _view_nest(value, arguments)
        if changed is not value:
            changes[key] = changed
    # Not part.copy: a distribution's copy keeps the original, blocks and all, among its submodules.
    return type(part)(**{**part.parameters, **changes}) if changes else part


def _view_nest(value, arguments):
    """`value` with the parts of a nest of it replaced; the same object where nothing changes."""
    parts = tf.nest.flatten(value)
    views = [_view(part, arguments) for part in parts]
    if all(view is part for view, part in zip(views, parts, strict=True)):
        return value
    return tf.nest.pack_sequence_as(value, views)


def _check_model(part):
    """Raises a ValueError for a joint distribution with functions, which may hold blocks that nobody sees."""
    if not isinstance(part, tfp.distributions.JointDistribution):
        return
    if not all(isinstance(member, tfp.distributions.Distribution) for member in tf.nest.flatten(part.model)):
        raise ValueError(
            f"{part.name} ({type(part).__name__}) is made of functions, in which blocks cannot be replaced. Take "
            "the view of the densities that they use, and make the joint distribution of these."
        )
