"""Estimators of the log-determinant of a residual map's Jacobian."""

from tf_resflow.logdet.estimators import (
    AdaptiveRoulette,
    AdaptiveSeries,
    Exact,
    LogDetEstimator,
    PowerSeries,
    RussianRoulette,
)
from tf_resflow.logdet.term_distributions import Geometric, Poisson

__all__ = [
    "AdaptiveRoulette",
    "AdaptiveSeries",
    "Exact",
    "Geometric",
    "LogDetEstimator",
    "Poisson",
    "PowerSeries",
    "RussianRoulette",
]
