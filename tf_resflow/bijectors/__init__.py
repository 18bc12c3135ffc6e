"""Bijectors: residual blocks, other layers of flows, compositions, and passes through a flow."""

from tf_resflow.bijectors.act_norm import ActNorm
from tf_resflow.bijectors.affine_autoregressive import AffineAutoregressive
from tf_resflow.bijectors.base import FlowBijector
from tf_resflow.bijectors.conditional_affine import ConditionalAffine
from tf_resflow.bijectors.couplings import AdditiveCoupling, AffineCoupling
from tf_resflow.bijectors.dct_conv import DCTConv
from tf_resflow.bijectors.flow import Flow
from tf_resflow.bijectors.invertible_conv_1x1 import InvertibleConv1x1
from tf_resflow.bijectors.monotone_block import MonotoneBlock
from tf_resflow.bijectors.multiscale_flow import MultiscaleFlow
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.passes import forward_features, initialize, inverse_with_solutions
from tf_resflow.bijectors.preprocessing import Logit, Normalize, Squeeze2D, Whiten
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.bijectors.views import certified_bounds, with_log_det_estimator

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineAutoregressive",
    "AffineCoupling",
    "ConditionalAffine",
    "DCTConv",
    "Flow",
    "FlowBijector",
    "InvertibleConv1x1",
    "Logit",
    "MonotoneBlock",
    "MultiscaleFlow",
    "Networks",
    "Normalize",
    "ResidualBlock",
    "Squeeze2D",
    "Whiten",
    "certified_bounds",
    "forward_features",
    "initialize",
    "inverse_with_solutions",
    "with_log_det_estimator",
]
