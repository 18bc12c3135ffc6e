import numpy as np
import pytest

from tf_resflow.evaluation import expected_calibration_error


def test_by_hand():
    """Four bins: two predictions in (0.5, 0.75], three in (0.75, 1]."""
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9], [1.0, 0.0]])
    labels = [0, 0, 1, 1, 0]
    # Accuracies 1/2 and 2/3; mean confidences 0.65 and 0.9.
    expected = 2 / 5 * abs(1 / 2 - 0.65) + 3 / 5 * abs(2 / 3 - 0.9)
    result = expected_calibration_error(probabilities, labels, num_bins=4)
    assert result == pytest.approx(expected, rel=1e-12)


def test_bins_are_closed_above():
    """0.8 is the end of bin 12 of 15, and 0.81 is in the next bin: the two gaps do not cancel."""
    probabilities = [[0.8, 0.2], [0.81, 0.19]]
    result = expected_calibration_error(probabilities, [0, 1])
    assert result == pytest.approx((0.2 + 0.81) / 2)
    assert expected_calibration_error(probabilities, [0, 1], num_bins=1) == pytest.approx(0.305)


def test_calibrated_predictions():
    """100,000 predictions whose accuracy is their confidence: below 4 standard errors per bin."""
    generator = np.random.default_rng(0)
    p = generator.uniform(0.5, 1.0, size=100_000)
    labels = (generator.uniform(size=p.size) > p).astype(int)
    error = expected_calibration_error(np.stack([p, 1 - p], axis=1), labels)
    assert 0 < error < 4 * 0.5 * np.sqrt(8 / p.size)
    assert expected_calibration_error(np.stack([p, 1 - p], axis=1), 1 - labels) > 0.4


@pytest.mark.parametrize(
    "probabilities, labels, match",
    [
        ([[0.5, 0.5]], [0, 1], "shapes"),
        (np.zeros([0, 2]), [], "num > 0"),
        ([[2.0, -1.0]], [0], "softmax"),
    ],
)
def test_errors(probabilities, labels, match):
    with pytest.raises(ValueError, match=match):
        expected_calibration_error(probabilities, labels)
