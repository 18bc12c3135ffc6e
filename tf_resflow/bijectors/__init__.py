"""Bijectors: the residual block, and what a flow needs around it."""

from tf_resflow.bijectors.act_norm import ActNorm
from tf_resflow.bijectors.additive_coupling import AdditiveCoupling
from tf_resflow.bijectors.affine_coupling import AffineCoupling
from tf_resflow.bijectors.base import Context, FlowBijector, LipschitzConstants, Pass
from tf_resflow.bijectors.coupling import Coupling
from tf_resflow.bijectors.features import Features, feature_shapes, forward_features
from tf_resflow.bijectors.flow import Flow, residual_blocks
from tf_resflow.bijectors.initialize import initialize
from tf_resflow.bijectors.inverse_with_solutions import inverse_with_solutions
from tf_resflow.bijectors.invertible_conv_1x1 import InvertibleConv1x1
from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.preprocessing import Logit, Normalize
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.bijectors.squeeze_2d import Squeeze2D
from tf_resflow.bijectors.variable_bijector import VariableBijector
from tf_resflow.bijectors.with_log_det import with_inverse_solver, with_log_det

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
    "MultiscaleFlow",
    "Normalize",
    "Pass",
    "ResidualBlock",
    "Squeeze2D",
    "VariableBijector",
    "feature_shapes",
    "forward_features",
    "initialize",
    "inverse_with_solutions",
    "residual_blocks",
    "with_inverse_solver",
    "with_log_det",
]
