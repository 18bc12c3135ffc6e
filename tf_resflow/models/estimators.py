"""The estimator of the log-determinants that a model is evaluated or served with."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tf_resflow import bijectors, logdet
from tf_resflow.bijectors.certificates import certified_bounds, uncertified_blocks
from tf_resflow.flows.build import build_estimator
from tf_resflow.flows.kinds import ESTIMATORS
from tf_resflow.models.dequantizer import Dequantizer, FlowDequantizer

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["check_only_stderr", "evaluation_estimator"]


def evaluation_estimator(
    config: "ConfigDict",
    flow: bijectors.FlowBijector,
    event_shape: Sequence[int],
    *,
    dequantizer: Dequantizer | None = None,
    name: str | None = None,
    num_probes: int | None = None,
) -> tuple[str, logdet.LogDetEstimator]:
    """The estimator of the log-determinants for evaluation, and its name.

    Args:
      config: a run's configuration, see `tf_resflow.training.default_config`.
      flow: the flow of its model.
      event_shape: shape of an example.
      dequantizer: that of its model, which is evaluated with the same estimator.
      name: "adaptive_roulette" and "russian_roulette": with the settings of `config.model.estimator.eval`;
        "adaptive_series": terms until the rest of the series is guaranteed below 1e-4 nats for each block and
        probe, which needs certified Lipschitz constants below 1; "exact": slogdet. By default "exact" where
        `tf_resflow.logdet.default_estimator` is, or without residual blocks; else
        `config.model.estimator.eval.kind`.
      num_probes: of all but "exact"; by default `config.model.estimator.eval.num_probes`.

    Returns:
      The name and the estimator.

    Raises:
      ValueError: when the name is unknown, or "adaptive_series" cannot be certified.
    """
    settings = config.model.estimator.eval
    parts = [flow, *([dequantizer.flow] if isinstance(dequantizer, FlowDequantizer) else [])]
    if name is None:
        default = logdet.default_estimator(math.prod(event_shape), "evaluation")
        is_exact = isinstance(default, logdet.Exact) or not any(map(bijectors.flow.residual_blocks, parts))
        name = "exact" if is_exact else settings.kind
    if name not in ESTIMATORS:
        raise ValueError(f"log_det is one of {', '.join(ESTIMATORS)}; got {name!r}.")
    if name != "adaptive_series":
        return name, build_estimator(settings, True, kind=name, num_probes=num_probes)
    constants = [constant for part in parts for constant in _certified_constants(part)]
    if not constants:
        return name, logdet.Exact()  # of couplings, which are exact anyway
    return name, logdet.AdaptiveSeries(
        lipschitz_constant=max(constants), probes="colored", num_probes=num_probes or settings.num_probes
    )


def check_only_stderr(stderr: float | None, log_det: str | None, num_probes: int | None) -> None:
    """Raises a ValueError if estimators are named beside a standard error, which chooses them."""
    if stderr is not None and (log_det is not None or num_probes is not None):
        raise ValueError("stderr chooses the estimators: leave out log_det and num_probes, or stderr.")


def _certified_constants(flow: bijectors.FlowBijector) -> Iterable[float]:
    """The certified Lipschitz constants of the branches, all below 1."""
    bounds = certified_bounds(flow)
    worst = max(bounds, key=lambda name: bounds[name], default=None)
    if worst is not None and not bounds[worst] < 1:
        reason = uncertified_blocks(flow).get(worst)
        found = f"not certified ({reason})" if reason else f"{bounds[worst]:.4f}"
        raise ValueError(
            f"log_det='adaptive_series' needs certified Lipschitz constants below 1; that of {worst} is {found}. "
            "Evaluate with 'adaptive_roulette' or 'exact', or train with a lower config.model.coefficient."
        )
    return bounds.values()
