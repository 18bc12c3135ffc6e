"""Names of version 0.2 that have moved or are private now: they warn and work in 0.3, and go in 0.4."""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["RENAMED", "old_attribute", "take_old_overrides", "with_old_names"]

_PRIVATE = {  # by their modules
    "bijectors.base": "Context LipschitzConstants Pass",
    "bijectors.couplings": "Coupling",
    "bijectors.flow": "residual_blocks",
    "bijectors.passes": "block_inputs",
    "bijectors.variable_bijector": "VariableBijector",
    "bijectors.views": "blocks_by_name",
    "evaluation.estimator_noise": "Noise stderr_parts",
    "evaluation.figures": "density_figure learning_curves paths_figure points_figure",
    "evaluation.reconstruction": "Reconstruction",
    "evaluation.sample_files": "reconstruction_grid write_png write_samples",
    "evaluation.sampling": "interpolate_examples",
    "evaluation.scores": "PerExample Score",
    "flows.branches": "ACTIVATIONS",
    "flows.build": "build_estimator build_flow",
    "flows.classifier": "ActNormLayer initialize_classifier",
    "flows.image_blocks": "BlockMaker BlockSpec",
    "interop.published_checkpoint": "PublishedCheckpoint read_checkpoint",
    "layers.lipschitz_constants": "lipschitz_order",
    "layers.lipschitz_layer": "LipschitzLayer",
    "layers.norm_updates": "learned_orders lipschitz_layers",
    "models.data_info": "DataInfo",
    "serving.signatures": "Signatures",
    "solvers.fixed_point": "warn_unconverged",
    "solvers.residual_inverse": "solve_residual",
    "training.config": "validate_config",
    "training.metrics_writer": "MetricsWriter",
    "training.optimizer": "Adam AdamW make_optimizer",
    "training.report": "Report",
    "training.runs": "Run load",
    "training.strategies": "STRATEGIES WorkerLostError",
    "training.workdir": "Workdir read_json write_json",
}

_REPLACED = {  # attributes of models, by what has other arguments
    "evaluation_distribution": "bijectors.with_log_det(model.distribution, model.evaluation_log_det)",
    "has_density": "model.trained_density() is not None",
    "loss_per_example": "model.example_losses(batch)[model.objective]",
    "reconstruct": "evaluation.reconstruct(model, x, seed)",
    "scores": "model.example_losses(batch, training=True)",
}

RENAMED: Mapping[str, str] = {
    **{f"{m.split('.')[0]}.{name}": f"{m}.{name}" for m, names in _PRIVATE.items() for name in names.split()},
    "bijectors.feature_shapes": "flow.feature_shapes(event_shape)",
    "data.entropy": "data.DENSITIES[name].entropy()",
    "data.log_density": "data.DENSITIES[name].log_prob(points)",
    "data.sample": "data.DENSITIES[name].sample(num, seed)",
    "evaluation.uncertified_blocks": "bijectors.certified_bounds.uncertified_blocks",
    "models.LikelihoodPlan": "evaluation.LikelihoodPlan",
    "models.plan_likelihood": "evaluation.plan_likelihood",
    "training.AveragedWeights": "models.averaging.AveragedWeights",
    **{f"training.{name}": f"models.{name}" for name in ("FlowModel", "HybridModel", "build_model", "train_step")},
    "FlowModel.dequantization": "FlowModel.data_space.dequantization",
    "FlowModel.estimate_log_prob": "evaluation.estimate_log_prob",
    "FlowModel.event_shape": "FlowModel.data_space.event_shape",
    "FlowModel.inverse_atol": "FlowModel.data_space.inverse_atol",
    "FlowModel.levels": "FlowModel.data_space.levels",
    "FlowModel.nats_per_unit": "FlowModel.data_space.nats_per_unit",
    "FlowModel.num_dimensions": "FlowModel.data_space.num_dimensions",
    "FlowModel.to_data": "FlowModel.data_space.to_data",
    "FlowModel.unit": "FlowModel.data_space.unit",
    **{
        f"HybridModel.{n}": f"HybridModel.density.{n}"
        for n in ("decode", "encode", "log_prob", "prepare", "sample")
    },
}
"""Old names and new ones, below `tf_resflow`. What was a method and is a function takes the model first."""


def with_old_names(package: str, new_names: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a package that has the old names, too."""

    def get(name: str) -> Any:
        old = f"{package.removeprefix('tf_resflow.')}.{name}"
        if old in RENAMED:
            return _value(old)
        if new_names is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return new_names(name)

    return get


def old_attribute(model: Any, name: str) -> Any:
    """An attribute of a model that has moved."""
    for kind in (*(parent.__name__ for parent in type(model).__mro__), "FlowModel"):
        if f"{kind}.{name}" in RENAMED:
            return _value(f"{kind}.{name}", model)
    hint = f"; since version 0.3 it is {_REPLACED[name]}" if name in _REPLACED else ""
    raise AttributeError(f"{type(model).__name__!r} object has no attribute {name!r}{hint}")


def take_old_overrides(kind: type, names: Mapping[str, str]) -> None:
    """Gives methods of a subclass that override old names the new ones."""
    for old, new in names.items():
        if old in vars(kind) and new not in vars(kind):
            message = f"{kind.__name__}.{old} overrides what is {new} since version 0.3; rename it before 0.4."
            warnings.warn(message, FutureWarning, stacklevel=4)
            setattr(kind, new, vars(kind)[old])


def _value(old, model=None):
    new = RENAMED[old]
    warnings.warn(
        f"{old} is {new} since version 0.3, and the old name goes in 0.4.",
        FutureWarning,
        stacklevel=3 if model is None else 4,
    )
    if new.startswith(("FlowModel.", "HybridModel.")):
        return functools.reduce(getattr, new.split(".")[1:], model)
    module, name = new.split("(")[0].rsplit(".", 1)
    if module == "flow":
        return lambda flow, *arguments: getattr(flow, name)(*arguments)
    if module.endswith("[name]"):
        package, table = module.removesuffix("[name]").split(".")
        entries = getattr(importlib.import_module(f"tf_resflow.{package}"), table)
        return lambda entry, *arguments: getattr(entries[entry], name)(*arguments)
    value = getattr(importlib.import_module(f"tf_resflow.{module}"), name)
    return value if model is None else functools.partial(value, model.trained_density() or model)
