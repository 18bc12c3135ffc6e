"""The estimator that a flow gets if its user chooses none."""

from tf_resflow.logdet.estimators import AdaptiveRoulette, Exact, LogDetEstimator, RussianRoulette

__all__ = ["default_estimator"]

_LARGEST_EXACT = {"training": 10, "evaluation": 32, "inference": 64}  # coordinates of an event


def default_estimator(event_size: int, purpose: str) -> LogDetEstimator:
    """Returns the estimator of log-determinants for events of a size: exact for small events, unbiased above.

    | purpose | `Exact` up to | above |
    |---|---|---|
    | "training" | 16 coordinates | `RussianRoulette` |
    | "evaluation" | 64 coordinates | `AdaptiveRoulette`, with a number of terms for each example |
    | "inference" | 64 coordinates | `RussianRoulette` |

    ```python
    import tf_resflow as resflow
    for size in (16, 17):
        print(type(resflow.logdet.default_estimator(size, "training")).__name__)
    # Exact
    # RussianRoulette
    ```

    Args:
      event_size: number of coordinates of an event.
      purpose: "training" by maximum likelihood; "evaluation" of a log-likelihood; or "inference", for a flow that
        is a posterior or the coordinates of Markov chains.

    Raises:
      ValueError: if the purpose is another one.
    """
    if purpose not in _LARGEST_EXACT:
        raise ValueError(f"purpose must be one of {', '.join(_LARGEST_EXACT)}; got {purpose!r}.")
    if event_size <= _LARGEST_EXACT[purpose]:
        return Exact()
    return AdaptiveRoulette(per_example=True) if purpose == "evaluation" else RussianRoulette(probes="colored")
