"""Fixed-point solvers for the inverse of a residual map."""

from tf_resflow.solvers.fixed_point import Anderson, FixedPoint, Solution, warn_unconverged
from tf_resflow.solvers.residual_inverse import loose_solutions, solve_residual

__all__ = ["Anderson", "FixedPoint", "Solution", "loose_solutions", "solve_residual", "warn_unconverged"]
