"""The Lipschitz certificate of a flow."""

import functools
import math

import numpy as np
import tensorflow_probability as tfp

from tf_resflow import bijectors, layers
from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.progress import track

__all__ = ["lipschitz_bounds", "lipschitz_certificate", "uncertified_blocks"]

tfb = tfp.bijectors


def lipschitz_bounds(flow):
    r"""Returns a rigorous upper bound of the Lipschitz constant of each residual branch.

    Power iteration estimates a norm from below, so that a layer may exceed its coefficient by what
    is left to converge. These bounds are proofs for the present weights: the product, through the
    branch, of the bound of each layer and activation. A bound below 1 proves that the block is
    invertible; one above 1 proves nothing, since the product is above the truth.

    Args:
      flow: a `Flow`, or any `tf.Module` with residual blocks in it.

    Returns:
      A dict of the block's name to a float, infinite for the `uncertified_blocks`; empty for a flow of couplings.
      Blocks of one name are numbered.
    """
    uncertified = uncertified_blocks(flow)
    return {
        name: math.inf if name in uncertified else float(layers.lipschitz_constant(block.branch, certified=True))
        for name, block in track(_blocks_by_name(flow).items(), "Lipschitz bounds of the blocks")
    }


def uncertified_blocks(flow):
    """Returns the residual blocks whose `lipschitz_constant` is taken on trust, since nothing bounds their branch.

    Args:
      flow: see `lipschitz_bounds`.

    Returns:
      A dict of the block's name to the reason, a sentence; empty where all blocks have a bound.
    """
    return {
        name: reason
        for name, block in _blocks_by_name(flow).items()
        if (reason := _why_not_bounded(block.branch)) is not None
    }


def _why_not_bounded(branch):
    try:
        layers.lipschitz_order(branch)
    except ValueError as error:
        return str(error).partition(". ")[0]


def lipschitz_certificate(flow):
    r"""Returns bounds of the Lipschitz constants of a flow's layers, blocks, of itself and of its inverse.

    With \\(L_i\\) the constant of branch i, \\(\mathrm{Lip}(x + g_i(x)) \le 1 + L_i\\) and
    \\(\mathrm{Lip}((x + g_i(x))^{-1}) \le 1 / (1 - L_i)\\); the flow's constant is at most the product
    of those of its parts. An error of the latent grows by at most the inverse's constant on its way to
    the data. "nominal" bounds rest on the coefficients that the layers enforce by an estimate of their
    norms, or on the constructor's `lipschitz_constant`; "certified" ones are proofs for the present weights
    (see `lipschitz_bounds`).

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,), coefficient=0.5, act_norm=False)
    certificate = resflow.evaluation.lipschitz_certificate(flow)
    print(certificate["blocks"]["block0"]["nominal"], certificate["flow"]["nominal"])
    # 0.25 1.5625
    ```

    Args:
      flow: a `Flow` or `MultiscaleFlow`.

    Returns:
      A dict. "layers": for each block's name, a dict of the layer's name to its "coefficient",
      "estimate" (of the raw kernel's norm, from below) and "bound" (of the kernel as applied).
      "blocks": for each block's name its "nominal" and "certified" constant, and the "reason" where it is not
      certified, and so infinite (see `uncertified_blocks`). "flow" and "inverse":
      their "nominal" and "certified" constants; infinite where a part's is unknown, and the inverse's
      where a block's is not below 1; in the norm of the blocks, if they share one.

    References:
      Behrmann et al., "Invertible Residual Networks" (2019), Lemma 2.
    """
    blocks = _blocks_by_name(flow)
    certified = lipschitz_bounds(flow)
    reasons = {name: {"reason": reason} for name, reason in uncertified_blocks(flow).items()}
    nominal = {name: block.lipschitz_constant for name, block in blocks.items()}
    of_flow = {}
    for kind, constants in (("nominal", nominal), ("certified", certified)):
        of_flow[kind] = _of_flow(flow, {id(blocks[name]): constant for name, constant in constants.items()})
    return {
        "layers": {name: _of_layers(block) for name, block in track(blocks.items(), "bounds of their layers")},
        "blocks": {n: {"nominal": nominal[n], "certified": certified[n], **reasons.get(n, {})} for n in certified},
        "flow": {kind: forward for kind, (forward, _) in of_flow.items()},
        "inverse": {kind: inverse for kind, (_, inverse) in of_flow.items()},
    }


def _blocks_by_name(flow):
    parts = parts_by_name(flow)
    return {name: part for name, part in parts.items() if isinstance(part, bijectors.ResidualBlock)}


def _of_layers(block):
    return {
        layer.name: {
            "coefficient": layer.coefficient,
            "estimate": float(layer.norm_estimate()),
            "bound": float(layer.lipschitz_bound()),
        }
        for layer in layers.lipschitz_layers(block)
    }


def _of_flow(flow, constants):
    one_norm = len(set(_orders(flow))) < 2
    return _constants(flow, constants) if one_norm else (math.inf, math.inf)


def _orders(flow):
    """The norms that the blocks contract in; one on trust is taken to do so in that of the others."""
    uncertified = uncertified_blocks(flow)
    for name, block in _blocks_by_name(flow).items():
        if name not in uncertified:
            yield layers.lipschitz_order(block.branch)


@functools.singledispatch
def _constants(bijector, branches):
    """The constants of a bijector and of its inverse, from those of the branches by id of the block."""
    if isinstance(getattr(bijector, "bijector", None), tfb.Bijector):  # any of TFP's classes of Invert
        return _constants(bijector.bijector, branches)[::-1]
    return math.inf, math.inf


@_constants.register
def _(bijector: bijectors.ResidualBlock, branches):
    branch = branches[id(bijector)]
    return 1.0 + branch, 1.0 / (1.0 - branch) if branch < 1.0 else math.inf


@_constants.register
def _(bijector: bijectors.ActNorm, branches):
    scale = np.exp(bijector.log_scale.numpy().astype(np.float64))
    return float(scale.max()), float(1.0 / scale.min())


@_constants.register
def _(bijector: bijectors.Normalize, branches):
    std = np.asarray(bijector.parameters["std"], np.float64)
    return float(1.0 / std.min()), float(std.max())


@_constants.register
def _(bijector: bijectors.Logit, branches):
    """On [0, 1] the slope is largest at the ends; that of the inverse is largest at 0."""
    alpha = bijector.parameters["alpha"]
    return (1 - 2 * alpha) / (alpha * (1 - alpha)), 0.25 / (1 - 2 * alpha)


@_constants.register
def _(bijector: bijectors.Squeeze2D, branches):
    return 1.0, 1.0


@_constants.register
def _(bijector: bijectors.Flow, branches):
    parts = [_constants(part, branches) for part in bijector.bijectors]
    return tuple(math.prod(constants) for constants in zip(*parts, strict=True))


@_constants.register
def _(bijector: bijectors.MultiscaleFlow, branches):
    """What leaves at a scale is kept as it is: the rest of the flow counts for at least 1."""
    forward = inverse = 0.0
    for flow in reversed(bijector.flows):
        constants = _constants(flow, branches)
        forward = constants[0] * max(1.0, forward)
        inverse = constants[1] * max(1.0, inverse)
    return forward, inverse
