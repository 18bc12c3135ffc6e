"""The Lipschitz certificate of a flow."""

import functools

from tf_resflow import bijectors, layers
from tf_resflow.bijectors.base import lipschitz_constants
from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.bijectors.views import blocks_by_name, certified_bounds, uncertified_blocks
from tf_resflow.progress import track


def lipschitz_certificate(flow: bijectors.FlowBijector) -> dict[str, dict]:
    r"""Bounds of the Lipschitz constants of a flow's layers and blocks, of itself and of its inverse.

    With \\(L_i\\) the constant of branch i, \\(\mathrm{Lip}(x + g_i(x)) \le 1 + L_i\\) and
    \\(\mathrm{Lip}((x + g_i(x))^{-1}) \le 1 / (1 - L_i)\\); the flow's constant is at most the product
    of those of its parts (see `FlowBijector.lipschitz_constants`). "nominal" bounds rely on the coefficients that
    the layers enforce by an estimate of their norms, or on the constructor's `lipschitz_constant`. "certified"
    bounds are proofs for the current weights (see `tf_resflow.bijectors.certified_bounds`).

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
      A dict. "layers": for each block's name, a dict of each layer's name to its "coefficient", "estimate"
      (`norm_estimate`, of the raw kernel) and "bound" (of the kernel as applied). "blocks": for each block's name,
      its "nominal" and "certified" constant, which is infinite with a "reason" if nothing bounds its branch. "flow"
      and "inverse": their constants, infinite if a part's is, or if the parts contract in different norms.
      "unbounded": for the name of each part with an infinite certified constant, the reason.

    References:
      Behrmann et al., "Invertible Residual Networks" (2019), Lemma 2.
    """
    bound = functools.cache(layers.lipschitz_constant)  # each network once: this is slow
    blocks, certified = blocks_by_name(flow), certified_bounds(flow, bound)
    reasons = {name: {"reason": reason} for name, reason in uncertified_blocks(flow).items()}
    of_flow = {kind: lipschitz_constants(flow, kind == "certified", bound) for kind in ("nominal", "certified")}
    return {
        "layers": {name: _of_layers(block) for name, block in track(blocks.items(), "bounds of their layers")},
        "blocks": {
            name: {"nominal": block.lipschitz_constant, "certified": certified[name], **reasons.get(name, {})}
            for name, block in blocks.items()
        },
        "flow": {kind: constants.forward for kind, constants in of_flow.items()},
        "inverse": {kind: constants.inverse for kind, constants in of_flow.items()},
        "unbounded": _reasons(flow, bound),
    }


def _reasons(flow, bound):
    """Why parts are not bounded, without the parts that only repeat the reason of one of their own."""
    found, reasons = {}, {}
    for name, part in reversed(parts_by_name(flow).items()):  # the innermost first
        found[id(part)] = reason = lipschitz_constants(part, True, bound).reason
        if reason is not None and reason not in {found.get(id(inner)) for inner in part.submodules}:
            reasons[name] = reason
    return dict(reversed(reasons.items()))


def _of_layers(block):
    return {
        layer.name: {
            "coefficient": layer.coefficient,
            "estimate": float(layer.norm_estimate()),
            "bound": float(layer.lipschitz_bound()),
        }
        for layer in layers.norm_updates.lipschitz_layers(block)
    }
