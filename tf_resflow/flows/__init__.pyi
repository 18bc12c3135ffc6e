from .branches import conv_branch, dense_branch, dense_net_branch
from .classifier import multiscale_classifier
from .image_flows import coupling_image_block, image_flow, residual_image_block
from .networks import autoregressive_network, coupling_network, dense_coupling_network
from .vector_flows import vector_flow

__all__ = [
    "autoregressive_network",
    "conv_branch",
    "coupling_image_block",
    "coupling_network",
    "dense_branch",
    "dense_coupling_network",
    "dense_net_branch",
    "image_flow",
    "multiscale_classifier",
    "residual_image_block",
    "vector_flow",
]
