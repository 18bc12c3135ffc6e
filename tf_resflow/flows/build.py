"""The flow and the estimators of the `model` section of a config."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_resflow import bijectors, logdet
from tf_resflow.flows.config import COUPLINGS, RESIDUAL_BLOCKS
from tf_resflow.flows.image_blocks import coupling_image_block, residual_image_block
from tf_resflow.flows.image_flows import image_flow
from tf_resflow.flows.vector_flows import vector_flow
from tf_resflow.typing import TensorLike

if TYPE_CHECKING:
    from tf_resflow.config_fields import ConfigDict

__all__ = ["build_estimator", "build_flow"]

_DISTRIBUTIONS: dict[str, type[logdet.Geometric] | type[logdet.Poisson]] = {
    "geometric": logdet.Geometric,
    "poisson": logdet.Poisson,
}


def build_estimator(
    config: "ConfigDict", per_example: bool, *, kind: str | None = None, num_probes: int | None = None
) -> logdet.LogDetEstimator:
    """The estimator of a section `estimator.train` or `estimator.eval` of a config, or one of another kind.

    With `per_example` each example draws its own number of terms. "automatic" is the roulette.
    """
    kind, num_probes = kind or config.kind, num_probes or config.num_probes
    probes: dict[str, Any] = {"probes": "colored", "num_probes": num_probes}
    if kind == "power_series":
        return logdet.PowerSeries(config.num_terms, **probes)
    if kind == "exact":
        return logdet.Exact()
    if kind == "adaptive_roulette":
        return logdet.AdaptiveRoulette(config.rtol, per_example=per_example, **probes)
    distribution = _DISTRIBUTIONS[config.distribution](config.p)
    return logdet.RussianRoulette(config.num_exact_terms, distribution, per_example=per_example, **probes)


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
    """The flow of the `model` section of a config, for events of a shape; it has the training estimator.

    Raises a ValueError if the kind of model does not fit the shape.
    """
    rank = {"image": 3, "vector": 1}[config.kind]
    if len(event_shape) != rank:
        raise ValueError(
            f"config.model.kind is {config.kind!r}, for events of rank {rank}, but the data have shape "
            f"{tuple(event_shape)}."
        )
    shared: dict[str, Any] = {"act_norm": config.act_norm, "mean": mean, "std": std}
    shared |= {"condition_size": condition_size, "seed": seed, "dtype": config.compute_dtype, "name": name}
    residual: dict[str, Any] = {
        "activation": config.activation,
        "coefficient": config.coefficient,
        "norms": "learned" if config.learned_norms else config.norms,
        "normalization": config.normalization,
        "dense_net": (config.depth, config.growth) if config.branch == "dense_net" else None,
        "log_det": build_estimator(config.estimator.train, False, kind=_kind(config, event_shape)),
        "lipschitz_constant": config.lipschitz_constant,
    }
    if config.kind == "vector":
        residual |= {"block": _block_class(config), "affine_layers": config.affine_layers}
        return vector_flow(event_shape[0], sum(config.num_blocks), config.hidden, **residual, **shared)
    _check_sides(config, event_shape)
    if config.block in RESIDUAL_BLOCKS:
        block = residual_image_block(_block_class(config), **residual)
    else:
        block = coupling_image_block(_block_class(config))
    return image_flow(
        event_shape,
        config.num_blocks,
        config.width,
        kernels=config.kernels,
        num_fc_blocks=config.num_fc_blocks,
        fc_width=config.fc_width,
        block=block,
        inv_1x1_conv=config.inv_1x1_conv,
        logit_alpha=config.logit_alpha or None,
        whiten=config.whiten,
        squeeze_first=config.squeeze_first,
        factor_out=config.factor_out,
        **shared,
    )


def _block_class(config):
    return getattr(bijectors, {**RESIDUAL_BLOCKS, **COUPLINGS}[config.block])


def _kind(config, event_shape):
    """The kind of the training estimator."""
    kind = config.estimator.train.kind
    if kind == "automatic" and config.kind == "vector":
        kind = "exact" if isinstance(logdet.default_estimator(event_shape[0], "training"), logdet.Exact) else kind
    return kind


def _check_sides(config, event_shape):
    """Raises ValueError unless the sides can be halved as often as the scales require."""
    halvings = len(config.num_blocks) - 1 + config.squeeze_first
    height, width, _ = event_shape
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"Images of {height} x {width} cannot be halved {halvings} times, as config.model.num_blocks = "
            f"{tuple(config.num_blocks)} with squeeze_first = {config.squeeze_first} requires. Give fewer scales, "
            f"or images whose sides are multiples of {2**halvings}, as by config.data.image_size."
        )
