from .build import build_estimator, build_model
from .config import base_config, default_config
from .export import export_run
from .loop import Interrupted, train
from .non_finite import NonFiniteError
from .report import Evaluation
from .runs import load_data
from .workdir import read_metrics

__all__ = [
    "Evaluation",
    "Interrupted",
    "NonFiniteError",
    "base_config",
    "build_estimator",
    "build_model",
    "default_config",
    "export_run",
    "load_data",
    "read_metrics",
    "train",
]
