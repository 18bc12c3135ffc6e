"""Builds the model of a config, its flow, and the log-determinant estimators for training and evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_resflow import bijectors, flows, logdet
from tf_resflow.flows.names import COUPLINGS, ESTIMATORS, RESIDUAL_BLOCKS
from tf_resflow.models.dequantizer import Dequantizer, FlowDequantizer
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.hybrid_model import HybridModel
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.typing import TensorLike

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# Fields of the `model` section that are arguments of `image_flow`.
_IMAGE_FIELDS = "num_blocks width kernels num_fc_blocks fc_width inv_1x1_conv whiten squeeze_first factor_out"


def check_dataset(config: "ConfigDict", dataset: Any) -> None:
    """Raises a ValueError if the data do not fit the model of a config."""
    kind = "image" if len(dataset.event_shape) == 3 else "vector"
    if config.model.kind != kind:
        shape = f"an example of {dataset.name!r} has the shape {dataset.event_shape}"
        raise ValueError(f"config.model.kind is {config.model.kind!r}, but {shape}. Set it to {kind!r}.")
    if config.model.dequantization == "variational" and dataset.levels is None:
        problem = f"config.model.dequantization is 'variational', but {dataset.name!r} has continuous data"
        raise ValueError(f"{problem}. Set it to 'uniform'.")
    if dataset.num_classes is None and (config.task == "hybrid" or config.model.condition == "label"):
        field = "config.task is 'hybrid'" if config.task == "hybrid" else "config.model.condition is 'label'"
        raise ValueError(f"{field}, but {dataset.name!r} has no labels. Choose a data set with labels.")


def build_model(config: "ConfigDict", dataset: Any) -> KerasTraining:
    """Builds the model of a config.

    Args:
      config: see `tf_resflow.training.default_config`.
      dataset: a `tf_resflow.data.Dataset`, or another object with its `name`, `event_shape`, `levels`,
        `num_classes`, `mean` and `std`.

    Returns:
      A `HybridModel` if `config.task` is "hybrid", otherwise a `FlowModel`, which is conditional if
      `config.model.condition` is set. Evaluation uses the default estimator.
    """
    check_dataset(config, dataset)
    shape, settings = dataset.event_shape, config.model
    num_labels = dataset.num_classes if settings.condition == "label" else None
    flow = build_flow(settings, shape, dataset.mean, dataset.std, condition_size=num_labels, seed=config.seed)
    noise = None
    if settings.dequantization == "variational":
        sizes = settings.dequantization_blocks, settings.dequantization_width
        estimator = build_estimator(settings.estimator.train, per_example=False)
        noise = FlowDequantizer(shape, *sizes, log_det_estimator=estimator, seed=config.seed)
    _, estimator = evaluation_estimator(config, flow, shape, dequantizer=noise)
    options = {"levels": dataset.levels, "evaluation_log_det_estimator": estimator, "seed": config.seed}
    if config.task == "density":
        return FlowModel(flow, shape, num_classes=num_labels, dequantizer=noise, **options)
    shapes, size = flow.feature_shapes(shape), config.hybrid.features
    classifier = flows.multiscale_classifier(shapes, dataset.num_classes, size, seed=config.seed, dtype="float32")
    return HybridModel(flow, classifier, shape, density_weight=config.hybrid.density_weight, **options)


def build_estimator(
    config: "ConfigDict", per_example: bool, *, kind: str | None = None, num_probes: int | None = None
) -> logdet.LogDetEstimator:
    """Builds the estimator of the section `estimator.train` or `estimator.eval`, or one of another `kind`.

    With `per_example`, each example draws its own number of terms. "automatic" is the Russian roulette.
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
    """Builds the flow of the `model` section of a config, with the training estimator."""
    shared: dict[str, Any] = {"act_norm": config.act_norm, "mean": mean, "std": std, "seed": seed, "name": name}
    shared |= {"condition_size": condition_size, "dtype": config.compute_dtype}
    is_exact = config.kind == "vector" and config.estimator.train.kind == "automatic"
    is_exact = is_exact and isinstance(logdet.default_estimator(event_shape[0], "training"), logdet.Exact)
    norms = None if all(order == 2 for order in config.norms) else config.norms
    names = ("coefficient", "lipschitz_constant")
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
        return flows.vector_flow(event_shape, sum(config.num_blocks), **residual, **shared)
    if config.block in COUPLINGS:
        block = flows.coupling_image_block(getattr(bijectors, COUPLINGS[config.block]))
    else:
        block = flows.residual_image_block(**residual)
    same = {name: config[name] for name in _IMAGE_FIELDS.split()}
    return flows.image_flow(event_shape, block=block, logit_alpha=config.logit_alpha or None, **same, **shared)


def evaluation_estimator(
    config: "ConfigDict",
    flow: bijectors.FlowBijector,
    event_shape: Sequence[int],
    *,
    dequantizer: Dequantizer | None = None,
    name: str | None = None,
    num_probes: int | None = None,
) -> tuple[str, logdet.LogDetEstimator]:
    """Returns the name and the estimator of the log-determinants for evaluation.

    Args:
      config: see `tf_resflow.training.default_config`.
      dequantizer: dequantizer of the model, which uses the same estimator.
      name: "adaptive_roulette", "russian_roulette" or "power_series" with the settings of
        `config.model.estimator.eval`; or "exact". The default is "exact" if `tf_resflow.logdet.default_estimator`
        is exact or the flow has no residual blocks, otherwise `config.model.estimator.eval.kind`.
      num_probes: number of probes; by default `config.model.estimator.eval.num_probes`.
    """
    settings = config.model.estimator.eval
    parts = [flow, *([dequantizer.flow] if isinstance(dequantizer, FlowDequantizer) else [])]
    has_blocks = any(map(bijectors.flow.residual_blocks, parts))
    if name is None:
        default = logdet.default_estimator(math.prod(event_shape), "evaluation")
        name = "exact" if isinstance(default, logdet.Exact) or not has_blocks else settings.kind
    if name not in ESTIMATORS:
        raise ValueError(f"log_det_estimator is {name!r}, but must be one of {', '.join(ESTIMATORS)}.")
    return name, build_estimator(settings, True, kind=name, num_probes=num_probes)
