"""The Gaussian density that a model must beat."""

import math

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow.evaluation.fid import FeatureMoments

_CHUNK = 4096  # examples held in float64 at a time


def gaussian_baseline(
    train: np.ndarray, test: np.ndarray, levels: int | None = None, *, widths: ArrayLike = 0.0
) -> float:
    r"""Fits a full-covariance Gaussian to the training data and returns its held-out score.

    Integer data are dequantized, \(x = (v + u) / L\) with \(u \sim U(0, 1)^D\). Both expectations over \(u\)
    are in closed form: the noise adds \(I / (12 L^2)\) to the covariance, and the constant
    \(\mathrm{tr}(S^{-1}) / (12 L^2)\) to a test example's expected square \(E_u[(x - m)^T S^{-1} (x - m)]\).
    Coordinates of vectors with cells are treated alike.

    Args:
      train: array `[num_train, ...]`, integers if `levels` is given.
      test: array `[num_test, ...]`.
      levels: number of levels of integer data; `None` for continuous data.
      widths: the widths of the cells of a vector's coordinates, 0 for continuous ones.

    Returns:
      The mean negative log-likelihood of `test`: bits/dim if `levels` is given, else nats.

    Raises:
      ValueError: if the covariance is singular up to rounding.
    """
    size, moments = math.prod(train.shape[1:]), FeatureMoments()
    for x in _chunks(train, levels, size):
        moments.update(x)
    widths = np.broadcast_to(widths if levels is None else 1.0 / levels, size).astype(np.float64)
    noise = widths**2 / 12
    covariance = moments.scatter / moments.num + np.diag(noise)
    rounding = size * _rounding_variance(train, moments.mean, np.diag(covariance))
    try:
        np.linalg.cholesky(covariance - np.diag(rounding))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"The covariance of {len(train):,} training examples with {size:,} columns is singular up to rounding: "
            "remove constant or dependent columns, or give more examples."
        ) from None
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(factor)
    squares = sum(np.sum(((x - moments.mean) @ inverse.T) ** 2) for x in _chunks(test, levels, size))
    square = squares / len(test) + np.sum(inverse**2 @ noise)
    nats = 0.5 * (square + size * math.log(2 * math.pi)) + np.sum(np.log(np.diag(factor)))
    nats -= np.log(widths[widths > 0]).sum()
    return float(nats if levels is None else nats / (size * math.log(2)))


def _chunks(examples, levels, size):
    """The examples as float64 rows; integers at the centers of their cells in the unit cube."""
    for start in range(0, len(examples), _CHUNK):
        x = examples[start : start + _CHUNK].reshape(-1, size).astype(np.float64)
        yield x if levels is None else (x + 0.5) / levels


def _rounding_variance(examples, mean, variance):
    """The variance that the rounding of the data and of sums in float64 adds to each coordinate."""
    data = np.finfo(examples.dtype).eps if examples.dtype.kind == "f" else 0.0
    sums = math.sqrt(len(examples)) * np.finfo(np.float64).eps
    return data**2 * (mean**2 + variance) + sums * variance
