"""What a block that draws without a seed can tell of who has lost it."""

import sys
import warnings

import tensorflow_probability as tfp

__all__ = ["warn_of_missing_seed"]


def warn_of_missing_seed(name):
    """Warns where a block draws anew and the caller surely meant otherwise.

    Arguments pass through TFP's compositions and kernels without a trace, so that the Python frames of the callers
    are looked through: in a graph once, while it is traced.

    Args:
      name: `str`, of the block.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, tfp.bijectors.Composition) and _has_seed(frame.f_locals.get("kwargs") or {}):
            warnings.warn(
                f"{name} draws anew at each call, though {caller.name} ({type(caller).__name__}) was given a seed: "
                "a stock composition hands arguments on by the names of its members, and drops others. Pass "
                f"{{{name!r}: {{'seed': ...}}}}, or make a tf_resflow.bijectors.Flow of it.",
                stacklevel=2,
            )
            return
        if isinstance(caller, tfp.mcmc.TransitionKernel):
            warnings.warn(
                f"{name} draws its log-determinant anew at each call inside of a {type(caller).__name__}, but MCMC "
                "needs the same density at each: give the block log_det=Exact(), see "
                "tf_resflow.bijectors.with_log_det, or its target a fixed seed.",
                stacklevel=2,
            )
            return
        frame = frame.f_back


def _has_seed(kwargs):
    return "seed" in kwargs or any("seed" in part for part in kwargs.values() if isinstance(part, dict))
