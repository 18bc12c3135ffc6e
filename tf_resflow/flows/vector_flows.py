"""Residual flows on vectors: 2-D densities and tabular data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_resflow import bijectors
from tf_resflow.flows.branches import Norms, check_dense_net, dense_branch, dense_net_branch
from tf_resflow.flows.dtypes import DType, network_policy
from tf_resflow.typing import TensorLike

__all__ = ["vector_flow"]


def vector_flow(
    event_size: int,
    num_blocks: int = 16,
    hidden: Sequence[int] = (64, 64, 64),
    *,
    block: type[bijectors.ResidualBlock] = bijectors.ResidualBlock,
    activation: str = "lipswish",
    coefficient: float = 0.9,
    norms: Norms = None,
    normalization: str = "induced",
    dense_net: tuple[int, int] | None = None,
    act_norm: bool = True,
    mean: TensorLike | None = None,
    std: TensorLike | None = None,
    condition_size: int | None = None,
    log_det: Callable[..., Any] | None = None,
    inverse_solver: Callable[..., Any] | None = None,
    lipschitz_constant: float | None = None,
    seed: int = 0,
    dtype: DType = None,
    name: str = "flow",
) -> bijectors.Flow:
    """Residual blocks of dense layers, with an ActNorm before the first and after each.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=4, hidden=(32, 32))
    print(flow.forward(tf.zeros([5, 2]), seed=1).shape)
    # (5, 2)
    ```

    Args:
      event_size: number of coordinates.
      num_blocks: number of residual blocks.
      hidden: widths of the inner layers of a block.
      block: `tf_resflow.bijectors.ResidualBlock`, or `tf_resflow.bijectors.MonotoneBlock`.
      activation: as of `tf_resflow.flows.dense_branch`, like `coefficient`, `norms`, `normalization` and
        `condition_size`.
      dense_net: depth and growth of a `dense_net_branch` in each block, instead of layers of `hidden` units.
      act_norm: whether there are ActNorms.
      mean: with `std`, statistics of the data, for a `Normalize` in front.
      log_det: as of the block, like `inverse_solver` and `lipschitz_constant`.
      dtype: dtype policy, see `image_flow`.

    References:
      Chen et al. 2019, Section 5.1 and Appendix D (100 blocks of width 128, coefficient 0.9).
    """
    policy = network_policy(dtype)
    dtype = policy.variable_dtype
    seeds = np.random.default_rng(seed)
    members = [] if mean is None else [bijectors.Normalize(mean, std, dtype=dtype)]
    if act_norm:
        members.append(bijectors.ActNorm([event_size], dtype=dtype, name="act_norm"))
    options: dict[str, Any] = {"activation": activation, "coefficient": coefficient, "dtype": policy.name}
    options |= {"normalization": normalization, "condition_size": condition_size}
    if dense_net is not None:
        check_dense_net(dense_net, norms)

    def make_branch(seed):
        if dense_net is not None:
            return dense_net_branch([event_size], *dense_net, seed=seed, **options)
        return dense_branch([event_size], hidden, norms=norms, seed=seed, **options)

    for i in range(num_blocks):
        members.append(
            block(
                make_branch(int(seeds.integers(2**31))),
                log_det,
                inverse_solver,
                lipschitz_constant=lipschitz_constant,
                conditional=condition_size is not None,
                name=f"block{i}",
            )
        )
        if act_norm:
            members.append(bijectors.ActNorm([event_size], dtype=dtype, name=f"block{i}_act_norm"))
    return bijectors.Flow(members, name=name)
