from . import bijectors, data, evaluation, flows, interop, layers, logdet, models, serving, solvers, training, vi
from .models import FlowModel, HybridModel
from .seeds import stateless_seed
from .training.runs import load
from .version import __version__

__all__ = [
    "FlowModel",
    "HybridModel",
    "__version__",
    "bijectors",
    "data",
    "evaluation",
    "flows",
    "interop",
    "layers",
    "load",
    "logdet",
    "models",
    "serving",
    "solvers",
    "stateless_seed",
    "training",
    "vi",
]
