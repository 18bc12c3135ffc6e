from .posterior import Posterior
from .posterior_estimator import PosteriorEstimator
from .summaries import convolutional_summary, set_summary

__all__ = [
    "Posterior",
    "PosteriorEstimator",
    "convolutional_summary",
    "set_summary",
]
