from .config import base_config, default_config
from .data import load_data
from .evaluate import Evaluation
from .hooks import Interrupted
from .loop import train
from .metrics import read_metrics
from .non_finite import NonFiniteError

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
