from .branches import (
    ACTIVATIONS,
    conv_branch,
    coupling_network,
    dense_branch,
    dense_coupling_network,
    dense_net_branch,
)
from .build import build_estimator, build_flow
from .classifier import ActNormLayer, initialize_classifier, multiscale_classifier
from .image_blocks import BlockMaker, BlockSpec, coupling_image_block, residual_image_block
from .image_flows import image_flow
from .vector_flows import vector_flow

__all__ = [
    "ACTIVATIONS",
    "ActNormLayer",
    "BlockMaker",
    "BlockSpec",
    "build_estimator",
    "build_flow",
    "conv_branch",
    "coupling_image_block",
    "coupling_network",
    "dense_branch",
    "dense_coupling_network",
    "dense_net_branch",
    "image_flow",
    "initialize_classifier",
    "multiscale_classifier",
    "residual_image_block",
    "vector_flow",
]
