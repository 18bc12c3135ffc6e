"""Bijectors: the residual block, and what a flow needs around it."""

from tf_resflow.bijectors.act_norm import ActNorm
from tf_resflow.bijectors.base import Context, FlowBijector, LipschitzConstants, Pass
from tf_resflow.bijectors.couplings import AdditiveCoupling, AffineCoupling, Coupling
from tf_resflow.bijectors.flow import Flow, residual_blocks
from tf_resflow.bijectors.invertible_conv_1x1 import InvertibleConv1x1
from tf_resflow.bijectors.monotone_block import MonotoneBlock
from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.passes import (
    Features,
    block_inputs,
    feature_shapes,
    forward_features,
    initialize,
    inverse_with_solutions,
)
from tf_resflow.bijectors.preprocessing import Logit, Normalize
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.bijectors.squeeze_2d import Squeeze2D
from tf_resflow.bijectors.variable_bijector import VariableBijector
from tf_resflow.bijectors.views import blocks_by_name, with_inverse_solver, with_log_det

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Context",
    "Coupling",
    "Features",
    "Flow",
    "FlowBijector",
    "InvertibleConv1x1",
    "LipschitzConstants",
    "Logit",
    "MonotoneBlock",
    "MultiscaleFlow",
    "Networks",
    "Normalize",
    "Pass",
    "ResidualBlock",
    "Squeeze2D",
    "VariableBijector",
    "block_inputs",
    "blocks_by_name",
    "feature_shapes",
    "forward_features",
    "initialize",
    "inverse_with_solutions",
    "residual_blocks",
    "with_inverse_solver",
    "with_log_det",
]
