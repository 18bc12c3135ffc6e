"""The columns of a table as coordinates of vectors: numbers, dates, whole numbers, levels and categories."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from tf_resflow.data.column_codes import ColumnCodes, Encoded, dependent
from tf_resflow.plurals import shortened

__all__ = ["Columns", "Encoded"]

_LEAST_POWERED = 20  # rows


class Columns:
    r"""How the rows of a table stand for vectors, standardized by the rows of a fit, and back.

    Each column is a coordinate:

    - Floats are themselves, in the units of the table; with `bounds` \\(\log(x - a)\\), \\(-\log(b - x)\\) or their
      sum. So are whole numbers whose standard deviation is above 50.
    - Other whole numbers, and floats of few different values on a grid, are the number of their cell.
    - Categories, booleans and text are the number of their level: ordered ones in their order, others with the most
      frequent one first.
    - Times are days since the first one of the fit.

    Numbers that a Yeo-Johnson transform makes more normal are transformed, linearly beyond the range of the fit, so
    that the map has Lipschitz constants; all coordinates are standardized.

    The log-density of a row is \\(\log p(x) = \log E_u\, p(z + w u) + \mathrm{log\_scale}\\), with its vector z
    and u uniform in [0, 1) in the discrete coordinates, whose cells have the widths w. It is a probability in the
    discrete columns and a density in the units of the others. What the density leaves beyond the first and the last
    level belongs to none, so that the probabilities of levels are lower bounds. In samples it is theirs, and whole
    numbers are within the range of the fit.

    ```python
    import pandas
    from tf_resflow.data import Columns
    table = pandas.DataFrame({"size": [1.5, 2.5, 3.5], "color": ["red", "blue", "red"], "children": [0, 2, 1]})
    columns = Columns(table)
    print(columns.kinds)
    # {'size': 'number', 'color': 'category', 'children': 'whole number'}
    print(columns.decode(columns.encode(table).values)["color"].tolist())
    # ['red', 'blue', 'red']
    ```

    Args:
      table: `pandas.DataFrame` of the rows of the fit.
      ordered: the levels of ordered columns, lowest first, by their names.
      categories: names of columns of numbers that are categories.
      bounds: pairs (low, high), either of which may be None, by the names of columns of numbers.

    Attributes:
      kinds: what each column is, by its name.
      size: number of coordinates.
      widths: `[size]`, the widths of the cells of discrete coordinates, 0 of others.

    Raises:
      ValueError: if a column cannot be read, all its values are missing, or it has too many categories.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
    """

    def __init__(
        self,
        table: Any,
        *,
        ordered: Mapping[Any, Sequence[Any]] | None = None,
        categories: Collection[Any] = (),
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
    ):
        self._codes = ColumnCodes(table, ordered=ordered, categories=categories, bounds=bounds)
        self.kinds, self.size, is_discrete = self._codes.kinds, self._codes.size, self._codes.is_discrete
        values = self._codes.encode(table).values
        deviation = np.sqrt(np.nanvar(values, axis=0) + is_discrete / 12)
        self._mean = np.nanmean(values, axis=0) + 0.5 * is_discrete
        self._scale = np.where(deviation > 0, deviation, 1.0)
        self.widths = is_discrete / self._scale
        self._powers = _Powers((values - self._mean) / self._scale, is_discrete)
        self._warn(table)

    def encode(self, table: Any) -> Encoded:
        """The rows of a table with the columns of the fit, whatever their order, as vectors, standardized."""
        values, log_scale, known = self._codes.encode(table)
        log_scale -= np.where(np.isnan(values), 0.0, np.log(self._scale)).sum(axis=1)
        values, log_slopes = self._powers.transform((values - self._mean) / self._scale)
        return Encoded(values, log_scale + log_slopes, known)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of the rows that vectors stand for, in the types and the order of the fit."""
        return self._codes.decode(self._powers.inverse(values.astype(np.float64)) * self._scale + self._mean)

    def _warn(self, table):
        """Names the columns that are constant, and those that repeat or depend on others."""
        values = self.encode(table).values
        values = values[~np.isnan(values).any(axis=1)]
        if len(values) < 2:
            return
        varies, names = np.ptp(values, axis=0) > 0, np.array(list(self.kinds), object)
        if not varies.all():
            warnings.warn(
                "These columns have one value in all rows, and tell nothing of them: "
                f"{shortened(names[~varies].tolist())}.",
                stacklevel=4,
            )
        involved = dependent(values[:, varies])
        if involved.any():
            warnings.warn(
                "These columns repeat or depend on each other linearly: "
                f"{shortened(names[varies][involved].tolist())}. On the plane of their "
                "values the density is bounded by the noise alone: leave some of them out.",
                stacklevel=4,
            )


class _Powers:
    r"""Yeo-Johnson transforms of standardized coordinates, where they help; the results are standardized again.

    For \\(z \ge 0\\), \\(y = ((1 + z)^\lambda - 1) / \lambda\\), and for \\(z < 0\\) it is minus that of \\(-z\\)
    with \\(2 - \lambda\\). Beyond the range of the fit y goes on with the slope at its end. A coordinate is
    transformed if its normal log-likelihood rises by two standard errors on each half of the rows, with the
    parameters of the other.

    References:
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    def __init__(self, values, is_discrete):
        chosen = [None if skip else _power(x[~np.isnan(x)]) for x, skip in zip(values.T, is_discrete, strict=True)]
        self._places = [place for place, power in enumerate(chosen) if power is not None]
        self._lambdas = np.array([chosen[place] for place in self._places])
        z = values[:, self._places]
        self._low, self._high = np.nanmin(z, axis=0, initial=np.inf), np.nanmax(z, axis=0, initial=-np.inf)
        y = _yeo_johnson(z, self._lambdas)[0]
        self._mean, self._scale = np.nanmean(y, axis=0), np.nanstd(y, axis=0)

    def transform(self, values):
        """The transformed values, and the sum of the logarithms of the slopes."""
        values, z = values.copy(), values[:, self._places]
        inside = np.clip(z, self._low, self._high)
        y, log_slopes = _yeo_johnson(inside, self._lambdas)
        values[:, self._places] = (y + np.exp(log_slopes) * (z - inside) - self._mean) / self._scale
        return values, np.nan_to_num(log_slopes - np.log(self._scale)).sum(axis=1)

    def inverse(self, values):
        """What has these transformed values."""
        values = values.copy()
        y = values[:, self._places] * self._scale + self._mean
        inside = np.clip(y, *(_yeo_johnson(end, self._lambdas)[0] for end in (self._low, self._high)))
        above, below = (
            special.inv_boxcox1p(np.maximum(sign * inside, 0.0), power)
            for sign, power in ((1, self._lambdas), (-1, 2 - self._lambdas))
        )
        z = np.where(inside >= 0, above, -below)
        values[:, self._places] = z + (y - inside) / np.exp(_yeo_johnson(z, self._lambdas)[1])
        return values


def _yeo_johnson(z, lambdas):
    """The transform of columns and the logarithms of its slopes."""
    above, below = special.boxcox1p(np.maximum(z, 0.0), lambdas), special.boxcox1p(np.maximum(-z, 0.0), 2 - lambdas)
    return np.where(z >= 0, above, -below), (lambdas - 1) * np.sign(z) * np.log1p(np.abs(z))


def _power(z):
    """The parameter of the transform of a coordinate; None if it does not help."""
    if len(z) < _LEAST_POWERED or not np.ptp(z):
        return None
    halves, gains = (z[::2], z[1::2]), []
    for own, other in (halves, halves[::-1]):
        power = stats.yeojohnson_normmax(own)
        (y, _), (y_new, log_slopes) = (_yeo_johnson(part, power) for part in (own, other))
        gains.append(_normal(y_new, y) + log_slopes - _normal(other, own))
    is_better = all(gain.mean() > 2 * gain.std() / math.sqrt(len(gain)) for gain in gains)
    return stats.yeojohnson_normmax(z) if is_better else None


def _normal(x, rows):
    """The log-densities of values, by the normal distribution of others."""
    return stats.norm.logpdf(x, rows.mean(), max(rows.std(), 1e-9))
