"""The estimator that a flow gets if its user chooses none."""

from tf_resflow.logdet.estimators import AdaptiveRoulette, Exact, LogDetEstimator, RussianRoulette

__all__ = ["default_estimator"]

_LARGEST_EXACT = {"training": 10, "evaluation": 16, "inference": 32, "scores": 256}  # coordinates of an event


def default_estimator(event_size: int, purpose: str) -> LogDetEstimator:
    """Returns the default estimator of log-determinants: exact for small events, unbiased for others.

    | purpose | use | `Exact` up to | above |
    |---|---|---|---|
    | "training" | maximum likelihood | 10 coordinates | `RussianRoulette` |
    | "evaluation" | log-likelihoods, averaged over examples | 16 coordinates | `AdaptiveRoulette` |
    | "inference" | posteriors, coordinates of Markov chains | 32 coordinates | `RussianRoulette` |
    | "scores" | log-densities of rows, compared with each other | 256 coordinates | `AdaptiveRoulette` |

    A step with `Exact` takes at most 2 times the processor time of one with the estimate in training and inference,
    and 5 times in evaluation (image flows; 2 times for vector flows), as `benchmarks/exact_crossover.py` measures.
    Noise changes the ranks of scores, and a row is scored once.

    Args:
      event_size: number of coordinates of an event.
      purpose: a key of the table.

    Raises:
      ValueError: if the purpose is another one.
    """
    if purpose not in _LARGEST_EXACT:
        raise ValueError(f"purpose must be one of {', '.join(_LARGEST_EXACT)}; got {purpose!r}.")
    if event_size <= _LARGEST_EXACT[purpose]:
        return Exact()
    is_training = purpose in ("training", "inference")
    return RussianRoulette(probes="colored") if is_training else AdaptiveRoulette(per_example=True)
