"""Bijectors: residual blocks, other layers of flows, compositions, and passes through a flow."""

from tf_resflow.bijectors.base import FlowBijector
from tf_resflow.bijectors.couplings import (
    AdditiveCoupling,
    AffineAutoregressive,
    AffineCoupling,
    ConditionalAffine,
    SplineCoupling,
)
from tf_resflow.bijectors.flow import Flow, MultiscaleFlow
from tf_resflow.bijectors.linear import ActNorm, DCTConv, InvertibleConv1x1
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.passes import forward_features, initialize, inverse_with_solutions
from tf_resflow.bijectors.preprocessing import Logit, Normalize, Squeeze2D, Whiten
from tf_resflow.bijectors.residual_block import MonotoneBlock, ResidualBlock
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
    "SplineCoupling",
    "Squeeze2D",
    "Whiten",
    "certified_bounds",
    "forward_features",
    "initialize",
    "inverse_with_solutions",
    "with_log_det_estimator",
]
