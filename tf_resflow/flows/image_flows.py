"""The multiscale image flow of the paper, and functions that build its blocks."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_resflow import bijectors
from tf_resflow._internal.typing import TensorLike
from tf_resflow.flows import branches, networks
from tf_resflow.flows.branches import Activation, Norms
from tf_resflow.flows.names import COUPLINGS, RESIDUAL_BLOCKS
from tf_resflow.flows.networks import DType, EventShape
from tf_resflow.layers.lipschitz_layer import COEFFICIENT


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """The description of a block, which `image_flow` passes to its argument `block`."""

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
        return (self.width,) * (len(self.kernels) - 1)


BlockMaker = Callable[[BlockSpec], bijectors.FlowBijector]


def residual_image_block(
    block: str | Callable[..., bijectors.ResidualBlock] = bijectors.ResidualBlock,
    *,
    activation: Activation = "lipswish",
    coefficient: float = COEFFICIENT,
    norms: Norms = None,
    dense_net: tuple[int, int] | None = None,
    log_det_estimator: Callable[..., Any] | None = None,
    inverse_solver: Callable[..., Any] | None = None,
    lipschitz_constant: float | None = None,
) -> BlockMaker:
    """Returns a function that builds the residual blocks of `image_flow`.

    Blocks are pre-activated, except for the first block of the flow and DenseNets.

    Args:
      block: "residual" or "monotone", or the class `tf_resflow.bijectors.ResidualBlock` or `MonotoneBlock`.
      activation: See `tf_resflow.flows.dense_branch`, also for `coefficient` and `norms`.
      dense_net: `(depth, growth)` of a `dense_net_branch` to use instead of convolutions with `kernels`. The branch
        of a fully connected block has the same depth, a stem of `fc_width` units, and a growth of half of them, as
        in the published code.
      log_det_estimator: See the block, also for `inverse_solver` and `lipschitz_constant`.
    """
    block_type = networks.bijector_of("block", block, RESIDUAL_BLOCKS)
    branches.check_dense_net(dense_net, norms)

    def make(spec):
        options: dict[str, Any] = {"activation": activation, "coefficient": coefficient, "seed": spec.seed}
        options |= {"condition_size": spec.condition_size, "dtype": spec.dtype}
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
        return block_type(branch, log_det_estimator, inverse_solver, **options, name=spec.name)

    return make


def coupling_image_block(
    coupling: str | Callable[..., bijectors.couplings.Coupling] = bijectors.AffineCoupling,
) -> BlockMaker:
    """Returns a function that builds the couplings of `image_flow`.

    Their unconstrained networks have the kernels and widths of residual blocks. Events are split by a checkerboard
    in the first scale and by channels in the other scales. The two parts swap roles from one coupling to the next.

    Args:
      coupling: `tf_resflow.bijectors.AffineCoupling`, `AdditiveCoupling` or `SplineCoupling`, a name such as
        "spline_coupling", or a `functools.partial` of a class.
    """
    coupling_type = networks.bijector_of("coupling", coupling, COUPLINGS)
    if not networks.is_coupling(coupling_type):
        raise ValueError(f"coupling is {coupling!r}. Give one of the names {', '.join(COUPLINGS)}.")

    def make(spec):
        split = "channels" if spec.scale else "checkerboard"
        options: dict[str, Any] = {"split": split, "num_parameters": networks.num_parameters_of(coupling_type)}
        options |= {"condition_size": spec.condition_size, "seed": spec.seed, "dtype": spec.dtype}
        if spec.dense:
            network = networks.dense_coupling_network(spec.event_shape, spec.hidden, **options)
        else:
            network = networks.coupling_network(spec.event_shape, spec.width, spec.kernels, **options)
        return coupling_type(network, split=split, swap=spec.index % 2 == 1, name=spec.name)

    return make


def image_flow(
    event_shape: EventShape,
    num_blocks: Sequence[int] = (16, 16, 16),
    width: int = 512,
    *,
    kernels: Sequence[int] = (3, 1, 3),
    num_fc_blocks: int = 4,
    fc_width: int = 128,
    block: BlockMaker | str | None = None,
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
    """Builds a multiscale flow for images, whose `forward` maps data to latent.

    The flow has a logit, scales of convolutional blocks with squeezes between them, and fully connected blocks at
    the end of the last scale. An ActNorm, elementwise for fully connected blocks, follows each block, and another
    one comes before the first block.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((8, 8, 1), (1, 1), width=8, num_fc_blocks=1, fc_width=8)
    print(flow.forward_event_shape([8, 8, 1]))
    # (4, 4, 4)
    estimator = resflow.logdet.PowerSeries(5)
    block = resflow.flows.residual_image_block(activation="elu", log_det_estimator=estimator)
    flow = resflow.flows.image_flow((8, 8, 1), (1, 1), width=8, num_fc_blocks=0, block=block)
    ```

    Args:
      event_shape: `(H, W, C)` of images with values in [0, 1].
      num_blocks: Number of convolutional blocks at each scale.
      width: Number of channels inside a convolutional block.
      kernels: Kernel sizes of a block.
      num_fc_blocks: Number of fully connected blocks at the end.
      fc_width: Number of units inside a fully connected block.
      block: A name, such as "monotone" or "spline_coupling"; or a function that builds the blocks:
        `residual_image_block(...)`, the default; `coupling_image_block(...)`;
        or your own function from the description of a block to a bijector. A description has the attributes `name`;
        `event_shape`, `(H, W, C)` of the block's input and output; `dense`, whether it is fully connected; `width`;
        `kernels`; `hidden`, the widths of the inner layers of a fully connected block, which has one layer for each
        of `kernels`; `scale`, the index of its scale; `index`, its index in the scale; `seed`, an `int`; `dtype`,
        the name of the dtype policy of its network; and `condition_size`.
      act_norm: Whether to add ActNorms.
      inv_1x1_conv: Whether to add an `InvertibleConv1x1` before each convolutional block.
      logit_alpha: Parameter of the `Logit` at the start of the flow; `None` for no logit.
      mean: Mean per channel. With `logit_alpha=None`, `mean` and `std` add a `Normalize`, as in hybrid models.
      whiten: Whether to add an elementwise ActNorm and a `DCTConv` before the first block. They whiten photographs,
        which then need no logit. Keep the logit if some pixels are always black, as in MNIST.
      squeeze_first: Whether to squeeze before the first scale, for images larger than 32 x 32.
      factor_out: Whether to factor out half of the channels at each squeeze between scales.
      condition_size: Size of a condition vector, such as a one-hot label, or `None`.
      seed: `int` seed for the initial parameters.
      dtype: Dtype policy of the networks: "float32", "float64", or "mixed_bfloat16" for networks that compute in
        bfloat16 in training (see `tf_resflow.bijectors.Networks`). Parameters have the policy's variable dtype.
        `None` for Keras's global policy.

    Returns:
      A `Flow` from `[H, W, C]` to the shape of the last scale, or, with `factor_out` and several scales, a
      `MultiscaleFlow` from `[H, W, C]` to a vector.

    References:
      Chen et al. 2019, Section 5.2 and Appendix E. Its comparison of hybrid models includes couplings.
    """
    event_shape = networks.shape_of_event(event_shape, "an image")
    if isinstance(block, str) and block in RESIDUAL_BLOCKS | COUPLINGS:
        block = residual_image_block(block) if block in RESIDUAL_BLOCKS else coupling_image_block(block)
    make_block = residual_image_block() if block is None else block
    if isinstance(make_block, type) or not callable(make_block):
        names = ", ".join(RESIDUAL_BLOCKS | COUPLINGS)
        advice = "residual_image_block(...), coupling_image_block(...), or your own function of a description"
        raise ValueError(f"block is {block!r}. Give one of the names {names}, or {advice}.")
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
        return bijectors.Flow(list(itertools.chain.from_iterable(scales)), name=name)
    flows = [bijectors.Flow(members, name=f"scale{i}") for i, members in enumerate(scales)]
    return bijectors.MultiscaleFlow(flows, event_shape, name=name)


def _preprocessing(event_shape, logit_alpha, mean, std, whiten, squeeze_first, dtype):
    head = [] if mean is None and std is None else [bijectors.Normalize(mean, std, dtype=dtype)]
    if head and logit_alpha is not None:
        raise ValueError(f"mean and std replace the logit, but logit_alpha is {logit_alpha}. Set it to None.")
    if logit_alpha is not None:
        head.append(bijectors.Logit(logit_alpha))
    if whiten:
        head.append(bijectors.ActNorm(event_shape, per_channel=False, dtype=dtype, name="pixel_act_norm"))
        head.append(bijectors.DCTConv(event_shape, dtype=dtype))
    if squeeze_first:
        head.append(bijectors.Squeeze2D(name="squeeze_first"))
    return head
