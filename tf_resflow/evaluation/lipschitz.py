"""The Lipschitz certificate of a flow."""

from tf_resflow import bijectors, layers

__all__ = ["lipschitz_bounds"]


def lipschitz_bounds(flow):
    r"""Returns a rigorous upper bound of the Lipschitz constant of each residual branch.

    Power iteration estimates a norm from below, so that a layer may exceed its coefficient by what
    is left to converge. These bounds are proofs for the present weights: the product, through the
    branch, of the bound of each layer and activation. A bound below 1 proves that the block is
    invertible; one above 1 proves nothing, since the product and each layer's bound are above the
    truth by up to a few per cent.

    Args:
      flow: a `Flow`, or any `tf.Module` with residual blocks in it.

    Returns:
      A dict of the block's name to a float; empty for a flow of couplings.
    """
    blocks = [m for m in (flow, *flow.submodules) if isinstance(m, bijectors.ResidualBlock)]
    return {
        block.name: float(layers.lipschitz_constant(block.branch, certified=True))
        for block in blocks
    }
