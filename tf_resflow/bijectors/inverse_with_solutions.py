"""The inverse of a flow with what its solver says."""

import tensorflow_probability as tfp

from tf_resflow.bijectors.base import Context, run
from tf_resflow.bijectors.flow import residual_blocks
from tf_resflow.bijectors.residual_block import ResidualBlock

__all__ = ["inverse_with_solutions"]

tfb = tfp.bijectors


def inverse_with_solutions(flow, z):
    """`flow.inverse(z)`, with the solver's diagnostics.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=3, hidden=(8,))
    x, solutions = resflow.bijectors.inverse_with_solutions(flow, [[0.1, 0.2]])
    print(x.shape, len(solutions), all(solution.converged for solution in solutions))
    # (1, 2) 3 True
    ```

    Args:
      flow: a bijector from data to latent.
      z: `[batch, *latent]`.

    Returns:
      The data, and a list of the `tf_resflow.solvers.Solution` of each block, in the order in which they are
      inverted; of a flow without blocks it is empty.

    Raises:
      ValueError: for another thing than a bijector, or one of TFP's in which blocks are hidden.
    """
    if not isinstance(flow, tfb.Bijector):
        raise ValueError(f"inverse_with_solutions takes a bijector or a flow; got {type(flow).__name__}.")
    done = run(flow, z, Context(log_det=False, visit=_refuse_hidden_blocks), inverse=True)
    return done.value, list(done.solutions)


def _refuse_hidden_blocks(bijector, x, inverse):
    del x, inverse
    hidden = [] if isinstance(bijector, ResidualBlock) else [block.name for block in residual_blocks(bijector)]
    if hidden:
        raise ValueError(
            f"{bijector.name} ({type(bijector).__name__}) holds blocks whose solutions it does not give: "
            f"{', '.join(hidden)}. Put them in a Flow, a MultiscaleFlow or a composition of TFP's."
        )
