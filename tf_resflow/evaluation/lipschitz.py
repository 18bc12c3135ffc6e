"""Lipschitz certificates of flows."""

import functools

from tf_resflow import bijectors, layers
from tf_resflow._internal.console import track
from tf_resflow.bijectors.base import stretch_bounds_of
from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.bijectors.views import blocks_by_name, certified_bound, uncertified_blocks


def lipschitz_certificate(flow: bijectors.FlowBijector) -> dict[str, dict]:
    r"""Bounds the Lipschitz constants of a flow, of its inverse, and of its layers and blocks.

    If branch i has the constant \\(L_i\\), then \\(\mathrm{Lip}(x + g_i(x)) \le 1 + L_i\\) and
    \\(\mathrm{Lip}((x + g_i(x))^{-1}) \le 1 / (1 - L_i)\\). The constant of the flow is at most the product of
    its parts' constants (see `FlowBijector.lipschitz_constants`). "nominal" bounds rely on the coefficients, which
    the layers enforce with estimated norms, or on a `lipschitz_constant` that was passed to a constructor.
    "certified" bounds are proved for the current weights (see `tf_resflow.bijectors.certified_bounds`).

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,), coefficient=0.5, act_norm=False)
    certificate = resflow.evaluation.lipschitz_certificate(flow)
    print(certificate["blocks"]["block0"]["nominal"], certificate["flow"]["nominal"])
    # 0.25 1.5625
    ```

    Args:
      flow: A `Flow` or `MultiscaleFlow`.

    Returns:
      A dict. "layers": for each block, a dict of layer name to "coefficient", "estimate" (`norm_estimate`, of the
      raw kernel) and "bound" (of the kernel as applied). "blocks": for each block, the "nominal" and "certified"
      constants of its branch; if nothing bounds the branch, "certified" is infinite and "reason" says why. "flow"
      and "inverse": the constants of the flow and its inverse, infinite if a part's constant is infinite or the
      parts contract in different norms. "unbounded": the reason for each part with an infinite certified constant.

    References:
      Behrmann et al., "Invertible Residual Networks" (2019), Lemma 2.
    """
    bound = functools.cache(layers.lipschitz_constant)  # once per network, because it is slow
    blocks = blocks_by_name(flow)
    progress = track(blocks.items(), "Lipschitz bounds of the blocks")
    certified = {name: certified_bound(block, bound) for name, block in progress}
    reasons = {name: {"reason": reason} for name, reason in uncertified_blocks(flow).items()}
    totals = {kind: stretch_bounds_of(flow, kind == "certified", bound) for kind in ("nominal", "certified")}
    return {
        "layers": {name: _layer_bounds(block) for name, block in track(blocks.items(), "bounds of their layers")},
        "blocks": {
            name: {"nominal": block.lipschitz_constant, "certified": certified[name], **reasons.get(name, {})}
            for name, block in blocks.items()
        },
        "flow": {kind: constants.forward for kind, constants in totals.items()},
        "inverse": {kind: constants.inverse for kind, constants in totals.items()},
        "unbounded": _reasons(flow, bound),
    }


def _reasons(flow, bound):
    """Returns why bijectors are unbounded, without containers that only repeat the reason of a member."""
    reasons_by_id = {}
    reasons_by_name = {}
    for name, bijector in reversed(parts_by_name(flow).items()):  # the innermost first
        reason = stretch_bounds_of(bijector, True, bound).reason
        reasons_by_id[id(bijector)] = reason
        reasons_of_members = {reasons_by_id.get(id(member)) for member in bijector.submodules}
        if reason is not None and reason not in reasons_of_members:
            reasons_by_name[name] = reason
    return dict(reversed(reasons_by_name.items()))


def _layer_bounds(block):
    return {
        layer.name: {
            "coefficient": layer.coefficient,
            "estimate": float(layer.norm_estimate()),
            "bound": float(layer.lipschitz_bound()),
        }
        for layer in layers.norm_updates.lipschitz_layers(block)
    }
