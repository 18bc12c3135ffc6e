from .build import build_model
from .data_space import DataSpace
from .dequantizer import Dequantizer, FlowDequantizer
from .estimators import evaluation_estimator
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .posterior_estimator import PosteriorEstimator
from .step import train_step

__all__ = [
    "DataSpace",
    "Dequantizer",
    "FlowDequantizer",
    "FlowModel",
    "HybridModel",
    "PosteriorEstimator",
    "build_model",
    "evaluation_estimator",
    "train_step",
]
