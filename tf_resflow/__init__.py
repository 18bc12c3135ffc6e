"""Residual Flows for TensorFlow Probability."""

from tf_resflow import bijectors, data, evaluation, flows, interop, layers, logdet, serving, solvers, training
from tf_resflow.seeds import stateless_seed
from tf_resflow.training import FlowModel, HybridModel, load
from tf_resflow.version import __version__

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
