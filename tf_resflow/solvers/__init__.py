"""Fixed-point solvers for the inverse of a residual map."""

from tf_resflow.solvers.fixed_point import Anderson, FixedPoint, Solution
from tf_resflow.solvers.solve_residual import solve_residual

__all__ = ["Anderson", "FixedPoint", "Solution", "solve_residual"]
