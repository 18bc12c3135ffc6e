from .averaging import AveragedWeights
from .config import base_config, default_config, validate_config
from .data import load_data
from .evaluate import Evaluation
from .loop import Interrupted, train
from .metrics import read_metrics
from .non_finite import NonFiniteError
from .optimizer import Adam, AdamW, make_optimizer
from .runs import Run, load
from .strategies import STRATEGIES, WorkerLostError
from .workdir import Workdir

__all__ = [
    "STRATEGIES",
    "Adam",
    "AdamW",
    "AveragedWeights",
    "Evaluation",
    "Interrupted",
    "NonFiniteError",
    "Run",
    "Workdir",
    "WorkerLostError",
    "base_config",
    "default_config",
    "load",
    "load_data",
    "make_optimizer",
    "read_metrics",
    "train",
    "validate_config",
]
