import numpy as np
import pytest

from tf_resflow import evaluation


def test_scores_by_hand():
    """Two classes, logits of known odds: probabilities 3/4, 1/2 (a tie: class 0) and 9/10."""
    logits = np.log([[3.0, 1.0], [1.0, 1.0], [1.0, 9.0]])
    scores = evaluation.classification_scores(logits, [0, 1, 1])
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.accuracy_stderr == pytest.approx(np.sqrt(2 / 9 / 3))
    assert scores.cross_entropy == pytest.approx(-np.mean(np.log([0.75, 0.5, 0.9])))
    # Three bins of one example each: |1 - 0.75|, |0 - 0.5|, |1 - 0.9|.
    assert scores.calibration_error == pytest.approx((0.25 + 0.5 + 0.1) / 3)
    assert scores.num_examples == 3


def test_large_logits_have_a_finite_cross_entropy():
    logits = np.array([[2000.0, 0.0], [2000.0, 0.0]], np.float32)
    scores = evaluation.classification_scores(logits, [0, 1])
    assert scores.cross_entropy == pytest.approx(1000.0)
    assert scores.accuracy == 0.5


@pytest.mark.parametrize("labels", [[0, -1, 1], [0, 1, 2], [0.0, 0.5, 1.0]])
def test_invalid_labels(labels):
    with pytest.raises(ValueError, match="Labels are integers 0, ..., 1; got"):
        evaluation.classification_scores(np.zeros([3, 2]), labels)


def test_incompatible_shapes():
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(2,\)"):
        evaluation.classification_scores(np.zeros([3, 2]), [0, 1])
