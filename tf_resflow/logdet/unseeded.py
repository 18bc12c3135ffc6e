"""The warning of the first estimate in a process that is drawn without a seed."""

import warnings

__all__ = ["UnseededEstimateWarning", "warn_unseeded"]

_has_warned = False


class UnseededEstimateWarning(UserWarning):
    """A random estimate of a log-determinant got no seed. The first one in a process issues this warning.

    A caller that wants fresh random numbers passes `seed=None`, and gets no warning.
    """


def warn_unseeded(name: str) -> None:
    """Issues the warning for the block of this name, unless the process has seen it."""
    global _has_warned
    if _has_warned:
        return
    warnings.warn(
        f"The block {name!r} estimated a log-determinant without a seed: the value is random, and differs at each "
        'call. Pass a seed, as by log_prob(x, bijector_kwargs={"seed": 1}). Where the caller passes none on, as in '
        "MCMC, mixtures and joint distributions, make log-determinants exact: tf_resflow.bijectors.with_log_det("
        "density, tf_resflow.logdet.Exact()). This warning is issued once per process.",
        UnseededEstimateWarning,
        stacklevel=3,
    )
    _has_warned = True
