"""The model of a config."""

from typing import TYPE_CHECKING

from tf_resflow import bijectors, flows
from tf_resflow.models.estimators import evaluation_estimator
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.hybrid_model import HybridModel

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["build_model"]


def build_model(config: "ConfigDict", dataset) -> FlowModel:
    """Builds the model of a config.

    Args:
      config: see `tf_resflow.training.default_config`.
      dataset: has `event_shape`, `levels`, `num_classes` (for a hybrid model), and `mean` and `std`, by which the
        flow normalizes its input if they are not None.

    Returns:
      A `FlowModel`, or a `HybridModel` if `config.task` is "hybrid"; it is evaluated with the default of
      `evaluation_estimator`.
    """
    shape = dataset.event_shape
    flow = flows.build_flow(config.model, shape, dataset.mean, dataset.std, seed=config.seed)
    _, evaluation_log_det = evaluation_estimator(config, flow, shape)
    options = {"evaluation_log_det": evaluation_log_det, "seed": config.seed}
    if config.task == "density":
        return FlowModel(flow, shape, dataset.levels, **options)
    classifier = flows.multiscale_classifier(
        bijectors.feature_shapes(flow, shape), dataset.num_classes, config.hybrid.features, seed=config.seed
    )
    options["density_weight"] = config.hybrid.density_weight
    return HybridModel(flow, classifier, shape, dataset.levels, **options)
