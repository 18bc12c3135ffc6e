from .averaging import AverageWeights
from .data_space import DataSpace, dequantize, quantize
from .dequantizer import Dequantizer, FlowDequantizer
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .optimizers import Adam, Muon
from .step import train_step

__all__ = [
    "Adam",
    "AverageWeights",
    "DataSpace",
    "Dequantizer",
    "FlowDequantizer",
    "FlowModel",
    "HybridModel",
    "Muon",
    "dequantize",
    "quantize",
    "train_step",
]
