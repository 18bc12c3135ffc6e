from .config import base_config, default_config
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
    "default_config",
    "load_data",
    "read_metrics",
    "train",
]
