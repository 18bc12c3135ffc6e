"""Builds the model of a config, its flow, and the estimators of its log-determinants."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tf_resflow import bijectors, flows, logdet
from tf_resflow._internal.typing import TensorLike
from tf_resflow.flows.names import COUPLINGS, ESTIMATORS, RESIDUAL_BLOCKS
from tf_resflow.models import FlowDequantizer, FlowModel, HybridModel
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.config_fields import ConfigDict

__all__ = ["build_estimator", "build_flow", "build_model", "check_dataset", "estimator_name"]

# Fields of the `model` section that are arguments of `image_flow`.
_IMAGE_FIELDS = (
    *("num_blocks", "width", "kernels", "num_fc_blocks", "fc_width"),
    *("inv_1x1_conv", "whiten", "squeeze_first", "factor_out"),
)
_CLASSES = {name: getattr(logdet, name.title().replace("_", "")) for name in ESTIMATORS}


def check_dataset(config: ConfigDict, dataset: Any) -> None:
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


def build_model(config: ConfigDict, dataset: Any) -> KerasTraining:
    """Builds the model of a config.

    Args:
      config: See `tf_resflow.training.default_config`.
      dataset: A `tf_resflow.data.Dataset`, or another object with its `name`, `event_shape`, `levels`,
        `num_classes`, `mean` and `std`.

    Returns:
      A `HybridModel` if `config.task` is "hybrid", otherwise a `FlowModel`, which is conditional if
      `config.model.condition` is set. See `build_estimator` for its estimators of log-determinants.
    """
    check_dataset(config, dataset)
    settings = config.model
    event_shape = dataset.event_shape
    num_labels = dataset.num_classes if settings.condition == "label" else None
    statistics = {"mean": dataset.mean, "std": dataset.std}
    flow = build_flow(settings, event_shape, **statistics, condition_size=num_labels, seed=config.seed)
    dequantizer = None
    if settings.dequantization == "variational":
        dequantizer = FlowDequantizer(
            event_shape,
            settings.dequantization_blocks,
            settings.dequantization_width,
            log_det_estimator=build_estimator(settings, event_shape, "training"),
            seed=config.seed,
        )
    has_blocks = dequantizer is not None or bool(bijectors.flow.residual_blocks(flow))
    options = {
        "levels": dataset.levels,
        "evaluation_log_det_estimator": build_estimator(settings, event_shape, "evaluation", has_blocks=has_blocks),
        "seed": config.seed,
    }
    if config.task == "density":
        return FlowModel(flow, event_shape, num_classes=num_labels, dequantizer=dequantizer, **options)
    classifier = flows.multiscale_classifier(
        flow.feature_shapes(event_shape),
        dataset.num_classes,
        config.hybrid.features,
        seed=config.seed,
        dtype="float32",
    )
    return HybridModel(flow, classifier, event_shape, density_weight=config.hybrid.density_weight, **options)


def build_estimator(
    settings: ConfigDict,
    event_shape: Sequence[int],
    purpose: str,
    *,
    has_blocks: bool = True,
    name: str | None = None,
    num_probes: int | None = None,
) -> logdet.LogDetEstimator:
    """Builds the estimator of log-determinants that a config asks for.

    Args:
      settings: The `model` section of a config.
      event_shape: The shape of an example.
      purpose: "training", for the settings in `estimator.train`, or "evaluation", for those in `estimator.eval`. In
        evaluations, each example draws its own number of terms.
      has_blocks: Whether a residual block estimates its log-determinant. If none does, evaluations are exact.
      name: "adaptive_roulette", "russian_roulette", "power_series" or "exact". By default, evaluations are exact
        where `tf_resflow.logdet.default_estimator` is exact, and trainings are if the events are also vectors and
        the `kind` in the settings is "automatic". Otherwise, it is the `kind` in the settings, where "automatic"
        means "russian_roulette".
      num_probes: Number of probes. The default is the one in the settings.

    Raises:
      ValueError: If there is no estimator with this name.
    """
    section = settings.estimator.train if purpose == "training" else settings.estimator.eval
    if name is None:
        name = _default_name(settings, event_shape, purpose, has_blocks)
    if name not in _CLASSES:
        raise ValueError(f"log_det_estimator is {name!r}, but must be one of {', '.join(_CLASSES)}.")
    arguments = {
        **section,
        "num_probes": num_probes or section.num_probes,
        "probes": "colored",
        "per_example": purpose != "training",
        "distribution": getattr(logdet, section.distribution.title())(section.p),
    }
    names = [field.name for field in dataclasses.fields(_CLASSES[name])]
    return _CLASSES[name](**{name: arguments[name] for name in names if name in arguments})


def estimator_name(estimator: logdet.LogDetEstimator) -> str:
    """Returns the name of an estimator's class in configs and flags, or raises a ValueError if it has none."""
    names = [name for name, kind in _CLASSES.items() if kind is type(estimator)]
    if not names:
        raise ValueError(f"{estimator!r} has no name in configs. Name an estimator: {', '.join(_CLASSES)}.")
    return names[0]


def build_flow(
    settings: ConfigDict,
    event_shape: Sequence[int],
    mean: TensorLike | None = None,
    std: TensorLike | None = None,
    *,
    condition_size: int | None = None,
    seed: int = 0,
    name: str = "flow",
) -> bijectors.Flow | bijectors.MultiscaleFlow:
    """Builds the flow of the `model` section of a config, with the training estimator."""
    shared: dict[str, Any] = {
        "act_norm": settings.act_norm,
        "mean": mean,
        "std": std,
        "condition_size": condition_size,
        "seed": seed,
        "name": name,
        "dtype": settings.compute_dtype,
    }
    if settings.kind == "image" and settings.block in COUPLINGS:
        block = flows.coupling_image_block(getattr(bijectors, COUPLINGS[settings.block]))
    else:
        residual = _residual_arguments(settings, event_shape)
        if settings.kind == "vector":
            num_blocks = sum(settings.num_blocks)
            widths = {"affine_layers": settings.affine_layers, "hidden": settings.hidden}
            return flows.vector_flow(event_shape, num_blocks, **residual, **widths, **shared)
        block = flows.residual_image_block(**residual)
    image = {field: settings[field] for field in _IMAGE_FIELDS}
    return flows.image_flow(event_shape, block=block, logit_alpha=settings.logit_alpha or None, **image, **shared)


def _default_name(settings, event_shape, purpose, has_blocks):
    """Returns the name of the estimator of a config: "exact" for small events, otherwise that in the settings."""
    default = logdet.default_estimator(math.prod(event_shape), purpose)
    is_small = isinstance(default, logdet.Exact)
    if purpose == "training":
        kind = settings.estimator.train.kind
        if kind != "automatic":
            return kind
        return "exact" if is_small and settings.kind == "vector" else "russian_roulette"
    if is_small or not has_blocks:
        return "exact"
    return settings.estimator.eval.kind


def _residual_arguments(settings, event_shape):
    """Returns the arguments that `vector_flow` and `residual_image_block` have in common."""
    norms = None if all(order == 2 for order in settings.norms) else settings.norms
    arguments: dict[str, Any] = {
        "coefficient": settings.coefficient,
        "lipschitz_constant": settings.lipschitz_constant,
        "norms": "learned" if settings.learned_norms else norms,
        "dense_net": (settings.depth, settings.growth) if settings.branch == "dense_net" else None,
        "log_det_estimator": build_estimator(settings, event_shape, "training"),
        "block": getattr(bijectors, RESIDUAL_BLOCKS[settings.block]),
    }
    if settings.activation != "automatic":
        arguments["activation"] = settings.activation
    return arguments
