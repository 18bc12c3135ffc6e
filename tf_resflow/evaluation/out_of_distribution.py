"""How well a score distinguishes the data from another data set."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["ood_auroc"]


def ood_auroc(scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """The area under the ROC curve of a score that should be higher in distribution than out of it.

    This is the probability that an example of the data scores higher than one of the other data, with ties counted
    as one half. It is 1 if the score separates them, 0.5 if the score is uninformative, and below 0.5 if the score
    prefers the other data, as log p(x) of many density models does.

    ```python
    import tf_resflow as resflow
    print(resflow.evaluation.ood_auroc([3.0, 4.0, 5.0, 2.0], [1.0, 2.0]))
    # 0.9375
    ```

    Args:
      scores: array `[num]` for examples of the data: log p(x), or the largest class probability.
      ood_scores: array `[num_ood]` for examples of the other data.

    Returns:
      A float in [0, 1].

    Raises:
      ValueError: when an array is empty, not of rank 1, or contains NaN.

    References:
      Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
        other" (1947).
      Nalisnick et al., "Do deep generative models know what they don't know?" (2019).
    """
    scores, ood_scores = np.asarray(scores, np.float64), np.asarray(ood_scores, np.float64)
    for values in (scores, ood_scores):
        if values.ndim != 1 or not values.size or np.any(np.isnan(values)):
            raise ValueError(
                "Expected two arrays of rank 1 with at least one score each, and no NaN; got the shapes "
                f"{scores.shape} and {ood_scores.shape}, with {np.isnan(scores).sum()} and "
                f"{np.isnan(ood_scores).sum()} NaN."
            )
    num, num_ood = len(scores), len(ood_scores)
    ranks = stats.rankdata(np.concatenate([scores, ood_scores]))
    wins = ranks[:num].sum() - num * (num + 1) / 2
    return float(wins / (num * num_ood))
