from .averaging import AveragedWeights
from .config import default_config, validate_config
from .data import load_data
from .evaluate import Evaluation, default_metrics
from .load import load
from .loop import Interrupted, WorkerLostError, train
from .metrics import read_metrics
from .metrics_writer import MetricsWriter
from .non_finite import NonFiniteError
from .optimizer import Adam, AdamW, make_optimizer
from .report import Report
from .strategies import STRATEGIES, is_chief
from .table import METRICS, check_metrics, table
from .workdir import Workdir, read_json, write_json

__all__ = [
    "METRICS",
    "STRATEGIES",
    "Adam",
    "AdamW",
    "AveragedWeights",
    "Evaluation",
    "Interrupted",
    "MetricsWriter",
    "NonFiniteError",
    "Report",
    "Workdir",
    "WorkerLostError",
    "check_metrics",
    "default_config",
    "default_metrics",
    "is_chief",
    "load",
    "load_data",
    "make_optimizer",
    "read_json",
    "read_metrics",
    "table",
    "train",
    "validate_config",
    "write_json",
]
