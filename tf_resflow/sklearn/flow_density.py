"""A scikit-learn estimator of the density of a table."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from tf_resflow.extras import extra

with extra("sklearn"):
    import narwhals
    import pandas
    from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin
    from sklearn.preprocessing import QuantileTransformer
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from tf_resflow.data.column_codes import check_unique
from tf_resflow.data.column_kinds import in_words
from tf_resflow.data.columns import MOST_CELLS, Columns, evenly_spread, in_parts
from tf_resflow.evaluation import p_values
from tf_resflow.messages import counted, shortened
from tf_resflow.models.dequantization import place_with_tails
from tf_resflow.models.noise_conditioned import (
    ENTROPY,
    LEAST_NOISE,
    MOST_NOISE,
    Rows,
    draw_rows,
    is_ahead,
    shared_density,
)

_LEVELS = np.geomspace(LEAST_NOISE, MOST_NOISE, 12)  # the noise levels to choose from
_FARTHEST = 1e12  # standardized values are clipped here, so that float32 can represent their squares
_LEAST_ROWS = 10
_MOST_HELD_OUT = 10_000  # maximum number of held-out rows per member
_MOST_COMPARED = 500  # maximum number of held-out rows per member to choose the noise level
_FEW_ROWS, _MEMBERS = 500, 4  # up to _FEW_ROWS rows, the default is _MEMBERS flows
_REFERENCE = 16  # rows of the fit whose values `explain` substitutes
_BROAD = 0.01  # weight of the density at the largest noise level, which decides the scores of far rows
_AT_ONCE = 2**16  # vectors scored per call; few rows with many points share calls, which saves padding
_NUM_QUANTILES = 4000  # of the map of samples to the margins of the fit
_NUM_POINTS = 32  # points of the mean over cells and missing values
_SMALL_P_VALUE = 0.01  # a warning says if p-values cannot be as small


class FlowDensity(OutlierMixin, DensityMixin, BaseEstimator):
    r"""Estimates the density of the rows of a table with a residual flow: smooth, and robust to outliers.

    ```python
    import numpy as np
    from tf_resflow.sklearn import FlowDensity

    X = np.random.default_rng(0).normal(size=[100, 2])
    density = FlowDensity(num_blocks=1, hidden=(16,), max_steps=100, random_state=0).fit(X)
    print(density.score_samples([[0.0, 0.0], [9.0, 9.0]]).shape, density.predict([[9.0, 9.0]]))
    # (2,) [-1]
    ```

    The type of a column implies its kind: number, whole number, time or category (see `tf_resflow.data.Columns`).
    `kinds` overrides it. The score of a row is \\(\log p(x)\\) in nats, where p is a probability in the discrete
    columns and a density in the units of the other columns. A frequent value in a column of numbers, such as 0 in
    rainfall, is an atom: p is a probability there, and a density elsewhere.

    A flow learns the densities of the standardized rows with added noise, for all noise levels from 0.003 to 1.
    Held-out rows stop the training and choose the level: the largest one whose log-likelihood is within two
    standard errors of the best. The result is a defensive mixture: 1 % of the density at level 1 is mixed in and
    determines the scores of rows far from the data. With few rows, the density is the mean over several flows.

    The flow has a known Lipschitz constant. Therefore the log-density falls at most quadratically with the distance
    from a row, which limits the effect of a single outlier (see the guide "Mathematics"). With more than 256
    columns, log-determinants are estimated, with the same random numbers for each row.

    Args:
      noise: "auto", or a noise level from 0.003 to 1, in standard deviations of the columns.
      contamination: expected share of outliers, in (0, 0.5], that `predict` reports in new rows like those of the
        fit.
      missing: how to handle rows with missing values: "error"; "drop", which leaves them out of the fit and scores
        them NaN; or "condition", which scores their other values, given which ones are missing.
      condition_columns: names (numbers, for an array) of columns. The density is of the others, given these.
      kinds: kinds of columns by name (by number, for an array), overriding their types:
        `{"wind": "number", "temp": 0.1, "rooms": "whole", "code": "category", "size": ["S", "M", "L"],
        "rain": {0.0}}`; see `tf_resflow.data.ColumnCodes`.
      bounds: pairs (low, high) by the names of columns of numbers. Either end may be None.
      whiten: whether the flows begin with a `tf_resflow.bijectors.Whiten`, which helps if columns are correlated.
        "auto" tries both for half of the steps, at most 600, and keeps it if held-out rows are clearly more likely.
      num_blocks: number of residual blocks.
      hidden: widths of the hidden layers of each block.
      num_members: number of flows, each with its own held-out rows. By default, 4 up to 500 rows, otherwise 1.
      max_steps: maximum number of training steps. By default, 15 times the square root of the number of rows up to
        900 rows, and half of the number of rows above, but at most 4,000. Twice as many for 20 or more columns.
      validation_fraction: share of the rows that each flow holds out, at most 10,000 rows. It trains on the others.
      extrapolate: whether `sample` draws from the density of `score_samples`, which includes values outside the
        range of the fit. By default, `sample` draws at the most likely noise level, and maps the values of each
        column of numbers or times to their distribution in the rows of the fit.
      random_state: `int`, `numpy.random.RandomState` or None, for the choice of held-out rows and the training.
      verbose: 1 or "auto" for a progress bar of each training, 2 for one line at its end, 0 for neither. Both show
        `held_out_nats`, the mean log-density of held-out rows in nats with noise of all levels, without outliers.

    Attributes:
      noise_: the noise level.
      whiten_: whether the flows begin with a `Whiten`.
      noise_levels_: the noise levels that were compared.
      held_out_scores_: the mean log-likelihoods of the held-out rows at these levels.
      offset_: the score below which a row is an outlier. It is the weighted quantile at `contamination` of the
        scores of held-out rows, each from the flow that held it out, or their smallest finite score if that is
        larger.
      columns_: the `Columns`.
      kinds_: the kind of each column, in the form of `kinds`.
      n_features_in_: number of columns.
      feature_names_in_: names of the columns, for a data frame.

    Raises:
      ValueError: if an argument is out of range, there are fewer than 10 rows, a column cannot be read, or the
        columns differ from those of the fit.

    References:
      Chen et al., Residual flows for invertible generative modeling, 2019.
      Kim et al., SoftFlow, 2020: one flow for all noise levels.
      Hesterberg, Weighted average importance sampling and defensive mixture distributions, 1995.
    """

    _is_frame: bool
    _arrow: Any = None  # the schema and the library of a frame, unless it is pandas
    _names: list[Any]
    _held_out: tuple[np.ndarray, np.ndarray]  # scores, each from the member that held the row out; weights
    _conditions: np.ndarray  # of rows of the fit
    _draws: Any  # the `QuantileTransformer` of many draws, once `sample` was called

    def __init__(
        self,
        *,
        noise: str | float = "auto",
        contamination: float = 0.01,
        missing: str = "error",
        condition_columns: Collection[Any] = (),
        kinds: Mapping[Any, Any] | None = None,
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
        whiten: str | bool = "auto",
        num_blocks: int = 4,
        hidden: Sequence[int] = (64, 64),
        num_members: int | None = None,
        max_steps: int | None = None,
        validation_fraction: float = 0.15,
        extrapolate: bool = False,
        random_state: Any = None,
        verbose: Any = 0,
    ):
        self.noise = noise
        self.contamination = contamination
        self.missing = missing
        self.condition_columns = condition_columns
        self.kinds = kinds
        self.bounds = bounds
        self.whiten = whiten
        self.num_blocks = num_blocks
        self.hidden = hidden
        self.num_members = num_members
        self.max_steps = max_steps
        self.validation_fraction = validation_fraction
        self.extrapolate = extrapolate
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != "error"
        tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowDensity":
        """Fits the density to rows, and returns the estimator. A failed or interrupted fit leaves it unfitted.

        Args:
          X: rows `[num, columns]`: an array, or a data frame of pandas, polars or pyarrow.
          y: ignored.
          sample_weight: `[num]`, at least 0. Training draws rows in proportion to their weights, and held-out rows
            count in proportion, like repeated rows.
        """
        self._check_arguments()
        self.__dict__.pop("offset_", None)  # its presence marks a finished fit
        table = self._table(X, is_fit=True)
        is_kept, weights = self._is_kept(table), sample_weight
        if weights is not None:
            weights = _check_sample_weight(weights, table, dtype=np.float64, ensure_non_negative=True)
            is_kept &= weights > 0
            weights = weights[is_kept]
        table = table[is_kept]
        if len(table) < _LEAST_ROWS:
            raise ValueError(f"A fit needs at least {_LEAST_ROWS} rows; got n_samples={len(table)}.")
        self._read_columns(table)
        self._of_missing = self._mean_log_densities(table)
        self._train_members(table, weights)
        scores, weights = self._held_out
        offset = float(np.quantile(scores, self.contamination, weights=weights, method="inverted_cdf"))
        finite = scores[np.isfinite(scores)]
        self.offset_ = max(offset, float(finite.min())) if len(finite) else offset
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Returns the log-density of each row in nats, `[num]`.

        It is minus infinity, with a warning, if a value cannot occur, such as an unknown category, or 2.5 in a
        column of whole numbers. It is NaN for a row with missing values if `missing` is "drop".
        """
        return self._scored(self._table(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean log-density of the rows in nats, ignoring NaN."""
        return float(np.nanmean(self.score_samples(X)))

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns the log-density of each row minus `offset_`, `[num]`; negative for outliers.

        A missing value contributes the mean log-density of its column, and the probability of an atom is divided by
        the width of its cell, so units do not change the ranking.
        """
        table = self._table(X)
        return self._compared(table, self._scored(table)) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns -1 for outliers and for rows with a NaN score, 1 for other rows, `[num]`."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> np.ndarray:
        """Returns the conformal p-value of each row, `[num]`; see `tf_resflow.evaluation.p_values`.

        It is the share of the held-out rows that are at most as likely, counting the row itself. Of new rows like
        those of the fit, at most 1 % are expected to have a p-value of at most 0.01. The smallest p-value is
        1 / (n + 1) for n held-out rows, with a warning if it exceeds 0.01. Rows are compared as in
        `decision_function`. A held-out row that would have probability 0 in a fit without it, such as the only row
        with a level, counts like a new row with an unknown level.
        """
        table = self._table(X)
        found = p_values(self._compared(table, self._scored(table)), *self._held_out)
        if (least := 1 / (len(self._held_out[0]) + 1)) > _SMALL_P_VALUE:
            text = f"No p-value is below {least:.2g}, because only {len(self._held_out[0])} rows were held out."
            warnings.warn(f"{text} Fit to more rows, or choose a larger threshold.", stacklevel=2)
        return found

    def sample(self, n_samples: int = 1, random_state: Any = None, *, condition: Any = None) -> Any:
        """Draws rows with the column types, names and order of the fit, as a data frame like it or an array.

        Args:
          n_samples: number of rows; ignored if `condition` is given.
          random_state: overrides `random_state` of the estimator.
          condition: values of the `condition_columns`, one row per sample.
        """
        check_is_fitted(self, "offset_")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        columns = list(self.condition_columns)
        if (condition is None) != (not columns):
            raise ValueError(f"condition must have the values of condition_columns = {columns}, if there are any.")
        condition = pandas.DataFrame(index=range(n_samples)) if condition is None else _in_pandas(condition)[0]
        names = None if isinstance(condition, pandas.DataFrame) else columns
        condition = pandas.DataFrame(condition, columns=names).reset_index(drop=True)[columns]
        is_masked = np.zeros([len(condition), self._num_masked])
        encoded = np.concatenate([is_masked, self._condition_values(condition)], axis=1)
        values = self._drawn(encoded, rng)
        if not self.extrapolate:
            values = self._with_margins_of_the_fit(values)
        table = pandas.concat([self.columns_.decode(values), condition], axis=1)[self._names]
        return self._like_fit(table, is_whole=True) if self._is_frame else table.to_numpy(self._dtype)

    def _drawn(self, condition, rng):
        """Draws a vector for each condition."""
        num = len(condition)
        member, values = rng.randint(len(self._members), size=num), np.empty([num, self.columns_.size])
        is_broad = (rng.uniform(size=num) < _BROAD) & self.extrapolate
        level = self.noise_ if self.extrapolate else self.noise_levels_[np.argmax(self.held_out_scores_)]
        for noise, is_chosen in ((level, ~is_broad), (MOST_NOISE, is_broad)):
            for place, weights in enumerate(self._members):
                is_own, seed = is_chosen & (member == place), int(rng.randint(2**31))
                if is_own.any():
                    values[is_own] = self._density().sample(weights, condition[is_own], noise, seed)
        return values

    def _with_margins_of_the_fit(self, values):
        """Maps numbers and times from their quantiles in many draws to those in the rows of the fit."""
        if self._draws is None:
            draws = self._drawn(self._conditions, np.random.RandomState(self._draws_seed))
            self._draws = QuantileTransformer(n_quantiles=_NUM_QUANTILES, subsample=None).fit(draws)
        mapped = self._margins.inverse_transform(self._draws.transform(values))
        return np.where(self.columns_.has_levels, values, mapped)

    def explain(self, X: Any) -> Any:
        """Returns which columns make rows unlikely: a data frame `[num, columns]` in nats.

        An entry is the increase of log p if the column had the best of its values in 16 rows of the fit. It is
        about 0 if the column fits the others. An atom has a column of its own, such as "rain = 0", and the column
        "rain" is for other values. Rows are compared as in `decision_function`.
        """
        table = self._table(X)
        names = list(self._reference)
        scores, best = self._compared(table, self._scored(table, warn=False))[:, np.newaxis], []

        def with_references(name):
            others = pandas.concat([table] * _REFERENCE)
            reference = self._reference[name]
            others[reference.name] = reference.repeat(len(table)).set_axis(others.index)
            return others

        num = max(MOST_CELLS // (_REFERENCE * max(table.size, 1)), 1)
        for group in (names[start : start + num] for start in range(0, len(names), num)):
            others = pandas.concat(map(with_references, group))
            found = self._compared(others, self._scored(others, warn=False))
            best.append(found.reshape(len(group), _REFERENCE, -1).max(axis=1).T)
        found = np.concatenate(best, axis=1)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            gains = np.where(found == scores, 0.0, found - scores)
        return self._like_fit(pandas.DataFrame(gains, table.index, names))

    def _check_arguments(self):
        is_level = not isinstance(self.noise, str) and LEAST_NOISE <= self.noise <= MOST_NOISE
        rules = {
            "noise": (is_level or self.noise == "auto", f"'auto', or from {LEAST_NOISE} to {MOST_NOISE}"),
            "contamination": (0 < self.contamination <= 0.5, "above 0 and at most 0.5"),
            "missing": (self.missing in ("error", "drop", "condition"), "'error', 'drop' or 'condition'"),
            "whiten": (self.whiten in ("auto", True, False), "'auto', True or False"),
            "validation_fraction": (0 < self.validation_fraction < 1, "between 0 and 1"),
        }
        for name, (is_valid, expected) in rules.items():
            if not is_valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {expected}.")

    def _table(self, X, is_fit=False):
        if not is_fit:
            check_is_fitted(self, "offset_")
        X, arrow = _in_pandas(X)
        is_frame = isinstance(X, pandas.DataFrame)
        if is_frame:
            validate_data(self, X, reset=is_fit, skip_check_array=True)
            table = X if is_fit or self._is_frame else X.set_axis(self._names, axis=1)
        elif not is_fit and self._is_frame:
            validate_data(self, X, reset=False, skip_check_array=True)
            table = pandas.DataFrame(np.asarray(X), columns=self._names).infer_objects()
        else:
            finite = True if self.missing == "error" else "allow-nan"
            X = validate_data(self, X, reset=is_fit, dtype="numeric", ensure_all_finite=finite)
            table = pandas.DataFrame(X)
        if is_fit:
            self._is_frame, self._names, self._arrow = is_frame, list(table.columns), arrow
            self._dtype = None if is_frame else X.dtype
        return table

    def _like_fit(self, table, is_whole=False):
        """Converts a `pandas.DataFrame` to the library of the fit."""
        if self._arrow is None:
            return table
        schema, library = self._arrow
        arrow = narwhals.from_native(table).to_arrow()
        return narwhals.from_arrow(arrow.cast(schema) if is_whole else arrow, backend=library).to_native()

    def _is_kept(self, table):
        is_missing = table.isna()
        misses = is_missing.any(axis=1).to_numpy()
        if self.missing == "error" and misses.any():
            counts = [f"{name} ({num})" for name, num in is_missing.sum().items() if num]
            raise ValueError(
                f"Input X contains NaN: values are missing in {misses.sum()} of {len(table)} rows, by column: "
                f'{shortened(counts)}. Use missing="drop" to leave out these rows, or missing="condition" to score '
                "their other values."
            )
        return ~misses if self.missing == "drop" else np.ones(len(table), bool)

    def _scored(self, table, warn=True):
        """Returns the scores of the rows of a table, NaN for dropped rows."""
        is_kept, scores = self._is_kept(table), np.full(len(table), np.nan)
        if is_kept.any():
            scores[is_kept] = self._mixed_scores(table[is_kept], [self.noise_])[0]
        if warn and (unknown := int(np.count_nonzero(np.isneginf(scores)))):
            text = f"The score of {counted(unknown, 'row')} is minus infinity, because a value cannot occur."
            warnings.warn(text, stacklevel=3)
        return scores

    def _mean_log_densities(self, table):
        """Returns the mean log-density of each column with missing values, as if it were normal, in its units."""
        own, found = table[list(self.columns_.kinds)], []
        for name in own.columns[self._is_masked]:
            rows = own[own[name].notna()]
            without = rows.copy()
            without[name] = rows[name].where(np.zeros(len(rows), bool))
            log_scales = self.columns_.encode(rows).log_scale - self.columns_.encode(without).log_scale
            log_scales -= self.columns_.log_atom_widths(rows) - self.columns_.log_atom_widths(without)
            found.append(log_scales.mean() - ENTROPY)
        return np.array(found)

    def _compared(self, table, scores):
        """Adds the mean log-densities of missing values to scores, which makes all rows comparable.

        The probabilities of atoms are divided by their widths.
        """
        own = table[list(self.columns_.kinds)]
        scores = scores - self.columns_.log_atom_widths(own)
        return scores + own.isna().to_numpy()[:, self._is_masked] @ self._of_missing

    def _read_columns(self, table):
        kinds, bounds = self.kinds or {}, self.bounds or {}
        if unknown := [name for name in [*self.condition_columns, *kinds, *bounds] if name not in table.columns]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {shortened(table.columns)}.")
        own = [name for name in table.columns if name not in self.condition_columns]
        if not own:
            raise ValueError("condition_columns contains all columns, so none is left. Remove some of them.")

        def read(names):
            own_kinds, own_bounds = ({n: part[n] for n in names if n in part} for part in (kinds, bounds))
            return Columns(table[names], kinds=own_kinds, bounds=own_bounds)

        self.columns_, self._condition = read(own), read(list(self.condition_columns))
        found = self.columns_.kinds | self._condition.kinds
        self.kinds_ = {name: found[name] for name in table.columns}
        self._is_masked = table[own].isna().any().to_numpy() & (self.missing == "condition")
        self._num_masked = int(self._is_masked.sum())
        self._reference = {}
        for name in own:
            present = table[name].dropna()
            atoms = self.kinds_[name] if isinstance(self.kinds_[name], set) else set()
            parts = {name: present[~present.isin(atoms)]}
            parts |= {f"{name} = {in_words(atom)}": present[present.isin([atom])] for atom in sorted(atoms)}
            for label, rows in parts.items():
                if len(rows):
                    self._reference[label] = rows.iloc[np.linspace(0, len(rows) - 1, _REFERENCE).astype(int)]

    def _rows(self, table, weights=None):
        """Returns the `Rows` of a table, and `ends` and `known` of its `Encoded`."""
        own = table[list(self.columns_.kinds)]
        values, widths, ends, log_scale, known = self.columns_.encode(own)
        is_new = own.isna().to_numpy().any(axis=0) & ~self._is_masked
        if is_new.any():
            raise ValueError(
                f"Values are missing in the column {own.columns[is_new][0]!r}, which had none missing in the fit. "
                "Fit to a table in which this column has missing values."
            )
        is_missing = own.isna().to_numpy()[:, self._is_masked]
        condition = np.concatenate([is_missing, self._condition_values(table)], axis=1)
        return Rows(values, widths, condition, weights, log_scale), ends, known

    def _condition_values(self, table):
        """Returns the condition columns as vectors, with the centers of cells for discrete values."""
        values, widths, _, _, known = self._condition.encode(table)
        if np.isnan(values).any() or not known.all():
            raise ValueError(
                "A value of a condition column is missing or cannot occur, such as a category that was not in the "
                "fit. Leave out these rows."
            )
        return values + widths / 2

    def _keep_margins(self, rows, rng):
        """Keeps what `_with_margins_of_the_fit` needs."""
        self._draws, self._draws_seed = None, int(rng.randint(2**31))
        chosen = rows.take(draw_rows(rows, _NUM_QUANTILES, rng))
        spread = chosen.values + chosen.widths * evenly_spread(len(chosen.values))
        self._margins = QuantileTransformer(n_quantiles=_NUM_QUANTILES, subsample=None).fit(spread)
        self._conditions = chosen.condition
        self._conditions[:, : self._num_masked] = 0

    def _density(self):
        condition_size = self._num_masked + self._condition.size
        return shared_density(self.columns_.size, condition_size, self.num_blocks, tuple(self.hidden))

    def _train_members(self, table, weights):
        rng, density = check_random_state(self.random_state), self._density()
        rows, weights = self._rows(table, weights)[0], np.ones(len(table)) if weights is None else weights
        num_members = self.num_members or (_MEMBERS if len(table) <= _FEW_ROWS else 1)
        num_held_out = min(max(3, int(self.validation_fraction * len(table))), _MOST_HELD_OUT)
        steps = density.num_steps(len(table) - num_held_out) if self.max_steps is None else self.max_steps
        levels = _LEVELS if self.noise == "auto" else np.array([float(self.noise)])
        whiten = (None if self.columns_.size > 1 else False) if self.whiten == "auto" else bool(self.whiten)
        order, seeds = rng.permutation(len(table)), [int(rng.randint(2**31)) for _ in range(num_members)]
        self._members, held_out, scores = [], [], []
        for seed in seeds:
            order = np.roll(order, num_held_out)
            own, kept = np.split(order, [num_held_out])
            options = {"whiten": whiten, "seed": seed, "steps": steps, "verbose": self.verbose}
            member, whiten = density.train(rows.take(kept), rows.take(own), **options)
            scores.append(self._mixed_scores(table.iloc[own[:_MOST_COMPARED]], levels, [member]))
            self._members.append(member)
            held_out.append(own)
        self.whiten_, compared = whiten, np.concatenate([own[:_MOST_COMPARED] for own in held_out])
        self._choose_noise(levels, np.concatenate(scores, axis=1), weights[compared])
        compared = np.concatenate(
            [
                self._compared(table.iloc[own], self._mixed_scores(table.iloc[own], [self.noise_], [member])[0])
                for own, member in zip(held_out, self._members, strict=True)
            ]
        )
        own, first = np.unique(np.concatenate(held_out), return_index=True)  # several members may hold out a row
        self._held_out = np.where(self.columns_.is_alone(table)[own], -np.inf, compared[first]), weights[own]
        self._keep_margins(rows, rng)

    def _choose_noise(self, levels, scores, weights):
        """Chooses the largest level whose scores (a row of `[levels, num]`) are not clearly below the best."""
        self.noise_levels_, self.held_out_scores_ = levels, scores @ weights / weights.sum()
        best = scores[np.argmax(self.held_out_scores_)]
        self.noise_ = float(levels[[not is_ahead(best - own, weights) for own in scores]].max())

    def _mixed_scores(self, table, levels, members=None):
        """Returns the log-densities `[levels, num]` of rows, mixed with the density at the largest level."""
        levels, members = [*levels, MOST_NOISE], members or self._members
        *scores, broad = np.concatenate([self._scores(part, levels, members) for part in in_parts(table)], axis=1)
        return np.logaddexp(math.log1p(-_BROAD) + np.array(scores), math.log(_BROAD) + broad)

    def _scores(self, table, levels, members):
        """Returns the log-densities `[levels, num]` of rows: of means over members, cells and missing values."""
        rows, ends, known = self._rows(table)
        points = _points(self.columns_.has_cells | self._is_masked)
        num_groups = min(len(points), -(-len(points) * len(levels) * len(table) // _AT_ONCE))
        parts: list[np.ndarray] = []
        for group in np.array_split(points, num_groups):
            x, widths, first, last, condition = (
                np.tile(part, [len(group), 1]) for part in (rows.values, rows.widths, *ends, rows.condition)
            )
            u = np.repeat(group, len(table), axis=0)
            is_missing, drawn = np.isnan(x), special.ndtri(u[:, :-1])
            places, log_q = (part.numpy() for part in place_with_tails(u, (first, last)))
            x = np.where(is_missing, drawn, x + np.nan_to_num(widths) * (places + 0.5))
            log_q += np.where(is_missing, stats.norm.logpdf(drawn), 0.0).sum(axis=1)
            spread = Rows(np.clip(x, -_FARTHEST, _FARTHEST), widths, condition)
            for weights in members:
                log_prob = self._density().log_prob(weights, spread, levels) - log_q
                parts.append(log_prob.reshape(len(levels), len(group), -1))
        found = np.concatenate(parts, axis=1)
        scores = special.logsumexp(found, axis=1) - math.log(found.shape[1]) + rows.log_scale
        return np.where(known, scores, -np.inf)


def _in_pandas(X):
    """Returns a frame of polars, pyarrow or the like in pandas, and its schema and library; others as they are."""
    if not narwhals.dependencies.is_into_dataframe(X):
        return X, None
    check_unique(list(X.columns if isinstance(X, pandas.DataFrame) else getattr(X, "column_names", X.columns)))
    if isinstance(X, pandas.DataFrame):
        return X, None
    frame, nullable = narwhals.from_native(X), ("int", "uint", "bool", "decimal")
    arrow = frame.to_arrow()
    table = arrow.to_pandas(types_mapper=lambda t: pandas.ArrowDtype(t) if str(t).startswith(nullable) else None)
    return table, (arrow.schema, frame.implementation)


def _points(is_drawn):
    """Returns points `[num, size + 1]`: evenly spread in the drawn coordinates and the last one, 0.5 elsewhere."""
    places = [*np.flatnonzero(is_drawn), -1]
    points = np.full([_NUM_POINTS if is_drawn.any() else 1, len(is_drawn) + 1], 0.5)
    # Means over a scrambled Sobol sequence are unbiased (Owen 1998).
    points[:, places] = stats.qmc.Sobol(len(places), seed=0).random(len(points))
    return points
