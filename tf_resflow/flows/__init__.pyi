from .branches import (
    ACTIVATIONS,
    conv_branch,
    coupling_network,
    dense_branch,
    dense_coupling_network,
)
from .build import build_estimator, build_flow
from .classifier import ActNormLayer, initialize_classifier, multiscale_classifier
from .image_flow import image_flow
from .vector_flow import vector_flow

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
