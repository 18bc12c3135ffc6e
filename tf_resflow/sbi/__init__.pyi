from .posterior import ParameterDistribution
from .posterior_estimator import PosteriorEstimator
from .summaries import convolutional_summary, set_summary

__all__ = [
    "ParameterDistribution",
    "PosteriorEstimator",
    "convolutional_summary",
    "set_summary",
]
