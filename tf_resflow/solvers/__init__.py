"""Fixed-point solvers for the inverse of a residual map."""

from tf_resflow.solvers.fixed_point import Anderson, FixedPoint, Solution, warn_unconverged
from tf_resflow.solvers.residual_inverse import solve_residual

__all__ = ["Anderson", "FixedPoint", "Solution", "solve_residual", "warn_unconverged"]
