"""Fixed-point solvers for the inverse of a residual map."""

from tf_resflow.solvers.fixed_point import Anderson, FixedPoint, Solution
from tf_resflow.solvers.residual_inverse import solve_residual
from tf_resflow.solvers.warn_unconverged import warn_unconverged

__all__ = ["Anderson", "FixedPoint", "Solution", "solve_residual", "warn_unconverged"]
