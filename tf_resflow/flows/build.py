"""The flow and the estimators of the `model` section of a config."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_resflow import bijectors, logdet
from tf_resflow.flows.image_flows import coupling_image_block, image_flow, residual_image_block
from tf_resflow.flows.names import COUPLINGS, RESIDUAL_BLOCKS
from tf_resflow.flows.vector_flows import vector_flow
from tf_resflow.typing import TensorLike

if TYPE_CHECKING:
    from tf_resflow.config_fields import ConfigDict

# Fields that are arguments of `image_flow`.
_IMAGE_FIELDS = (
    *("num_blocks", "width", "kernels", "num_fc_blocks", "fc_width"),
    *("inv_1x1_conv", "whiten", "squeeze_first", "factor_out"),
)


def build_estimator(
    config: "ConfigDict", per_example: bool, *, kind: str | None = None, num_probes: int | None = None
) -> logdet.LogDetEstimator:
    """The estimator of a section `estimator.train` or `estimator.eval` of a config, or one of another kind.

    With `per_example` each example draws its own number of terms. "automatic" is the roulette.
    """
    kind = kind or config.kind
    name = "russian_roulette" if kind == "automatic" else kind
    estimator = getattr(logdet, name.title().replace("_", ""))
    settings = {**config, "probes": "colored", "per_example": per_example}
    settings["num_probes"] = num_probes or config.num_probes
    settings["distribution"] = getattr(logdet, config.distribution.title())(config.p)
    names = [field.name for field in dataclasses.fields(estimator)]
    return estimator(**{name: settings[name] for name in names if name in settings})


def build_flow(
    config: "ConfigDict",
    event_shape: Sequence[int],
    mean: TensorLike | None = None,
    std: TensorLike | None = None,
    *,
    condition_size: int | None = None,
    seed: int = 0,
    name: str = "flow",
) -> bijectors.Flow | bijectors.MultiscaleFlow:
    """The flow of the `model` section of a config, for events of a shape, with the training estimator."""
    shared: dict[str, Any] = {"act_norm": config.act_norm, "mean": mean, "std": std, "seed": seed, "name": name}
    shared |= {"condition_size": condition_size, "dtype": config.compute_dtype}
    is_exact = config.kind == "vector" and config.estimator.train.kind == "automatic"
    is_exact = is_exact and isinstance(logdet.default_estimator(event_shape[0], "training"), logdet.Exact)
    norms = None if all(order == 2 for order in config.norms) else config.norms
    names = ("coefficient", "normalization", "lipschitz_constant")
    residual: dict[str, Any] = {name: config[name] for name in names} | {
        "norms": "learned" if config.learned_norms else norms,
        "dense_net": (config.depth, config.growth) if config.branch == "dense_net" else None,
        "log_det_estimator": build_estimator(config.estimator.train, False, kind="exact" if is_exact else None),
    }
    if config.activation != "automatic":
        residual["activation"] = config.activation
    if config.block in RESIDUAL_BLOCKS:
        residual["block"] = getattr(bijectors, RESIDUAL_BLOCKS[config.block])
    if config.kind == "vector":
        residual |= {"affine_layers": config.affine_layers, "hidden": config.hidden}
        return vector_flow(event_shape, sum(config.num_blocks), **residual, **shared)
    if config.block in COUPLINGS:
        block = coupling_image_block(getattr(bijectors, COUPLINGS[config.block]))
    else:
        block = residual_image_block(**residual)
    same = {name: config[name] for name in _IMAGE_FIELDS}
    return image_flow(event_shape, block=block, logit_alpha=config.logit_alpha or None, **same, **shared)
