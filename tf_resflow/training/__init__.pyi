from .averaging import AveragedWeights
from .build_model import build_model
from .config import default_config, validate_config
from .data import load_data
from .evaluate import Evaluation, default_metrics
from .evaluation_log_det import default_log_det, evaluation_log_det
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .load import load
from .loop import Interrupted, WorkerLostError, train
from .metrics import read_metrics
from .metrics_writer import MetricsWriter
from .non_finite import NonFiniteError
from .optimizer import Adam, AdamW, make_optimizer
from .report import Report
from .step import train_step
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
    "FlowModel",
    "HybridModel",
    "Interrupted",
    "MetricsWriter",
    "NonFiniteError",
    "Report",
    "Workdir",
    "WorkerLostError",
    "build_model",
    "check_metrics",
    "default_config",
    "default_log_det",
    "default_metrics",
    "evaluation_log_det",
    "is_chief",
    "load",
    "load_data",
    "make_optimizer",
    "read_json",
    "read_metrics",
    "table",
    "train",
    "train_step",
    "validate_config",
    "write_json",
]
