"""Scores of classifiers."""

import numpy as np
import pytest

from tf_resflow.evaluation.classification import classification_scores

pytestmark = pytest.mark.quick


def test_scores_by_hand():
    """Two classes, logits of known odds: probabilities 3/4, 1/2 (a tie: class 0) and 9/10."""
    logits = np.log([[3.0, 1.0], [1.0, 1.0], [1.0, 9.0]])
    scores = classification_scores(logits, [0, 1, 1])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["accuracy_stderr"] == pytest.approx(np.sqrt(2 / 9 / 3))
    assert scores["cross_entropy"] == pytest.approx(-np.mean(np.log([0.75, 0.5, 0.9])))
    # Three bins of one example each: |1 - 0.75|, |0 - 0.5|, |1 - 0.9|.
    assert scores["calibration_error"] == pytest.approx((0.25 + 0.5 + 0.1) / 3)
    assert scores["num_examples"] == 3
    large = classification_scores(np.array([[2000.0, 0.0], [2000.0, 0.0]], np.float32), [0, 1])
    assert large["cross_entropy"] == pytest.approx(1000.0) and large["accuracy"] == 0.5
