"""The model of a config."""

from typing import TYPE_CHECKING, Any

from tf_resflow import flows
from tf_resflow.flows.build import build_estimator, build_flow
from tf_resflow.models.dequantizer import FlowDequantizer
from tf_resflow.models.estimators import evaluation_estimator
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.hybrid_model import HybridModel
from tf_resflow.models.keras_training import KerasTraining

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["build_model", "check_dataset", "with_statistics"]


def check_dataset(config: "ConfigDict", dataset: Any) -> None:
    """Raises ValueError unless the data are of the kind that the model of a config takes."""
    kind = "image" if len(dataset.event_shape) == 3 else "vector"
    if config.model.kind != kind:
        raise ValueError(
            f"config.model.kind is {config.model.kind!r}, but an example of {dataset.name!r} has "
            f"the shape {dataset.event_shape}: set it to {kind!r}."
        )
    if config.task == "hybrid":
        _num_classes(config, dataset)
    if config.model.dequantization == "variational" and dataset.levels is None:
        raise ValueError(
            f"config.model.dequantization is 'variational', but the data of {dataset.name!r} are continuous: leave "
            "it at 'uniform'."
        )
    _condition(config, dataset)


def with_statistics(config: "ConfigDict", dataset: Any) -> Any:
    """The data set with all statistics by which the model of a config normalizes its input."""
    if config.task == "hybrid" and not config.model.logit_alpha:
        return dataset.with_channel_statistics()
    return dataset


def build_model(config: "ConfigDict", dataset: Any) -> KerasTraining:
    """Builds the model of a config.

    Args:
      config: see `tf_resflow.training.default_config`.
      dataset: a `tf_resflow.data.Dataset`, or another object with its `name`, `event_shape`, `levels`, `codes`,
        whose cells are those of the model, `num_classes` (for a hybrid model, or for labels as condition), `mean`
        and `std`, by which the flow normalizes its input if they are not None, and `condition_mean` and
        `condition_std`, by which the model standardizes real conditions.

    Returns:
      A `FlowModel`, conditional if `config.model.condition` is set or the data have conditions, or a `HybridModel`
      if `config.task` is "hybrid"; it is evaluated with the default of `evaluation_estimator`.
    """
    shape = dataset.event_shape
    condition = _condition(config, dataset)
    size = condition.get("num_classes") or (condition["condition_shape"][0] if condition else None)
    flow = build_flow(config.model, shape, dataset.mean, dataset.std, condition_size=size, seed=config.seed)
    noise = _dequantizer(config, shape)
    _, evaluation_log_det = evaluation_estimator(config, flow, shape, dequantizer=noise)
    options = {"evaluation_log_det": evaluation_log_det, "seed": config.seed}
    if config.task == "density":
        options["cells"] = None if dataset.codes is None else dataset.codes.cells
        return FlowModel(flow, shape, levels=dataset.levels, dequantizer=noise, **condition, **options)
    shapes = flow.feature_shapes(shape)
    head = {"seed": config.seed, "dtype": "float32"}
    classifier = flows.multiscale_classifier(shapes, _num_classes(config, dataset), config.hybrid.features, **head)
    options["density_weight"] = config.hybrid.density_weight
    return HybridModel(flow, classifier, shape, levels=dataset.levels, **options)


def _dequantizer(config, event_shape):
    """The learned noise of integer data; None for uniform noise."""
    settings = config.model
    if settings.dequantization == "uniform":
        return None
    log_det = build_estimator(settings.estimator.train, per_example=False)
    sizes = (settings.dequantization_blocks, settings.dequantization_width)
    return FlowDequantizer(event_shape, *sizes, log_det=log_det, seed=config.seed)


def _condition(config, dataset):
    """The condition of the model, as arguments of a `FlowModel`."""
    if config.model.condition == "label":
        return {"num_classes": _num_classes(config, dataset)}
    if dataset.condition_mean is None:
        return {}
    statistics = {"condition_mean": dataset.condition_mean, "condition_std": dataset.condition_std}
    return {"condition_shape": dataset.condition_mean.shape, **statistics}


def _num_classes(config, dataset):
    if dataset.num_classes is None:
        field = "config.task is 'hybrid'" if config.task == "hybrid" else "config.model.condition is 'label'"
        raise ValueError(
            f"{field}, but {dataset.name!r} has no labels: choose a data set that has them, such "
            "as digits, mnist, cifar10 or svhn_cropped."
        )
    return dataset.num_classes
