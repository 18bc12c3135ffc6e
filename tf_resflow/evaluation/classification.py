"""Scores of classifiers: accuracy, calibration, and how well a score tells the data from other data."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

__all__ = ["classification_scores", "expected_calibration_error", "ood_auroc"]


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The scores of softmax(logits) `[num, classes]`; the cross-entropy, the mean of -log p(label | x), in nats."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    calibration_error = expected_calibration_error(special.softmax(logits, axis=-1), labels)
    num, accuracy = len(labels), float(np.mean(logits.argmax(axis=1) == labels))
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / num),
        "cross_entropy": float(-special.log_softmax(logits, axis=1)[np.arange(num), labels].mean()),
        "calibration_error": calibration_error,
        "num_examples": num,
    }


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    r"""The mean gap between a classifier's confidence and its accuracy, over bins of equal width.

    The confidence of a prediction is its largest probability. With n_b of the n predictions in bin
    b = ((b - 1) / B, b / B], their accuracy acc_b and their mean confidence conf_b,

        ECE = sum_b n_b / n |acc_b - conf_b|.

    ```python
    import tf_resflow as resflow
    print(resflow.evaluation.expected_calibration_error([[0.9, 0.1], [0.1, 0.9]], [0, 0]))
    # 0.4
    ```

    Args:
      probabilities: array `[num, classes]` whose rows sum to 1.
      labels: integers `[num]`, the true classes.
      num_bins: B, on which the value depends; the literature uses 15.

    Raises:
      ValueError: when the shapes do not fit, a probability is not in [0, 1], or a label is not one of the classes.

    References:
      Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            "Expected probabilities [num, classes] and labels [num], num > 0; got the shapes "
            f"{probabilities.shape} and {labels.shape}."
        )
    if not np.all((probabilities >= 0) & (probabilities <= 1 + 1e-6)):
        raise ValueError("Probabilities are in [0, 1]: apply a softmax to the logits first.")
    classes = probabilities.shape[1]
    unknown = labels[~np.isin(labels, np.arange(classes))]
    if len(unknown):
        raise ValueError(
            f"Labels are integers 0, ..., {classes - 1}; got {unknown[0]}. Pass labeled examples only."
        )
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return float(np.abs(np.bincount(bins, right - confidence)).sum() / len(labels))


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
      ood_scores: array `[num_ood]` for the other data.

    Raises:
      ValueError: when an array is empty, not of rank 1, or contains NaN.

    References:
      Nalisnick et al., "Do deep generative models know what they don't know?" (2019).
    """
    groups = np.asarray(scores, np.float64), np.asarray(ood_scores, np.float64)
    for values in groups:
        if values.ndim != 1 or not values.size or np.isnan(values).any():
            raise ValueError(
                "Expected two arrays of rank 1 with at least one score each, and no NaN; got one of the shape "
                f"{values.shape} with {np.isnan(values).sum()} NaN."
            )
    wins = stats.mannwhitneyu(*groups, method="asymptotic").statistic
    return float(wins / (len(groups[0]) * len(groups[1])))
