"""The inverse of a flow with what its solver says."""

from tf_resflow.bijectors.with_log_det import with_arguments

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
      flow: a bijector from data to latent.
      z: `[batch, *latent]`.

    Returns:
      The data, and a list of the `tf_resflow.solvers.Solution` of each block, in the order in which they are
      inverted; of a flow without blocks it is empty.
    """
    solutions = []
    view = with_arguments(flow, lambda block: {"inverse_solver": _Recorder(block.inverse_solver, solutions)})
    return view.inverse(z), solutions


class _Recorder:
    """A solver that adds what it finds to a list."""

    def __init__(self, solver, solutions):
        self._solver, self._solutions = solver, solutions
        self.max_iterations = solver.max_iterations

    def __call__(self, g, y, **arguments):
        solution = self._solver(g, y, **arguments)
        self._solutions.append(solution)
        return solution
