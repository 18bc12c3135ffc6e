from .build import build_model
from .dequantizer import Dequantizer, FlowDequantizer
from .estimators import evaluation_estimator
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .step import train_step

__all__ = [
    "Dequantizer",
    "FlowDequantizer",
    "FlowModel",
    "HybridModel",
    "build_model",
    "evaluation_estimator",
    "train_step",
]
