"""The warning of a block that draws without a seed, which looks for the caller that lost it."""

import sys
import types
import warnings

from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd
from tensorflow_probability import mcmc

__all__ = ["warn_of_missing_seed"]

_TAKE_NO_ARGUMENTS = (
    tfd.Autoregressive, tfd.BatchConcat, tfd.BatchReshape, tfd.Blockwise, tfd.HiddenMarkovModel, tfd.MarkovChain,
    tfd.Mixture, tfd.MixtureSameFamily,
)  # fmt: skip


def warn_of_missing_seed(name: str) -> None:
    """Warns if the block of this name draws anew at each call, and its caller certainly meant otherwise.

    Arguments pass through TFP's compositions and kernels without a trace, hence the look at the Python frames of
    the callers; in a graph it happens once, during tracing.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if advice := _advice(name, frame.f_locals.get("self"), frame.f_locals.get("kwargs") or {}):
            warnings.warn(f"{name} draws its log-determinant anew at each call {advice}", stacklevel=2)
            return
        frame = frame.f_back


def _advice(name, caller, kwargs):
    """What is wrong with such a caller, and what to do; None if nothing is."""
    if isinstance(caller, tfb.Composition) and _has_seed(kwargs):
        return (
            f"although {caller.name} ({type(caller).__name__}) was given a seed: a stock composition hands "
            f"arguments on by the names of its members, and drops others. Pass {{{name!r}: {{'seed': ...}}}}, or "
            "make a tf_resflow.bijectors.Flow of it."
        )
    if isinstance(caller, tfd.Distribution) and _takes_no_arguments(caller):
        return (
            f"inside of {caller.name}, which hands no seed on: give the block log_det=Exact(), see "
            "tf_resflow.bijectors.with_log_det, or a fixed seed to the TransformedDistribution around it, "
            "kwargs_split_fn=lambda kwargs: ({}, {'seed': 1})."
        )
    if isinstance(caller, mcmc.TransitionKernel):
        return (
            f"inside of a {type(caller).__name__}, but MCMC needs the same density at each: give the block "
            "log_det=Exact(), see tf_resflow.bijectors.with_log_det, or its target a fixed seed."
        )
    return None


def _takes_no_arguments(caller):
    """Whether it is such a distribution; those of parts that are no composite tensors are of a base class."""
    return any(isinstance(caller, kind) or issubclass(kind, type(caller)) for kind in _TAKE_NO_ARGUMENTS)


def _has_seed(kwargs):
    return "seed" in kwargs or any("seed" in part for part in kwargs.values() if isinstance(part, dict))
