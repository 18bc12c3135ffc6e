"""Builders of flows."""

from tf_resflow.flows.branches import ACTIVATIONS, conv_branch, dense_branch
from tf_resflow.flows.build import build_estimator, build_flow
from tf_resflow.flows.image_flow import image_flow
from tf_resflow.flows.vector_flow import vector_flow

__all__ = [
    "ACTIVATIONS",
    "build_estimator",
    "build_flow",
    "conv_branch",
    "dense_branch",
    "image_flow",
    "vector_flow",
]
