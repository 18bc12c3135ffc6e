"""Scores of classifiers: accuracy, cross-entropy and calibration."""

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from scipy import special

__all__ = ["classification_scores"]

_BINS = 15  # of the calibration error, as in the literature


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The scores of softmax(logits) `[num, classes]`.

    "cross_entropy" is the mean of -log p(label | x) in nats, and "calibration_error" is
    `tfp.stats.expected_calibration_error` in 15 bins.

    References:
      Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    num, accuracy = len(labels), float(np.mean(logits.argmax(axis=1) == labels))
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / num),
        "cross_entropy": float(-special.log_softmax(logits, axis=1)[np.arange(num), labels].mean()),
        "calibration_error": float(
            tfp.stats.expected_calibration_error(
                _BINS, tf.constant(logits, tf.float32), tf.constant(labels, tf.int32)
            )
        ),
        "num_examples": num,
    }
