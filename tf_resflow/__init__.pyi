from . import bijectors, data, evaluation, flows, interop, layers, logdet, serving, solvers, training
from .seeds import stateless_seed
from .training import FlowModel, HybridModel, load
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
    "serving",
    "solvers",
    "stateless_seed",
    "training",
]
