from .likelihood_estimator import LikelihoodEstimator, PosteriorDraws
from .posterior import ParameterDistribution
from .posterior_estimator import PosteriorEstimator
from .summaries import convolutional_summary, set_summary

__all__ = [
    "LikelihoodEstimator",
    "ParameterDistribution",
    "PosteriorDraws",
    "PosteriorEstimator",
    "convolutional_summary",
    "set_summary",
]
