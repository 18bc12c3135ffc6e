from . import (
    bijectors,
    data,
    evaluation,
    flows,
    interop,
    layers,
    logdet,
    models,
    sbi,
    serving,
    solvers,
    tables,
    training,
    vi,
)
from ._internal.seeds import stateless_seed
from .loading import load
from .models import FlowModel, HybridModel
from .sbi import PosteriorEstimator
from .tables import FlowDensity
from .version import __version__

__all__ = [
    "FlowDensity",
    "FlowModel",
    "HybridModel",
    "PosteriorEstimator",
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
    "sbi",
    "serving",
    "solvers",
    "stateless_seed",
    "tables",
    "training",
    "vi",
]
