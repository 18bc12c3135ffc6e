"""The paper's multi-scale flow on images: of residual blocks, or of the couplings that it compares them with."""

import numpy as np

from tf_resflow import bijectors
from tf_resflow.flows.branches import (
    conv_branch,
    coupling_network,
    dense_branch,
    dense_coupling_network,
)

__all__ = ["image_flow"]

_COUPLINGS = {
    "affine_coupling": bijectors.AffineCoupling,
    "additive_coupling": bijectors.AdditiveCoupling,
}


def image_flow(
    event_shape,
    num_blocks=(16, 16, 16),
    width=512,
    kernels=(3, 1, 3),
    num_fc_blocks=4,
    fc_width=128,
    activation="lipswish",
    coefficient=0.98,
    norms=None,
    act_norm=True,
    logit_alpha=0.05,
    mean=None,
    std=None,
    squeeze_first=False,
    factor_out=False,
    block="residual",
    inv_1x1_conv=False,
    log_det=None,
    inverse_solver=None,
    lipschitz_constant=None,
    seed=0,
    dtype="float32",
):
    """Logit, then scales of convolutional blocks with a squeeze between them, then fully connected blocks.

    Each block is followed by an ActNorm; one more ActNorm comes before the first block. The fully connected
    blocks belong to the last scale and are normalised element by element. Residual blocks are pre-activated,
    but for the very first.

    With couplings in the place of the residual blocks this is the trunk of the paper's comparison. Their networks
    have the same kernels and widths, no constraint, and ReLU. They split by a checkerboard in the first scale and
    by channels in the others; from each to the next the parts change places.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1, 1), width=8, num_fc_blocks=1, fc_width=8)
    print(flow.forward_event_shape([8, 8, 1]))
    # (4, 4, 4)
    ```

    Args:
      event_shape: `(H, W, C)`, values in [0, 1].
      num_blocks: number of convolutional blocks at each scale.
      width: channels inside a convolutional block.
      kernels: kernel sizes of a block.
      num_fc_blocks: fully connected blocks at the end.
      fc_width: their width.
      activation: a key of `tf_resflow.flows.ACTIVATIONS`.
      coefficient: Lipschitz bound of each layer.
      norms: orders of the norms before, between and after the layers of a block; `None` for 2; "learned" for
        orders that each block learns.
      act_norm: whether there are ActNorms.
      logit_alpha: of the `Logit` in front; `None` for none.
      mean: with `std`, per channel, for a `Normalize` in front (hybrid models have one instead of the logit).
      std: see `mean`.
      squeeze_first: whether a squeeze comes before the first scale (images above 32 x 32).
      factor_out: whether half of the channels leave at each squeeze between scales.
      block: "residual", "affine_coupling" or "additive_coupling". Couplings have no use for `activation`,
        `coefficient`, `norms`, `log_det`, `inverse_solver` and `lipschitz_constant`.
      inv_1x1_conv: whether an `InvertibleConv1x1` comes before each convolutional block.
      log_det: estimator of the residual blocks.
      inverse_solver: solver of the residual blocks.
      lipschitz_constant: bound of each residual branch, on trust; `None`: the product of its coefficients.
      seed: `int`, of the parameters.
      dtype: of the parameters.

    Returns:
      A `Flow` from `[H, W, C]` to the last scale's shape; with `factor_out` a `MultiscaleFlow` to a vector.

    Raises:
      ValueError: for an unknown block, or when the height or width cannot be halved as often as the scales ask for.

    References:
      Chen et al. 2019, Section 5.2 and Appendix E; couplings in its comparison of hybrid models.
    """
    if block == "residual":
        options = {"activation": activation, "coefficient": coefficient, "norms": norms, "dtype": dtype}
        block_options = {
            "log_det": log_det,
            "inverse_solver": inverse_solver,
            "lipschitz_constant": lipschitz_constant,
        }
        make_block = _residual_block(width, kernels, fc_width, options, block_options)
    elif block in _COUPLINGS:
        make_block = _coupling(_COUPLINGS[block], width, kernels, fc_width, dtype)
    else:
        raise ValueError(f"block is one of 'residual', {', '.join(map(repr, _COUPLINGS))}; got {block!r}.")
    make_scale = _scale(make_block, act_norm, inv_1x1_conv, seed, dtype)
    head = _preprocessing(logit_alpha, mean, std, squeeze_first, dtype)
    shape = tuple(bijectors.Flow(head).forward_event_shape(event_shape) if head else event_shape)
    if act_norm:
        head.append(bijectors.ActNorm(shape, dtype=dtype, name="act_norm"))
    scales = []
    for i, count in enumerate(num_blocks):
        last = i == len(num_blocks) - 1
        members = make_scale(i, shape, count, num_fc_blocks if last else 0)
        if not last:
            squeeze = bijectors.Squeeze2D(name=f"scale{i}_squeeze")
            members.append(squeeze)
            shape = tuple(squeeze.forward_event_shape(shape))
            if factor_out:
                shape = (*shape[:-1], shape[-1] // 2)
        scales.append(members)
    scales[0] = head + scales[0]
    if not factor_out or len(scales) == 1:
        return bijectors.Flow([member for members in scales for member in members])
    flows = [bijectors.Flow(members, name=f"scale{i}") for i, members in enumerate(scales)]
    return bijectors.MultiscaleFlow(flows, event_shape)


def _preprocessing(logit_alpha, mean, std, squeeze_first, dtype):
    head = []
    if mean is not None:
        head.append(bijectors.Normalize(mean, std, dtype=dtype))
    if logit_alpha is not None:
        head.append(bijectors.Logit(logit_alpha))
    if squeeze_first:
        head.append(bijectors.Squeeze2D(name="squeeze_first"))
    return head


def _scale(make_block, act_norm, inv_1x1_conv, seed, dtype):
    """A function that makes the members of one scale, convolutional blocks before fully connected ones."""
    seeds = np.random.default_rng(seed)

    def next_seed():
        return int(seeds.integers(2**31))

    def make(scale, shape, num_blocks, num_fc_blocks):
        members = []
        for index in range(num_blocks + num_fc_blocks):
            dense = index >= num_blocks
            name = f"fc_block{index - num_blocks}" if dense else f"scale{scale}_block{index}"
            if inv_1x1_conv and not dense:
                conv = bijectors.InvertibleConv1x1(shape[-1], next_seed(), dtype, name=f"{name}_conv_1x1")
                members.append(conv)
            members.append(make_block(shape, scale, index, dense, next_seed(), name))
            if act_norm:
                members.append(bijectors.ActNorm(shape, not dense, dtype, name=f"{name}_act_norm"))
        return members

    return make


def _residual_block(width, kernels, fc_width, options, block_options):
    """A function that makes the residual blocks."""

    def make(shape, scale, index, dense, seed, name):
        if dense:
            hidden = (fc_width,) * (len(kernels) - 1)
            branch = dense_branch(shape, hidden, preactivation=True, seed=seed, **options)
        else:
            first = scale == index == 0
            branch = conv_branch(shape, width, kernels, preactivation=not first, seed=seed, **options)
        return bijectors.ResidualBlock(branch, name=name, **block_options)

    return make


def _coupling(coupling, width, kernels, fc_width, dtype):
    """A function that makes the couplings."""

    def make(shape, scale, index, dense, seed, name):
        split = "channels" if scale else "checkerboard"
        options = {"num_parameters": coupling.num_parameters, "seed": seed, "dtype": dtype}
        if dense:
            hidden = (fc_width,) * (len(kernels) - 1)
            network = dense_coupling_network(shape, hidden, split, **options)
        else:
            network = coupling_network(shape, width, kernels, split, **options)
        return coupling(network, split, swap=index % 2 == 1, name=name)

    return make
