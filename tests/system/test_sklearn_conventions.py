"""Tests `FlowDensity` with the estimator checks, pipelines and searches of scikit-learn, and in other processes."""

import joblib
import numpy as np
import pandas
import pytest
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tf_resflow.tables import FlowDensity

SMALL = {"num_blocks": 1, "hidden": (8,), "max_steps": 20, "num_members": 1, "random_state": 0}
IN_SAMPLE = "`contamination` is the share of outliers among new rows, not among the rows of the fit"
DIFFERENT = {
    "check_sample_weight_equivalence_on_dense_data": "rows are drawn at random, and the check has only 9 rows",
    "check_outliers_train": IN_SAMPLE,
    "check_outliers_fit_predict": IN_SAMPLE,
}


@parametrize_with_checks([FlowDensity(**SMALL)], expected_failed_checks=lambda estimator: DIFFERENT)
def test_conventions(estimator, check):
    check(estimator)


def test_a_search_in_a_pipeline_and_other_processes_and_threads(tmp_path):
    rng = np.random.default_rng(0)
    rows = pandas.DataFrame({"a": rng.normal(5.0, 3.0, size=90), "b": rng.integers(0, 4, size=90)})
    scaled = make_column_transformer(
        (StandardScaler(), ["a"]), remainder="passthrough", verbose_feature_names_out=False
    )
    pipeline = make_pipeline(scaled.set_output(transform="pandas"), FlowDensity(**SMALL))

    def searched(backend):
        with joblib.parallel_config(backend, n_jobs=2):
            return GridSearchCV(pipeline, {"flowdensity__noise": ["auto", 1.0]}, cv=2).fit(rows)

    search = searched("sequential")
    for backend in ("loky", "threading"):
        found, expected = searched(backend).cv_results_, search.cv_results_
        np.testing.assert_allclose(found["mean_test_score"], expected["mean_test_score"], rtol=1e-5)
    best = search.best_estimator_
    assert best[-1].kinds_ == {"a": "number", "b": "whole"}
    joblib.dump(best, tmp_path / "density.joblib")
    load_and_score = joblib.delayed(lambda path, rows: joblib.load(path).score_samples(rows))
    (scores,) = joblib.Parallel(n_jobs=2, backend="loky")([load_and_score(tmp_path / "density.joblib", rows)])
    np.testing.assert_allclose(scores, best.score_samples(rows), rtol=1e-5)
    assert search.score(rows) == pytest.approx(scores.mean(), rel=1e-5)
