"""Detectors: functions of training rows, rows to score, and a seed. Anomalies have lower scores."""

import contextlib

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

with contextlib.suppress(ImportError):  # an environment of zuko may lack TensorFlow
    from tf_resflow.tables import FlowDensity

_COMPONENTS = (1, 2, 3, 5, 8, 12, 20)


def _flow(train, test, seed):
    """Scores rows for ranking; `score_samples` would mix probabilities of atoms and densities."""
    return FlowDensity(random_state=seed).fit(train).decision_function(test)


def fit_mixture(train, seed):
    """Fits full covariances, with the number of components chosen by BIC."""
    options = {"reg_covar": 1e-4, "random_state": seed}
    models = [GaussianMixture(num, **options).fit(train) for num in _COMPONENTS if num * 5 <= len(train)]
    return min(models, key=lambda model: model.bic(train))


def _kernels(train, test, seed):
    """Fits the bandwidth with the best log-likelihood in three folds of at most 1,500 rows."""
    del seed
    widths = {"bandwidth": np.geomspace(0.05, 2.0, 12)}
    found = GridSearchCV(KernelDensity(), widths, cv=3).fit(train[:1500]).best_params_
    return KernelDensity(**found).fit(train).score_samples(test)


def _neighbors(train, test, seed):
    del seed
    return -NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def _pyod(name):
    def score(train, test, seed):
        del seed
        import pyod.models.copod
        import pyod.models.ecod

        module = {"ECOD": pyod.models.ecod.ECOD, "COPOD": pyod.models.copod.COPOD}[name]
        return -module().fit(train).decision_function(test)

    return score


DETECTORS = {
    "FlowDensity": _flow,
    "GaussianMixture": lambda train, test, seed: fit_mixture(train, seed).score_samples(test),
    "KernelDensity": _kernels,
    "5 nearest neighbors": _neighbors,
    "LocalOutlierFactor": lambda train, test, seed: LocalOutlierFactor(novelty=True).fit(train).score_samples(test),
    "IsolationForest": lambda train, test, seed: IsolationForest(random_state=seed).fit(train).score_samples(test),
    "OneClassSVM": lambda train, test, seed: OneClassSVM().fit(train).score_samples(test),
    "ECOD": _pyod("ECOD"),
    "COPOD": _pyod("COPOD"),
}
