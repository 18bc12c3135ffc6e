"""Estimators of the log-determinant of a residual map's Jacobian."""

from tf_resflow.logdet import estimators
from tf_resflow.logdet.estimators import *  # noqa: F403
from tf_resflow.logdet.term_distributions import Geometric, Poisson

__all__ = ["Geometric", "Poisson"]
__all__ += estimators.__all__
