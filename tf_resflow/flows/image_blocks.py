"""Makers of the blocks of image flows: residual blocks, and the couplings that the paper compares them with."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tf_resflow import bijectors
from tf_resflow.defaults import COEFFICIENT
from tf_resflow.flows.activations import Activation
from tf_resflow.flows.branches import Norms, check_dense_net, conv_branch, dense_branch, dense_net_branch
from tf_resflow.flows.networks import coupling_network, dense_coupling_network

__all__ = ["BlockMaker", "BlockSpec", "coupling_image_block", "residual_image_block"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """The description of a block that `image_flow` passes to its maker; see `image_flow`."""

    name: str
    event_shape: tuple[int, ...]
    width: int
    kernels: Sequence[int]
    dense: bool
    scale: int
    index: int
    seed: int
    dtype: str
    condition_size: int | None = None

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the inner layers of a fully connected block."""
        return (self.width,) * (len(self.kernels) - 1)


BlockMaker = Callable[[BlockSpec], bijectors.FlowBijector]


def residual_image_block(
    block: type[bijectors.ResidualBlock] = bijectors.ResidualBlock,
    *,
    activation: Activation = "lipswish",
    coefficient: float = COEFFICIENT,
    norms: Norms = None,
    normalization: str = "induced",
    dense_net: tuple[int, int] | None = None,
    log_det_estimator: Callable[..., Any] | None = None,
    inverse_solver: Callable[..., Any] | None = None,
    lipschitz_constant: float | None = None,
) -> BlockMaker:
    """Returns a maker of residual blocks, pre-activated except for the first block of the flow.

    Args:
      block: `tf_resflow.bijectors.ResidualBlock` or `tf_resflow.bijectors.MonotoneBlock`.
      activation: see `tf_resflow.flows.dense_branch`, as for `coefficient`, `norms` and `normalization`.
      dense_net: depth and growth of a `dense_net_branch`, which replaces the convolutions with `kernels` and the
        pre-activation. The branch of a fully connected block has the same depth, starts with a layer of `fc_width`
        units, and grows by half of them each time, as in the published code.
      log_det: see the block, as for `inverse_solver` and `lipschitz_constant`.

    Returns:
      A maker of blocks for `image_flow`.

    Raises:
      ValueError: for orders other than 2 with `dense_net`.
    """
    options: dict[str, Any] = {"activation": activation, "coefficient": coefficient}
    options["normalization"] = normalization
    if dense_net is not None:
        check_dense_net(norms)

    def make_branch(spec: BlockSpec) -> keras.Model:
        shared = {"seed": spec.seed, "dtype": spec.dtype, "condition_size": spec.condition_size, **options}
        if dense_net is not None and spec.dense:
            fully_connected: dict[str, Any] = {"kernel_size": None, "stem": spec.width}
            return dense_net_branch(spec.event_shape, dense_net[0], spec.width // 2, **fully_connected, **shared)
        if dense_net is not None:
            return dense_net_branch(spec.event_shape, *dense_net, **shared)
        if spec.dense:
            return dense_branch(spec.event_shape, spec.hidden, norms=norms, preactivation=True, **shared)
        is_first = spec.scale == spec.index == 0
        shared |= {"norms": norms, "preactivation": not is_first}
        return conv_branch(spec.event_shape, spec.width, spec.kernels, **shared)

    def make(spec: BlockSpec) -> bijectors.FlowBijector:
        return block(
            make_branch(spec),
            log_det_estimator=log_det_estimator,
            inverse_solver=inverse_solver,
            lipschitz_constant=lipschitz_constant,
            has_condition=spec.condition_size is not None,
            name=spec.name,
        )

    return make


def coupling_image_block(coupling: type[bijectors.couplings.Coupling] = bijectors.AffineCoupling) -> BlockMaker:
    """Returns a maker of couplings, whose unconstrained networks have the kernels and widths of residual blocks.

    The couplings split by a checkerboard in the first scale and by channels in the others. The two parts swap
    roles from each coupling to the next.

    Args:
      coupling: `tf_resflow.bijectors.AffineCoupling` or `tf_resflow.bijectors.AdditiveCoupling`.

    Returns:
      A maker of blocks for `image_flow`.
    """

    def make(spec: BlockSpec) -> bijectors.FlowBijector:
        split = "channels" if spec.scale else "checkerboard"
        options: dict[str, Any] = {"split": split, "num_parameters": coupling.num_parameters}
        options |= {"condition_size": spec.condition_size, "seed": spec.seed, "dtype": spec.dtype}
        if spec.dense:
            network = dense_coupling_network(spec.event_shape, spec.hidden, **options)
        else:
            network = coupling_network(spec.event_shape, spec.width, spec.kernels, **options)
        return coupling(network, split=split, swap=spec.index % 2 == 1, name=spec.name)

    return make
