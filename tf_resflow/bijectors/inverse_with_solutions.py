"""The inverse of a flow with what its solver says."""

from tf_resflow.bijectors.flow import residual_blocks
from tf_resflow.bijectors.with_log_det import with_inverse_solver

__all__ = ["inverse_with_solutions"]


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
      flow: a bijector from data to latent. The solver of its first `ResidualBlock` is used for all.
      z: `[batch, *latent]`.

    Returns:
      The data, and a list of the `tf_resflow.solvers.Solution` of each block, in the order in which they are
      inverted; of a flow without blocks it is empty.
    """
    blocks = residual_blocks(flow)
    if not blocks:
        return flow.inverse(z), []
    recorder = _Recorder(blocks[0].inverse_solver)
    return with_inverse_solver(flow, recorder).inverse(z), recorder.solutions


class _Recorder:
    """A solver that keeps what it found."""

    def __init__(self, solver):
        self._solver = solver
        self.max_iterations = solver.max_iterations
        self.solutions = []

    def __call__(self, g, y, relative=False):
        solution = self._solver(g, y, relative)
        self.solutions.append(solution)
        return solution
