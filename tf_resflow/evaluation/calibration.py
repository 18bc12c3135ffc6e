"""How far a classifier's confidence is from its accuracy."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["expected_calibration_error"]


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    r"""The mean gap between confidence and accuracy, over bins of equal width.

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

    Returns:
      A float in [0, 1].

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
    if not np.isin(labels, np.arange(classes)).all():
        bad = labels[~np.isin(labels, np.arange(classes))][0]
        raise ValueError(f"Labels are integers 0, ..., {classes - 1}; got {bad}. Pass labeled examples only.")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, right - confidence, minlength=num_bins)
    return float(np.sum(np.abs(gaps)) / len(labels))
