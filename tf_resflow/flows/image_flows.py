"""The paper's multi-scale flow on images, and the makers of its blocks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_resflow import bijectors
from tf_resflow.flows import branches, networks
from tf_resflow.flows.branches import Activation, Norms
from tf_resflow.flows.networks import DType, EventShape
from tf_resflow.layers.lipschitz_layer import COEFFICIENT
from tf_resflow.typing import TensorLike


@dataclasses.dataclass(frozen=True)
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
    condition_size: int | None

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
      log_det_estimator: see the block, as for `inverse_solver` and `lipschitz_constant`.

    Returns:
      A maker of blocks for `image_flow`.
    """
    branches.check_dense_net(dense_net, norms)

    def make(spec):
        options: dict[str, Any] = {"activation": activation, "coefficient": coefficient, "seed": spec.seed}
        options |= {"normalization": normalization, "condition_size": spec.condition_size, "dtype": spec.dtype}
        if dense_net is not None and spec.dense:
            options |= {"kernel_size": None, "stem": spec.width}
            branch = branches.dense_net_branch(spec.event_shape, dense_net[0], spec.width // 2, **options)
        elif dense_net is not None:
            branch = branches.dense_net_branch(spec.event_shape, *dense_net, **options)
        elif spec.dense:
            options |= {"norms": norms, "preactivation": True}
            branch = branches.dense_branch(spec.event_shape, spec.hidden, **options)
        else:
            options |= {"norms": norms, "preactivation": spec.scale > 0 or spec.index > 0}
            branch = branches.conv_branch(spec.event_shape, spec.width, spec.kernels, **options)
        options = {"lipschitz_constant": lipschitz_constant, "has_condition": spec.condition_size is not None}
        return block(branch, log_det_estimator, inverse_solver, **options, name=spec.name)

    return make


def coupling_image_block(coupling: type[bijectors.couplings.Coupling] = bijectors.AffineCoupling) -> BlockMaker:
    """Returns a maker of couplings, whose unconstrained networks have the kernels and widths of residual blocks.

    The couplings split by a checkerboard in the first scale and by channels in the others. The two parts swap
    roles from each coupling to the next.

    Args:
      coupling: `tf_resflow.bijectors.AffineCoupling` or `tf_resflow.bijectors.AdditiveCoupling`.
    """

    def make(spec):
        split = "channels" if spec.scale else "checkerboard"
        options: dict[str, Any] = {"split": split, "num_parameters": coupling.num_parameters}
        options |= {"condition_size": spec.condition_size, "seed": spec.seed, "dtype": spec.dtype}
        if spec.dense:
            network = networks.dense_coupling_network(spec.event_shape, spec.hidden, **options)
        else:
            network = networks.coupling_network(spec.event_shape, spec.width, spec.kernels, **options)
        return coupling(network, split=split, swap=spec.index % 2 == 1, name=spec.name)

    return make


def image_flow(
    event_shape: EventShape,
    num_blocks: Sequence[int] = (16, 16, 16),
    width: int = 512,
    *,
    kernels: Sequence[int] = (3, 1, 3),
    num_fc_blocks: int = 4,
    fc_width: int = 128,
    block: BlockMaker | None = None,
    act_norm: bool = True,
    inv_1x1_conv: bool = False,
    logit_alpha: float | None = 0.05,
    mean: TensorLike | None = None,
    std: TensorLike | None = None,
    whiten: bool = False,
    squeeze_first: bool = False,
    factor_out: bool = False,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
    name: str = "flow",
) -> bijectors.Flow | bijectors.MultiscaleFlow:
    """Builds a flow: a logit, scales of convolutional blocks with squeezes between them, fully connected blocks.

    An ActNorm follows each block, and another one comes before the first block. The fully connected blocks belong
    to the last scale, and their ActNorms are elementwise.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1, 1), width=8, num_fc_blocks=1, fc_width=8)
    print(flow.forward_event_shape([8, 8, 1]))
    # (4, 4, 4)
    block = resflow.flows.residual_image_block(activation="elu", log_det_estimator=resflow.logdet.PowerSeries(5))
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1, 1), width=8, num_fc_blocks=0, block=block)
    ```

    Args:
      event_shape: `(H, W, C)`, for values in [0, 1].
      num_blocks: number of convolutional blocks at each scale.
      width: number of channels inside a convolutional block.
      kernels: kernel sizes of a block.
      num_fc_blocks: number of fully connected blocks at the end.
      fc_width: number of units inside a fully connected block.
      block: maker of all blocks: `residual_image_block(...)`, the default; `coupling_image_block(...)`; or your own
        function from a description of a block to a bijector. The description has the attributes `name`;
        `event_shape`, `(H, W, C)` of the block's input and output; `dense`, whether it is fully connected; `width`;
        `kernels`; `hidden`, widths of the inner layers of a fully connected block, which has as many layers;
        `scale`, the index of its scale; `index`, its index in the scale; `seed`, an `int`; `dtype`, the name of the
        dtype policy of its network; and `condition_size`.
      act_norm: whether there are ActNorms.
      inv_1x1_conv: whether an `InvertibleConv1x1` comes before each convolutional block.
      logit_alpha: parameter of the `Logit` in front; `None` for no logit.
      mean: with `std`, per channel, for a `Normalize` in front (hybrid models have one instead of the logit).
      whiten: whether an elementwise ActNorm and a `DCTConv` come before the first block. Photographs then start
        white, and need no logit. (Keep the logit where pixels are always black, as in MNIST.)
      squeeze_first: whether a squeeze comes before the first scale (images above 32 x 32).
      factor_out: whether half of the channels leave at each squeeze between scales.
      condition_size: size of a condition vector, such as a one-hot label, or `None`.
      seed: `int`, of the initial parameters.
      dtype: dtype policy of the networks: "float32", "float64", or "mixed_bfloat16" for networks that compute in
        bfloat16 in training (see `tf_resflow.bijectors.Networks`). The parameters have its variable dtype.
        `None` for Keras' global policy.

    Returns:
      A `Flow` from `[H, W, C]` to the last scale's shape; with `factor_out` a `MultiscaleFlow` to a vector.

    References:
      Chen et al. 2019, Section 5.2 and Appendix E; couplings in its comparison of hybrid models.
    """
    event_shape = networks.shape_of_event(event_shape, "an image")
    make_block = residual_image_block() if block is None else block
    policy = networks.network_policy(dtype)
    dtype = policy.variable_dtype
    generator = np.random.default_rng(seed)

    def next_seed():
        return int(generator.integers(2**31))

    def scale_members(scale, shape, num_fc_blocks):
        members = []
        for index in range(num_blocks[scale] + num_fc_blocks):
            dense = index >= num_blocks[scale]
            name = f"fc_block{index - num_blocks[scale]}" if dense else f"scale{scale}_block{index}"
            if inv_1x1_conv and not dense:
                options = {"seed": next_seed(), "dtype": dtype, "name": f"{name}_conv_1x1"}
                members.append(bijectors.InvertibleConv1x1(shape[-1], **options))
            size = fc_width if dense else width
            shared = {"seed": next_seed(), "dtype": policy.name, "condition_size": condition_size}
            members.append(make_block(BlockSpec(name, shape, size, kernels, dense, scale, index, **shared)))
            if act_norm:
                options = {"per_channel": not dense, "dtype": dtype, "name": f"{name}_act_norm"}
                members.append(bijectors.ActNorm(shape, **options))
        return members

    head = _preprocessing(event_shape, logit_alpha, mean, std, whiten, squeeze_first, dtype)
    shape = tuple(bijectors.Flow(head).forward_event_shape(event_shape)) if head else event_shape
    if act_norm:
        head.append(bijectors.ActNorm(shape, dtype=dtype, name="act_norm"))
    scales = []
    for i in range(len(num_blocks) - 1):
        squeeze = bijectors.Squeeze2D(name=f"scale{i}_squeeze")
        scales.append([*scale_members(i, shape, 0), squeeze])
        shape = tuple(squeeze.forward_event_shape(shape))
        if factor_out:
            shape = (*shape[:-1], shape[-1] // 2)
    scales.append(scale_members(len(num_blocks) - 1, shape, num_fc_blocks))
    scales[0] = head + scales[0]
    if not factor_out or len(scales) == 1:
        return bijectors.Flow([member for members in scales for member in members], name=name)
    flows = [bijectors.Flow(members, name=f"scale{i}") for i, members in enumerate(scales)]
    return bijectors.MultiscaleFlow(flows, event_shape, name=name)


def _preprocessing(event_shape, logit_alpha, mean, std, whiten, squeeze_first, dtype):
    head = [] if mean is None and std is None else [bijectors.Normalize(mean, std, dtype=dtype)]
    if head and logit_alpha is not None:
        raise ValueError("mean and std replace the logit: give logit_alpha=None.")
    if logit_alpha is not None:
        head.append(bijectors.Logit(logit_alpha))
    if whiten:
        head.append(bijectors.ActNorm(event_shape, per_channel=False, dtype=dtype, name="pixel_act_norm"))
        head.append(bijectors.DCTConv(event_shape, dtype=dtype))
    if squeeze_first:
        head.append(bijectors.Squeeze2D(name="squeeze_first"))
    return head
