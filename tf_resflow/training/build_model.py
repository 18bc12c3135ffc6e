"""The model of a config."""

import math

from tf_resflow import bijectors, flows, logdet
from tf_resflow.training.flow_model import FlowModel
from tf_resflow.training.hybrid_model import HybridModel

__all__ = ["build_model"]

_EXACT_SIZE = 16  # coordinates up to which the density is evaluated with slogdet


def build_model(config, dataset):
    """Builds the model of a config.

    Events of up to 16 coordinates are evaluated exactly, larger ones by `config.model.estimator.eval`.

    Args:
      config: see `tf_resflow.training.default_config`.
      dataset: has `event_shape`, `levels`, `num_classes` (for a hybrid model), and `mean` and `std`, by which the
        flow normalises its input if they are not None.

    Returns:
      A `FlowModel`, or a `HybridModel` if `config.task` is "hybrid".
    """
    flow = flows.build_flow(config.model, dataset.event_shape, dataset.mean, dataset.std, seed=config.seed)
    if math.prod(dataset.event_shape) <= _EXACT_SIZE:
        evaluation_log_det = logdet.Exact()
    else:
        evaluation_log_det = flows.build_estimator(config.model.estimator.eval, per_example=True)
    options = {"evaluation_log_det": evaluation_log_det, "seed": config.seed}
    if config.task == "density":
        return FlowModel(flow, dataset.event_shape, dataset.levels, **options)
    shapes = bijectors.feature_shapes(flow, dataset.event_shape)
    classifier = flows.multiscale_classifier(shapes, dataset.num_classes, config.hybrid.features, seed=config.seed)
    options["density_weight"] = config.hybrid.density_weight
    return HybridModel(flow, classifier, dataset.event_shape, dataset.levels, **options)
