import numpy as np
import pytest
from sklearn import metrics

from tf_resflow import evaluation


@pytest.mark.parametrize("digits", [1, 8])
def test_against_scikit_learn(digits):
    """Rounding to one digit creates ties."""
    random = np.random.default_rng(0)
    inside, outside = random.normal(0.5, size=200).round(digits), random.normal(size=150).round(digits)
    expected = metrics.roc_auc_score(np.repeat([1, 0], [200, 150]), np.concatenate([inside, outside]))
    assert evaluation.ood_auroc(inside, outside) == pytest.approx(expected, rel=1e-12)


def test_extremes():
    assert evaluation.ood_auroc([2.0, np.inf], [1.0, -np.inf]) == 1.0
    assert evaluation.ood_auroc([1.0], [2.0]) == 0.0
    assert evaluation.ood_auroc([1.0, 1.0], [1.0]) == 0.5


@pytest.mark.parametrize("scores", [[], [[1.0]], [np.nan]])
def test_scores_without_an_order(scores):
    for pair in ((scores, [1.0]), ([1.0], scores)):
        with pytest.raises(ValueError, match="at least one score each, and no NaN"):
            evaluation.ood_auroc(*pair)
