"""Builders of flows."""

from tf_resflow.flows.branches import (
    ACTIVATIONS,
    conv_branch,
    coupling_network,
    dense_branch,
    dense_coupling_network,
)
from tf_resflow.flows.build import build_estimator, build_flow
from tf_resflow.flows.classifier import ActNormLayer, initialize_classifier, multiscale_classifier
from tf_resflow.flows.image_flow import image_flow
from tf_resflow.flows.vector_flow import vector_flow

__all__ = [
    "ACTIVATIONS",
    "ActNormLayer",
    "build_estimator",
    "build_flow",
    "conv_branch",
    "coupling_network",
    "dense_branch",
    "dense_coupling_network",
    "image_flow",
    "initialize_classifier",
    "multiscale_classifier",
    "vector_flow",
]
