"""Scores of classifiers, their calibration, and the AUROC of densities."""

import numpy as np
import pytest
from sklearn import metrics

from tf_resflow.evaluation.classification import classification_scores, expected_calibration_error, ood_auroc

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


def test_calibration_by_hand():
    """Four bins: two predictions in (0.5, 0.75], three in (0.75, 1]."""
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9], [1.0, 0.0]])
    # Accuracies 1/2 and 2/3; mean confidences 0.65 and 0.9.
    expected = 2 / 5 * abs(1 / 2 - 0.65) + 3 / 5 * abs(2 / 3 - 0.9)
    result = expected_calibration_error(probabilities, [0, 0, 1, 1, 0], num_bins=4)
    assert result == pytest.approx(expected, rel=1e-12)
    # 0.8 is the end of bin 12 of 15, and 0.81 is in the next bin: the two gaps do not cancel.
    probabilities = [[0.8, 0.2], [0.81, 0.19]]
    assert expected_calibration_error(probabilities, [0, 1]) == pytest.approx((0.2 + 0.81) / 2)
    assert expected_calibration_error(probabilities, [0, 1], num_bins=1) == pytest.approx(0.305)


@pytest.mark.parametrize("digits", [1, 8])
def test_the_auroc_is_that_of_scikit_learn(digits):
    """Rounding to one digit creates ties."""
    random = np.random.default_rng(0)
    inside, outside = random.normal(0.5, size=200).round(digits), random.normal(size=150).round(digits)
    expected = metrics.roc_auc_score(np.repeat([1, 0], [200, 150]), np.concatenate([inside, outside]))
    assert ood_auroc(inside, outside) == pytest.approx(expected, rel=1e-12)
    assert ood_auroc([2.0, np.inf], [1.0, -np.inf]) == 1.0
    assert ood_auroc([1.0], [2.0]) == 0.0


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        (expected_calibration_error, ([[0.5, 0.5]], [0, 1]), "shapes"),
        (expected_calibration_error, (np.zeros([0, 2]), []), "num > 0"),
        *[(expected_calibration_error, (p, [0]), "softmax") for p in ([[2.0, -1.0]], [[1.5, 0.5]], [[0.5, -0.5]])],
        (classification_scores, (np.zeros([3, 2]), [0, 1]), r"shapes \(3, 2\) and \(2,\)"),
        *[
            (classification_scores, (np.zeros([3, 2]), labels), "Labels are integers 0, ..., 1; got")
            for labels in ([0, -1, 1], [0, 1, 2], [0.0, 0.5, 1.0])
        ],
        *[
            (ood_auroc, pair, "at least one score each, and no NaN")
            for scores in ([], [[1.0]], [np.nan])
            for pair in ((scores, [1.0]), ([1.0], scores))
        ],
    ],
)
def test_what_does_not_fit_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
