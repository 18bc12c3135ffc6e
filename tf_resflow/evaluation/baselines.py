"""Baselines that a density model must beat: the uniform and the Gaussian density."""

import math

import numpy as np

__all__ = ["gaussian_baseline", "uniform_baseline"]


def uniform_baseline(levels: int) -> float:
    """Returns the bits/dim of the uniform distribution over integer images: log2(levels)."""
    return math.log2(levels)


def gaussian_baseline(
    train: np.ndarray, test: np.ndarray, levels: int | None = None, *, chunk: int = 4096
) -> float:
    r"""Returns the held-out score of a full-covariance Gaussian that is fitted to the training data.

    For integer data the Gaussian is fitted to, and evaluated on, the dequantized data
    \(x = (v + u) / L\), \(u \sim U(0, 1)^D\). Both expectations over \(u\) are in closed form:
    the noise adds \(I / (12 L^2)\) to the covariance, and to a test example's expected square
    \(E_u[(x - m)^T S^{-1} (x - m)]\) the constant \(\mathrm{tr}(S^{-1}) / (12 L^2)\).

    Args:
      train: array `[num_train, ...]`, integers if `levels` is given.
      test: array `[num_test, ...]`.
      levels: number of levels of integer data; `None` for continuous data.
      chunk: number of examples held in float64 at a time.

    Returns:
      The mean negative log-likelihood of `test`: bits/dim if `levels` is given, else nats.

    Raises:
      ValueError: when the covariance is singular up to the rounding of the data and the sums, which means that the
        variance of some direction cannot be distinguished from 0.
    """
    size = math.prod(train.shape[1:])
    mean, covariance = _moments(train, levels, size, chunk)
    noise = 0.0 if levels is None else 1.0 / (12 * levels**2)
    covariance += noise * np.eye(size)
    rounding = size * _rounding_variance(train, mean, np.diag(covariance))
    try:
        np.linalg.cholesky(covariance - np.diag(rounding))
    except np.linalg.LinAlgError:
        mend = f"give more than {size} examples" if len(train) <= size else "remove constant or dependent columns"
        raise ValueError(
            f"The covariance of the {len(train):,} training examples of {size:,} columns is singular up to "
            f"rounding, so they have no Gaussian density: {mend}."
        ) from None
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(factor)
    squares = np.zeros(())
    for x in _chunks(test, levels, size, chunk):
        squares += np.sum(((x - mean) @ inverse.T) ** 2)
    square = squares / len(test) + noise * np.sum(inverse**2)
    nats = 0.5 * (square + size * math.log(2 * math.pi)) + np.sum(np.log(np.diag(factor)))
    if levels is None:
        return float(nats)
    return float(nats / (size * math.log(2)) + math.log2(levels))


def _chunks(examples, levels, size, chunk):
    """The examples as float64 rows; integers at the centers of their cells in the unit cube."""
    for start in range(0, len(examples), chunk):
        x = examples[start : start + chunk].reshape(-1, size).astype(np.float64)
        yield x if levels is None else (x + 0.5) / levels


def _rounding_variance(examples, mean, variance):
    """The variance that the rounding of the data and of sums in float64 adds to each coordinate."""
    data = np.finfo(examples.dtype).eps if examples.dtype.kind == "f" else 0.0
    sums = math.sqrt(len(examples)) * np.finfo(np.float64).eps
    return data**2 * (mean**2 + variance) + sums * variance


def _moments(examples, levels, size, chunk):
    total, squares = np.zeros(size), np.zeros((size, size))
    shift = next(_chunks(examples, levels, size, chunk)).mean(axis=0)
    for x in _chunks(examples, levels, size, chunk):
        x = x - shift
        total += x.sum(axis=0)
        squares += x.T @ x
    mean = total / len(examples)
    return mean + shift, squares / len(examples) - np.outer(mean, mean)
