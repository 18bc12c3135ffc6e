"""Residual flows for vectors, such as points in the plane and rows of tables."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_resflow import bijectors
from tf_resflow._internal.typing import TensorLike
from tf_resflow.flows import networks
from tf_resflow.flows.branches import Activation, Norms, check_dense_net, dense_branch, dense_net_branch
from tf_resflow.flows.names import AFFINE_LAYERS, RESIDUAL_BLOCKS
from tf_resflow.flows.networks import DType, EventShape
from tf_resflow.layers.lipschitz_layer import COEFFICIENT
from tf_resflow.logdet import default_estimator


def vector_flow(
    event_shape: EventShape,
    num_blocks: int = 8,
    hidden: Sequence[int] = (64, 64, 64),
    *,
    block: str | Callable[..., bijectors.ResidualBlock] = bijectors.ResidualBlock,
    activation: Activation | None = None,
    coefficient: float = COEFFICIENT,
    norms: Norms = None,
    dense_net: tuple[int, int] | None = None,
    affine_layers: tuple[int, int] = (0, 0),
    affine: str | Callable[..., bijectors.FlowBijector] = bijectors.AffineAutoregressive,
    act_norm: bool = True,
    mean: TensorLike | None = None,
    std: TensorLike | None = None,
    condition_size: int | None = None,
    log_det_estimator: Callable[..., Any] | None = None,
    inverse_solver: Callable[..., Any] | None = None,
    lipschitz_constant: float | None = None,
    seed: int = 0,
    dtype: DType = None,
    name: str = "flow",
) -> bijectors.Flow:
    r"""Builds a flow of residual blocks and affine layers for vectors.

    An ActNorm comes before the first of them and after each of them. In a `tf_resflow.FlowModel`, `forward` maps
    data to latent.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=4, hidden=(32, 32))
    print(flow.forward(tf.zeros([5, 2]), seed=1).shape)
    # (5, 2)
    ```

    Args:
      event_shape: Size of a vector, or its shape.
      hidden: Widths of the inner layers of a block.
      block: "residual" or "monotone", or the class `tf_resflow.bijectors.ResidualBlock` or `MonotoneBlock`.
      activation: See `tf_resflow.flows.dense_branch`. The default is "cpila", or "lipswish" with `norms`.
      coefficient: See `tf_resflow.flows.dense_branch`, also for `norms` and `condition_size`.
      dense_net: `(depth, growth)` of a `dense_net_branch` in each block, instead of layers of `hidden` units.
      affine_layers: Numbers of affine layers before and after the blocks. Their networks have layers of `hidden`
        units, and the order of the coordinates alternates. A block with Lipschitz constant L stretches by at most
        \\(1 + L\\). An affine layer stretches by up to \\(e^2\\), by a different factor at each point. Affine
        layers work best next to the data: `(2, 0)` from data to latent, `(0, 2)` from latent to data.
      affine: `tf_resflow.bijectors.AffineAutoregressive`, whose inverse evaluates the network once per coordinate,
        or `tf_resflow.bijectors.AffineCoupling` or `SplineCoupling`, whose inverse evaluates it once. Give a class,
        its name, such as "spline_coupling", or `functools.partial(SplineCoupling, num_bins=16, bound=3.0)`.
      act_norm: Whether to add ActNorms.
      mean: Mean of the data. `mean` and `std` add a `Normalize` at the start of the flow.
      log_det_estimator: By default `tf_resflow.logdet.default_estimator` for training.
      inverse_solver: See the block, also for `lipschitz_constant`.
      dtype: Dtype policy, see `tf_resflow.flows.image_flow`.

    References:
      Chen et al. 2019, Section 5.1 and Appendix D (100 blocks of width 128, coefficient 0.9).
    """
    if not isinstance(num_blocks, (int, np.integer)) or isinstance(hidden, (int, np.integer)):
        advice = "Give a number of blocks and a sequence of widths, such as num_blocks=8, hidden=(64, 64)."
        raise ValueError(f"num_blocks is {num_blocks!r}, and hidden is {hidden!r}. {advice}")
    block_type = networks.bijector_of("block", block, RESIDUAL_BLOCKS)
    affine_type = networks.bijector_of("affine", affine, AFFINE_LAYERS)
    num_before, num_after = _numbers_of_affine_layers(affine_layers)
    (size,) = event_shape = networks.shape_of_event(event_shape, "a vector")
    policy = networks.network_policy(dtype)
    dtype = policy.variable_dtype
    seeds = np.random.default_rng(seed)
    if activation is None:
        activation = "cpila" if norms is None else "lipswish"
    log_det_estimator = log_det_estimator or default_estimator(size, "training")
    check_dense_net(dense_net, norms)

    def shared():
        return {"condition_size": condition_size, "seed": int(seeds.integers(2**31)), "dtype": policy.name}

    def make_block(i):
        options = dict(shared(), activation=activation, coefficient=coefficient)
        if dense_net is None:
            branch = dense_branch(event_shape, hidden, norms=norms, **options)
        else:
            branch = dense_net_branch(event_shape, *dense_net, **options)
        options = {"lipschitz_constant": lipschitz_constant, "has_condition": condition_size is not None}
        return block_type(branch, log_det_estimator, inverse_solver, **options, name=f"block{i}")

    def make_affine(i):
        is_odd = i % 2 == 1
        options = shared()
        if networks.is_coupling(affine_type):
            options["num_parameters"] = networks.num_parameters_of(affine_type)
            network = networks.dense_coupling_network(event_shape, hidden, **options)
            return affine_type(network, swap=is_odd, name=f"affine{i}")
        network = networks.autoregressive_network(event_shape, hidden, reverse=is_odd, **options)
        return affine_type(network, is_odd, name=f"affine{i}")

    blocks = list(map(make_block, range(num_blocks)))
    affines = list(map(make_affine, range(num_before + num_after)))
    members = [] if mean is None and std is None else [bijectors.Normalize(mean, std, dtype=dtype)]
    if act_norm:
        members.append(bijectors.ActNorm(event_shape, dtype=dtype, name="act_norm"))
    for member in [*affines[:num_before], *blocks, *affines[num_before:]]:
        members.append(member)
        if act_norm:
            members.append(bijectors.ActNorm(event_shape, dtype=dtype, name=f"{member.name}_act_norm"))
    return bijectors.Flow(members, name=name)


def _numbers_of_affine_layers(affine_layers):
    is_pair = isinstance(affine_layers, Sequence) and len(affine_layers) == 2
    if not is_pair or not all(isinstance(num, (int, np.integer)) and num >= 0 for num in affine_layers):
        raise ValueError(
            f"affine_layers is {affine_layers!r}. Give the numbers of layers before and after the blocks, such as "
            "affine_layers=(3, 0)."
        )
    return affine_layers
