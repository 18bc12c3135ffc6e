"""The Fréchet distance between two sets of features: FID if the features are those of Inception."""

import warnings

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["FeatureMoments", "frechet_distance"]


class FeatureMoments:
    """Accumulates the mean and the covariance of features batch by batch, in float64.

    ```python
    import numpy as np
    import tf_resflow as resflow
    moments = resflow.evaluation.FeatureMoments()
    for batch in np.array([[[0.0], [2.0]], [[4.0], [6.0]]]):
        moments.update(batch)
    print(moments.num, moments.mean, moments.covariance)
    # 4 [3.] [[6.66666667]]
    ```

    Attributes:
      num: number of examples so far.
      mean: their mean `[size]`.

    References:
      Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
      variances" (1979).
    """

    def __init__(self) -> None:
        self.num = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def update(self, features: ArrayLike) -> None:
        """Adds features.

        Args:
          features: array `[batch, size]`.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2:
            raise ValueError(f"Features are [batch, size]; got the shape {features.shape}.")
        if not self.num:
            self.mean = np.zeros(features.shape[1])
            self._scatter = np.zeros([features.shape[1]] * 2)
        num, mean = len(features), features.mean(axis=0)
        centered, step = features - mean, mean - self.mean
        total = self.num + num
        self._scatter += centered.T @ centered + np.outer(step, step) * (self.num * num / total)
        self.mean = self.mean + step * (num / total)
        self.num = total

    @property
    def covariance(self) -> np.ndarray:
        """The sample covariance `[size, size]`."""
        if self.num < 2:
            raise ValueError(f"A covariance needs at least 2 examples; got {self.num}.")
        return self._scatter / (self.num - 1)


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    r"""The squared 2-Wasserstein distance of the two normal distributions with these moments.

        d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

    With factors S = F F' the last trace is the sum of the singular values of F_1' F_2. This takes no root of the
    small eigenvalues of a product of nearly singular matrices.

    The estimate from n examples is biased upwards by an amount that falls like 1 / n and depends on the model:
    compare only values of the same n. The literature uses 50,000.

    Args:
      first: a `FeatureMoments`.
      second: a `FeatureMoments` of features of the same size.

    Returns:
      A float, at least 0.

    Raises:
      ValueError: when the sizes differ, or there are fewer than 2 examples.

    Warns:
      UserWarning: when there are no more examples than features, which makes a covariance singular.

    References:
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017), equation 6.
      Chong and Forsyth, "Effectively Unbiased FID" (2020), on the bias.
    """
    covariances = [first.covariance, second.covariance]
    size = len(first.mean)
    if len(second.mean) != size:
        raise ValueError(f"The features have different sizes: {size} and {len(second.mean)}.")
    if min(first.num, second.num) <= size:
        warnings.warn(
            f"{min(first.num, second.num)} examples have a singular covariance of {size} features: "
            "their Fréchet distance is far too large. Take more, 50,000 as in the literature.",
            stacklevel=2,
        )
    factors = [_factor(covariance) for covariance in covariances]
    cross = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    distance = np.sum((first.mean - second.mean) ** 2) + traces - 2.0 * cross
    return float(max(distance, 0.0))


def _factor(covariance):
    """F with F F' = the covariance."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
