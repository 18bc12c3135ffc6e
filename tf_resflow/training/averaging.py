"""A model under its averaged weights, for evaluation."""

from tf_resflow.models.averaging import AveragedWeights

__all__ = ["AveragedWeights"]
