"""How log-likelihoods are estimated: with which estimators, and how often."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_resflow import logdet
from tf_resflow.logdet.term_distributions import TermDistribution
from tf_resflow.typing import LogDet

__all__ = ["BlockPlan", "LikelihoodPlan", "describe_estimator", "describe_plan"]


class BlockPlan(NamedTuple):
    """The estimator of a block, and what was measured of one of its estimates of one example.

    `std` is the root mean square, over examples, of the standard deviation in nats; `seconds` in a batch.
    """

    log_det: logdet.LogDetEstimator
    std: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    r"""How the log-likelihood of an example is estimated: the mean of K = `num_samples` independent estimates.

    `tf_resflow.evaluation.plan_likelihood` makes one for an asked-for standard error. Its square is then
    \\((d^2 + \sum_b \sigma_b^2) / K\\), with the noise d of the dequantization and \\(\sigma_b\\) of the blocks.

    Attributes:
      log_det: the estimator of the log-determinants, or a dict of them by block
        (`tf_resflow.bijectors.with_log_det`); by default the model's evaluation estimator.
      num_samples: K, at least 1.
      stderr: what was asked for, in nats, if the plan was measured.
      dequantization_std: then d, in nats.
      blocks: then a dict of the name of each block to its estimator, `std` in nats and `seconds`.
    """

    log_det: LogDet | None = None
    num_samples: int = 1
    stderr: float | None = None
    dequantization_std: float = math.nan
    blocks: Mapping[str, BlockPlan] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {self.num_samples}.")

    @property
    def log_det_stderr(self) -> float:
        """The part of the log-determinants in the expected standard error, in nats."""
        return math.sqrt(sum(block.std**2 for block in self.blocks.values()) / self.num_samples)

    @property
    def expected_stderr(self) -> float:
        """The standard error that it should give, in nats: the root mean square over the measured examples."""
        return math.hypot(self.log_det_stderr, self.dequantization_std / math.sqrt(self.num_samples))

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers and text, for JSON."""
        blocks = {
            name: {**describe_estimator(block.log_det), "std": block.std, "seconds": block.seconds}
            for name, block in self.blocks.items()
        }
        names = ("stderr", "expected_stderr", "log_det_stderr", "num_samples", "dequantization_std")
        return {**{name: getattr(self, name) for name in names}, "blocks": blocks}

    def __str__(self) -> str:
        lines = [
            f"{self.num_samples} samples: a standard error of {self.expected_stderr:.3g} nats, and "
            f"{self.log_det_stderr:.3g} of the log-determinants alone"
        ]
        width = max(map(len, self.blocks), default=0)
        for name, block in self.blocks.items():
            kind, *settings = describe_estimator(block.log_det).items()
            arguments = ", ".join(
                f"{key}={value}" for key, value in settings if key in ("probes", "num_probes", "rtol")
            )
            lines.append(f"  {name:<{width}}  {kind[1]}({arguments}): {block.std:.3g} nats")
        return "\n".join(lines)


def describe_plan(plan: LikelihoodPlan) -> dict[str, Any]:
    """A plan for JSON: what was measured, or the estimator alone."""
    if plan.stderr is None:
        return describe_estimator(plan.log_det)
    return {"type": "LikelihoodPlan", **plan.as_dict()}


def describe_estimator(log_det: Any) -> dict[str, Any]:
    """What a model takes as `log_det`, for JSON: its "type" and its settings, or the estimators of "blocks"."""
    if isinstance(log_det, Mapping):
        return {"type": "by block", "blocks": {name: describe_estimator(part) for name, part in log_det.items()}}
    settings = {
        name: value for name, value in vars(log_det).items() if not name.startswith("_") and value is not None
    }
    return {"type": type(log_det).__name__} | {name: _plain(value) for name, value in settings.items()}


def _plain(value):
    if isinstance(value, TermDistribution):
        return describe_estimator(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)
