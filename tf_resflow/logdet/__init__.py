"""Estimators of the log-determinant of a residual map's Jacobian."""

from tf_resflow.logdet.default import default_estimator
from tf_resflow.logdet.estimators import (
    AdaptiveRoulette,
    AdaptiveSeries,
    Exact,
    LogDetEstimator,
    PowerSeries,
    RussianRoulette,
)
from tf_resflow.logdet.term_distributions import Geometric, Poisson
from tf_resflow.logdet.unseeded import UnseededEstimateWarning

__all__ = [
    "AdaptiveRoulette",
    "AdaptiveSeries",
    "Exact",
    "Geometric",
    "LogDetEstimator",
    "Poisson",
    "PowerSeries",
    "RussianRoulette",
    "UnseededEstimateWarning",
    "default_estimator",
]
