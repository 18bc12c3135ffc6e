"""The start of a training: the statistics of the pairs, and linear maps from a ridge regression."""

from typing import Any

import numpy as np
import tensorflow_probability as tfp

from tf_resflow._internal.functions import compressed
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.sbi.observations import robust_statistics
from tf_resflow.sbi.pair_training import Pairs

_LEAST_VARIANCE = 1e-6  # added to the residual variances of the regression
_PENALTIES = 10.0 ** np.arange(-2, 6)  # of the ridge regression
_INITIAL = 1000  # number of pairs that initialize the ActNorms
_MOST_REGRESSED = 10_000  # largest number of pairs in the ridge regression


def begin_at_regression(
    model: FlowModel, kept: Pairs, held_out: Pairs, seed: int, *, has_default_summary: bool
) -> None:
    """Sets the statistics and the ActNorms, and sets linear and affine maps to ridge regressions.

    Args:
      model: A model from `model_arguments`, with initial weights.
      kept: Pairs of the training.
      held_out: Pairs that choose the penalty.
      seed: Seed of the initialization.
      has_default_summary: Whether the summary has the layer "linear", which is set, too.
    """
    condition: Any = model.condition
    for name, value in robust_statistics(kept.x, condition.shape).items():
        condition.statistics[name].assign(value)
    scale, affine, _ = model.flow.bijectors
    deviation = kept.vectors.std(axis=0)
    scale.statistics["mean"].assign(kept.vectors.mean(axis=0))
    scale.statistics["std"].assign(np.where(deviation > 0, deviation, 1.0))
    model.initialize(kept.vectors[:_INITIAL], seed, condition=kept.x[:_INITIAL])
    observations = [pairs.x[:_MOST_REGRESSED] for pairs in (kept, held_out)]
    targets = [np.float64(scale.forward(pairs.vectors[:_MOST_REGRESSED])) for pairs in (kept, held_out)]
    if has_default_summary:
        inputs = [_standardized_rows(condition, x) for x in observations]
        matrix, _, _ = ridge_regression(*zip(inputs, targets, strict=True))
        condition.network.get_layer("linear").kernel.assign(matrix)
    features = [_features(condition, x) for x in observations]
    matrix, shift, covariance = ridge_regression(*zip(features, targets, strict=True))
    _set_affine(affine, matrix, shift, covariance)


def _set_affine(affine, matrix, shift, covariance):
    """Sets an affine map of values, given features, to the whitening of the residuals of a regression."""
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    triangle = np.tril(whitening, -1) + np.diag(np.log(np.diag(whitening)))
    entries = tfp.math.fill_triangular_inverse(triangle)
    kernel, bias = affine.network.layers[-1].weights
    kernel.assign(np.pad(-matrix @ whitening.T, [(0, 0), (0, len(entries))]))
    bias.assign(np.concatenate([-whitening @ shift, entries]))


def _standardized_rows(condition, x):
    """Returns what the layer "linear" sees of observations, as rows."""
    standardized = (x - condition.statistics["mean"].numpy()) / condition.statistics["std"].numpy()
    return np.reshape(compressed(standardized), [len(x), -1])


def _features(condition, x):
    """Returns the outputs of the summary."""
    chunks = [x[start : start + _INITIAL] for start in range(0, len(x), _INITIAL)]
    return np.concatenate([condition.rows(chunk, len(chunk)) for chunk in chunks]).astype(np.float64)


def ridge_regression(kept: Any, held_out: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matrix, shift and residual covariance of a ridge regression on pairs (features, values).

    The penalty minimizes the squared error of the held-out pairs. The covariance is shrunk toward its diagonal, as
    if there were `size` more pairs, and scaled up if the held-out error exceeds the mean residual variance.
    """
    x, z = kept
    x_held_out, z_held_out = held_out
    center = x.mean(axis=0)
    shift = z.mean(axis=0)
    left, singular, right = np.linalg.svd(x - center, full_matrices=False)

    def error_and_matrix(penalty):
        matrix = right.T @ ((singular / (singular**2 + penalty))[:, np.newaxis] * (left.T @ (z - shift)))
        return np.mean((z_held_out - shift - (x_held_out - center) @ matrix) ** 2), matrix

    error, matrix = min(map(error_and_matrix, _PENALTIES), key=lambda pair: pair[0])
    residuals = z - shift - (x - center) @ matrix
    num, size = z.shape
    variances = np.mean(residuals**2, axis=0) + _LEAST_VARIANCE
    covariance = (residuals.T @ residuals + size * np.diag(variances)) / (num + size)
    covariance *= max(1.0, error / np.mean(variances))
    return matrix, shift - center @ matrix, covariance
