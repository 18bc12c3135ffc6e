"""Residual Flows for TensorFlow Probability."""

from tf_resflow import bijectors, layers, logdet, solvers
from tf_resflow.seeds import stateless_seed
from tf_resflow.version import __version__

__all__ = ["__version__", "bijectors", "layers", "logdet", "solvers", "stateless_seed"]
