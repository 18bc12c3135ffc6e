"""Training: the step, the loop, checkpoints, averaged weights, and the configuration."""

from tf_resflow.training.averaging import AveragedWeights
from tf_resflow.training.build_model import build_model
from tf_resflow.training.command_line import run
from tf_resflow.training.config import default_config, validate_config
from tf_resflow.training.evaluate import (
    METRICS,
    Evaluation,
    check_metrics,
    check_output,
    default_metrics,
)
from tf_resflow.training.evaluation_log_det import default_log_det, evaluation_log_det
from tf_resflow.training.flow_model import FlowModel
from tf_resflow.training.hybrid_model import HybridModel
from tf_resflow.training.load import load
from tf_resflow.training.loop import Interrupted, WorkerLostError, train
from tf_resflow.training.metrics import MetricsWriter, read_metrics
from tf_resflow.training.non_finite import NonFiniteError
from tf_resflow.training.optimizer import Adam, AdamW, make_optimizer
from tf_resflow.training.report import Report
from tf_resflow.training.step import train_step
from tf_resflow.training.strategies import STRATEGIES, is_chief
from tf_resflow.training.table import table
from tf_resflow.training.workdir import Workdir, read_json

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
    "check_output",
    "default_config",
    "default_log_det",
    "default_metrics",
    "evaluation_log_det",
    "is_chief",
    "load",
    "make_optimizer",
    "read_json",
    "read_metrics",
    "run",
    "table",
    "train",
    "train_step",
    "validate_config",
]
