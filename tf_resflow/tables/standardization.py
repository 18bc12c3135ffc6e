"""Standardizes the coordinates of rows, and brings skewed ones closer to a normal distribution."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import optimize, stats

_LEAST_ROWS = 20  # to fit a power transform
_MOST_ROWS = 20_000
_EXTREME = 0.02  # share of the gains clipped on each side, since the gain of a single row has no bound


@dataclasses.dataclass(frozen=True)
class PowerTransform:
    r"""The Yeo-Johnson transforms of standardized coordinates z `[rows, columns]`.

    Let m be the median, a the distance from m to the nearer quartile, and \\(t = (z - m) / a\\). If \\(t \ge 0\\),
    \\(y = ((1 + t)^\lambda - 1) / \lambda\\). If \\(t < 0\\), y is minus the transform of \\(-t\\) with
    \\(2 - \lambda\\). The parameter \\(0 \le \lambda \le 2\\) maximizes the normal likelihood. Beyond the range of
    the fit, y continues linearly. At the end, y is standardized.

    Attributes:
      median: The medians m.
      unit: The distances a.
      power: The parameters \\(\lambda\\).
      low: The smallest t of the fit. `high` is the largest one.
      mean: The mean of y. `scale` is its standard deviation.

    References:
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    median: Any = 0.0
    unit: Any = 1.0
    power: Any = 1.0
    low: Any = -math.inf
    high: Any = math.inf
    mean: Any = 0.0
    scale: Any = 1.0

    @classmethod
    def fit(cls, z: np.ndarray) -> "PowerTransform":
        """Fits the transform of a column, NaN where missing. It is the identity if it does not help.

        It helps if, on each half of the rows, the parameters of the other half raise the normal log-likelihood by
        more than two standard errors.
        """
        all_z = z[~np.isnan(z)]
        z = all_z
        if len(z) > _MOST_ROWS:
            z = np.random.default_rng(0).choice(z, _MOST_ROWS, replace=False)
        if len(z) < _LEAST_ROWS or not np.ptp(z):
            return cls()
        low, median, high = np.quantile(z, [0.25, 0.5, 0.75])
        unit = min(median - low, high - median) or z.std()
        t = (z - median) / unit
        first, second = np.array_split(np.random.default_rng(0).permutation(t), 2)
        if not (_is_gain(first, second) and _is_gain(second, first)):
            return cls()
        power = _best_power(t)
        t = (all_z - median) / unit
        y = stats.yeojohnson(t, power)
        return cls(median, unit, power, t.min(), t.max(), y.mean(), y.std())

    @classmethod
    def of_columns(cls, transforms: list["PowerTransform"]) -> "PowerTransform":
        """Returns the transforms of columns as one with arrays `[columns]`."""
        return cls(*np.reshape([dataclasses.astuple(transform) for transform in transforms], [-1, 7]).T)

    def forward(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the transforms of coordinates, and the logarithms of the slopes."""
        t = (z - self.median) / self.unit
        inside = tf.clip_by_value(t, self.low, self.high)
        y, log_slopes = _yeo_johnson(inside, self.power)
        # Without this, a product of infinity and 0 would make far values NaN.
        beyond = tf.where(tf.equal(t, inside), np.float64(0.0), tf.exp(log_slopes) * (t - inside))
        return (y + beyond - self.mean) / self.scale, log_slopes - np.log(self.scale * self.unit)

    def inverse(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the coordinates z of transformed ones."""
        y = values * self.scale + self.mean
        inside = tf.clip_by_value(y, self._transformed_end(self.low), self._transformed_end(self.high))
        above = _inverse_box_cox(tf.nn.relu(inside), self.power)
        below = _inverse_box_cox(tf.nn.relu(-inside), 2 - self.power)
        t = tf.where(inside >= 0, above, -below)
        _, log_slopes = _yeo_johnson(t, self.power)
        beyond = tf.where(tf.equal(y, inside), np.float64(0.0), (y - inside) / tf.exp(log_slopes))
        return (t + beyond) * self.unit + self.median

    def _transformed_end(self, end):
        """Returns the y of an end of the range of the fit, which is infinite for the identity."""
        y, _ = _yeo_johnson(tf.constant(np.where(np.isinf(end), 0.0, end)), self.power)
        return tf.where(np.isinf(end), end, y)


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Standardizes coordinates `[rows, columns]`, then applies power transforms to those that become more normal.

    Attributes:
      mean: The means of the coordinates, `[columns]`.
      scale: Their standard deviations; 1 for constant columns.
      power: The `PowerTransform` of the standardized coordinates.
    """

    mean: np.ndarray
    scale: np.ndarray
    power: PowerTransform

    @classmethod
    def fit(cls, x: np.ndarray, varies: np.ndarray, is_powered: np.ndarray) -> "Standardization":
        """Fits to coordinates, NaN where missing.

        Args:
          varies: Bool `[columns]`, whether a column is not constant, except for rounding errors.
          is_powered: Bool `[columns]`, whether a column may have a power transform.
        """
        mean = np.nanmean(x, axis=0)
        scale = np.where(varies, np.nanstd(x, axis=0), 1.0)
        columns = ((x - mean) / scale).T
        transforms = [
            PowerTransform.fit(z) if may_help else PowerTransform()
            for z, may_help in zip(columns, is_powered, strict=True)
        ]
        return cls(mean, scale, PowerTransform.of_columns(transforms))

    def forward(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns standardized coordinates, and the logarithms of the slopes."""
        values, log_slopes = self.power.forward((x - self.mean) / self.scale)
        return values, log_slopes - np.log(self.scale)

    def inverse(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the coordinates of standardized ones."""
        return self.power.inverse(values) * self.scale + self.mean


def _yeo_johnson(t, power):
    """Returns the transforms of columns, and the logarithms of their slopes."""
    above = _box_cox(tf.nn.relu(t), power)
    below = _box_cox(tf.nn.relu(-t), 2 - power)
    return tf.where(t >= 0, above, -below), (power - 1) * tf.sign(t) * tf.math.log1p(tf.abs(t))


def _box_cox(t, power):
    """Returns ((1 + t)^power - 1) / power."""
    is_log = np.abs(power) < 1e-12
    powers = tf.math.expm1(power * tf.math.log1p(t)) / np.where(is_log, 1.0, power)
    return tf.where(is_log, tf.math.log1p(t), powers)


def _inverse_box_cox(y, power):
    is_log = np.abs(power) < 1e-12
    roots = tf.math.expm1(tf.math.log1p(power * y) / np.where(is_log, 1.0, power))
    return tf.where(is_log, tf.math.expm1(y), roots)


def _is_gain(t, new_t):
    """Returns whether the best transform of t clearly raises the normal log-likelihood of new rows."""
    power = _best_power(t)
    log_slopes = (power - 1) * np.sign(new_t) * np.log1p(np.abs(new_t))
    transformed = _normal_log_density(stats.yeojohnson(new_t, power), stats.yeojohnson(t, power))
    gains = transformed + log_slopes - _normal_log_density(new_t, t)
    gains = np.clip(gains, *np.quantile(gains, [_EXTREME, 1 - _EXTREME]))
    return gains.mean() > 2 * gains.std() / math.sqrt(len(gains))


def _best_power(t):
    return optimize.fminbound(lambda power: -stats.yeojohnson_llf(power, t), 0, 2)


def _normal_log_density(x, rows):
    """Returns the log-densities of x under the normal distribution fitted to `rows`."""
    return stats.norm.logpdf(x, rows.mean(), max(rows.std(), 1e-9))
