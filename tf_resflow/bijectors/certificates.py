"""Rigorous Lipschitz bounds of the residual branches of a flow."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_resflow.bijectors.networks import bounded_norm
from tf_resflow.bijectors.views import blocks_by_name
from tf_resflow.layers import lipschitz_constant
from tf_resflow.progress import track


def uncertified_blocks(flow: tf.Module) -> dict[str, str]:
    """The names of the residual blocks whose `lipschitz_constant` cannot be verified, each with the reason."""
    reasons = {name: bounded_norm(block.branch)[1] for name, block in blocks_by_name(flow).items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def certified_bounds(flow: tf.Module, bound: Callable[..., Any] = lipschitz_constant) -> dict[str, float]:
    """Returns a rigorous upper bound of the Lipschitz constant of each residual branch, by the name of its block.

    A bound is the product of the bounds of the layers and activations, for the current weights. Below 1 it proves
    that the block is invertible; above 1 it proves nothing. It is infinite for blocks that cannot be verified.
    """
    uncertified = uncertified_blocks(flow)
    return {
        name: math.inf if name in uncertified else float(bound(block.branch, certified=True))
        for name, block in track(blocks_by_name(flow).items(), "Lipschitz bounds of the blocks")
    }
