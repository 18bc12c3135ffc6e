"""Fixed-point solvers for the inverse of a residual map."""

from tf_resflow.solvers.fixed_point import Anderson, FixedPoint, Solution

__all__ = ["Anderson", "FixedPoint", "Solution"]
