"""How log-likelihoods are estimated to an asked-for standard error."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from tf_resflow import logdet
from tf_resflow.logdet.term_distributions import TermDistribution

__all__ = ["BlockPlan", "LikelihoodPlan", "LogDet", "describe_estimator", "with_sets"]


class BlockPlan(NamedTuple):
    """How the log-determinant of a block is estimated.

    Attributes:
      log_det: the estimator.
      std: root mean square, over examples, of the standard deviation of one estimate, in nats.
      seconds: of one estimate of one example, in a batch.
    """

    log_det: logdet.LogDetEstimator
    std: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    r"""How to estimate the log-likelihood of an example to an asked-for standard error.

    It is taken wherever a `FlowModel` takes a `log_det`. The estimate is the mean of K = `num_samples` independent
    ones, and its squared standard error is \\((d^2 + \sum_b \sigma_b^2) / K\\), with the noise d of the
    dequantization and \\(\sigma_b\\) of the blocks.

    Attributes:
      stderr: what was asked for, in nats.
      num_samples: number of estimates that are averaged.
      dequantization_std: d, in nats.
      blocks: a dict of the name of each block to its `BlockPlan`.
    """

    stderr: float
    num_samples: int
    dequantization_std: float
    blocks: Mapping[str, BlockPlan]

    @property
    def log_det_stderr(self) -> float:
        """The part of the log-determinants in the expected standard error, in nats."""
        return math.sqrt(sum(block.std**2 for block in self.blocks.values()) / self.num_samples)

    @property
    def expected_stderr(self) -> float:
        """The standard error that it should give, in nats: the root mean square over the measured examples."""
        return math.hypot(self.log_det_stderr, self.dequantization_std / math.sqrt(self.num_samples))

    @property
    def log_det(self) -> dict[str, logdet.LogDetEstimator]:
        """The estimators by block."""
        return {name: block.log_det for name, block in self.blocks.items()}

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


def describe_estimator(log_det: Any) -> dict[str, Any]:
    """What a model takes as `log_det`, for JSON: its "type" and its settings, or the estimators of "blocks"."""
    if isinstance(log_det, LikelihoodPlan):
        return {"type": "LikelihoodPlan", **log_det.as_dict()}
    if isinstance(log_det, Mapping):
        return {"type": "by block", "blocks": {name: describe_estimator(part) for name, part in log_det.items()}}
    settings = {
        name: value for name, value in vars(log_det).items() if not name.startswith("_") and value is not None
    }
    return {"type": type(log_det).__name__} | {name: _plain(value) for name, value in settings.items()}


def with_sets(log_det: Any, num: int) -> Any:
    """The estimator for `num` equal parts of a batch whose examples share all random numbers."""
    return log_det.with_sets(num) if isinstance(log_det, logdet.LogDetEstimator) else log_det


def _plain(value):
    if isinstance(value, TermDistribution):
        return describe_estimator(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)


LogDet: TypeAlias = Callable[..., Any] | Mapping[str, Callable[..., Any]] | LikelihoodPlan
