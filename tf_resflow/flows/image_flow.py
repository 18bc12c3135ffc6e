"""The paper's multi-scale residual flow on images."""

import numpy as np

from tf_resflow import bijectors
from tf_resflow.flows.branches import conv_branch, dense_branch

__all__ = ["image_flow"]


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
    log_det=None,
    inverse_solver=None,
    seed=0,
    dtype="float32",
):
    """Logit, then scales of residual blocks with a squeeze between them, then fully connected blocks.

    Each block is pre-activated (but for the very first) and followed by an ActNorm; one more ActNorm
    comes before the first block. The fully connected blocks belong to the last scale and are normalised
    element by element.

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
      log_det: estimator of the blocks.
      inverse_solver: solver of the blocks.
      seed: `int`, of the parameters.
      dtype: of the parameters.

    Returns:
      A `Flow` from `[H, W, C]` to the last scale's shape; with `factor_out` a `MultiscaleFlow` to a vector.

    Raises:
      ValueError: when the height or width cannot be halved as often as the scales ask for.

    References:
      Chen et al. 2019, Section 5.2 and Appendix E.
    """
    seeds = np.random.default_rng(seed)
    shared = {"activation": activation, "coefficient": coefficient, "norms": norms, "dtype": dtype}

    def block(branch, name, shape, per_channel):
        members = [bijectors.ResidualBlock(branch, log_det, inverse_solver, name=name)]
        if act_norm:
            members.append(bijectors.ActNorm(shape, per_channel, dtype, name=f"{name}_act_norm"))
        return members

    def next_seed():
        return int(seeds.integers(2**31))

    head = _preprocessing(logit_alpha, mean, std, squeeze_first, dtype)
    shape = bijectors.Flow(head).forward_event_shape(event_shape) if head else event_shape
    shape = tuple(shape)
    scales = []
    for i, count in enumerate(num_blocks):
        members = head if i == 0 else []
        if i == 0 and act_norm:
            members = [*members, bijectors.ActNorm(shape, dtype=dtype, name="act_norm")]
        for j in range(count):
            branch = conv_branch(
                shape, width, kernels, preactivation=i + j > 0, seed=next_seed(), **shared
            )
            members = members + block(branch, f"scale{i}_block{j}", shape, per_channel=True)
        if i < len(num_blocks) - 1:
            squeeze = bijectors.Squeeze2D(name=f"scale{i}_squeeze")
            members = [*members, squeeze]
            shape = tuple(squeeze.forward_event_shape(shape))
            if factor_out:
                shape = (*shape[:-1], shape[-1] // 2)
        scales.append(members)
    for j in range(num_fc_blocks):
        hidden = (fc_width,) * (len(kernels) - 1)
        branch = dense_branch(shape, hidden, preactivation=True, seed=next_seed(), **shared)
        scales[-1] += block(branch, f"fc_block{j}", shape, per_channel=False)
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
