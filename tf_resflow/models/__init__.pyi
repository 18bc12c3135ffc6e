from .build import build_model
from .data_space import DataSpace
from .dequantizer import Dequantizer, FlowDequantizer
from .estimators import evaluation_estimator
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .step import train_step

__all__ = [
    "DataSpace",
    "Dequantizer",
    "FlowDequantizer",
    "FlowModel",
    "HybridModel",
    "build_model",
    "evaluation_estimator",
    "train_step",
]
