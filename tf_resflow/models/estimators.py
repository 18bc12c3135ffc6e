"""The estimator of the log-determinants that a model is evaluated or served with."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tf_resflow import bijectors, flows, layers, logdet
from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.progress import track

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["evaluation_estimator"]

_EXACT_SIZE = 16  # coordinates up to which a log-determinant is computed by slogdet


def evaluation_estimator(
    config: "ConfigDict",
    flow: bijectors.FlowBijector,
    event_shape: Sequence[int],
    *,
    name: str | None = None,
    num_probes: int = 1,
    common: bool = False,
) -> tuple[str, logdet.LogDetEstimator]:
    """The estimator of the log-determinants for evaluation, and its name.

    Args:
      config: a run's configuration, see `tf_resflow.training.default_config`.
      flow: the flow of its model.
      event_shape: shape of an example.
      name: "russian_roulette": as `config.model.estimator.eval`; "adaptive": terms until the rest of the series is
        guaranteed below 1e-4 nats for each block and probe, which needs certified Lipschitz constants below 1;
        "exact": slogdet. By default "exact" up to 16 coordinates or without residual blocks, else
        "russian_roulette".
      num_probes: of "russian_roulette" and "adaptive".
      common: whether the examples of a batch share their probes and their number of terms.

    Returns:
      The name and the estimator.

    Raises:
      ValueError: when the name is unknown, or "adaptive" cannot be certified.
    """
    if name is None:
        is_exact = math.prod(event_shape) <= _EXACT_SIZE or not bijectors.residual_blocks(flow)
        name = "exact" if is_exact else "russian_roulette"
    if name == "exact":
        return name, logdet.Exact()
    if name == "russian_roulette":
        return name, flows.build_estimator(
            config.model.estimator.eval, per_example=not common, num_probes=num_probes, common_probes=common
        )
    if name != "adaptive":
        raise ValueError(f"log_det is 'russian_roulette', 'adaptive' or 'exact'; got {name!r}.")
    constant = _certified_constant(flow)
    if constant is None:
        return name, logdet.Exact()  # of couplings, which are exact anyway
    return name, logdet.AdaptiveSeries(lipschitz_constant=constant, num_probes=num_probes, common_probes=common)


def _certified_constant(flow: bijectors.FlowBijector) -> float | None:
    """The largest certified Lipschitz constant of a branch, below 1; None without residual blocks."""
    blocks = {k: part for k, part in parts_by_name(flow).items() if isinstance(part, bijectors.ResidualBlock)}
    constants, reasons = {}, {}
    for name, block in track(blocks.items(), "Lipschitz bounds of the blocks"):
        try:
            constants[name] = float(layers.lipschitz_constant(block.branch, certified=True))
        except ValueError as error:
            constants[name], reasons[name] = math.inf, str(error).partition(". ")[0]
    if not constants:
        return None
    worst = max(constants, key=lambda name: constants[name])
    if not constants[worst] < 1:
        found = f"not certified ({reasons[worst]})" if worst in reasons else f"{constants[worst]:.4f}"
        raise ValueError(
            f"log_det='adaptive' needs certified Lipschitz constants below 1, but that of {worst} is {found}. "
            "Evaluate with 'russian_roulette' or 'exact', or train with a lower config.model.coefficient."
        )
    return constants[worst]
