"""Scores of a classifier on held-out examples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tf_resflow.evaluation.calibration import expected_calibration_error

__all__ = ["Classification", "classification_scores"]


class Classification(NamedTuple):
    """Scores of a classifier over a set of examples.

    Attributes:
      accuracy: share of examples whose most probable class is their label.
      accuracy_stderr: its standard error, sqrt(accuracy (1 - accuracy) / num_examples).
      cross_entropy: mean of -log p(label | x), in nats.
      calibration_error: see `expected_calibration_error`.
      num_examples: number of examples.
    """

    accuracy: float
    accuracy_stderr: float
    cross_entropy: float
    calibration_error: float
    num_examples: int


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> Classification:
    """The scores of the class probabilities softmax(logits).

    ```python
    import tf_resflow as resflow
    scores = resflow.evaluation.classification_scores([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]], [0, 1, 0])
    print(round(scores.accuracy, 3), round(scores.cross_entropy, 3), scores.num_examples)
    # 0.667 1.163 3
    ```

    Args:
      logits: array `[num, classes]`.
      labels: integers `[num]`, the true classes.

    Returns:
      A `Classification`.

    Raises:
      ValueError: when the shapes do not fit, or a label is not one of the classes.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    probabilities = special.softmax(logits, axis=-1)
    calibration_error = expected_calibration_error(probabilities, labels)
    num = len(labels)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    return Classification(
        accuracy=float(accuracy),
        accuracy_stderr=float(np.sqrt(accuracy * (1 - accuracy) / num)),
        cross_entropy=float(-special.log_softmax(logits, axis=1)[np.arange(num), labels].mean()),
        calibration_error=calibration_error,
        num_examples=num,
    )
