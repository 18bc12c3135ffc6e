"""A scikit-learn estimator of the density of a table."""

import json
import math
import os
import warnings
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from tf_resflow._internal.extras import extra

with extra("sklearn"):
    import pandas
    from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin
    from sklearn.preprocessing import QuantileTransformer
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data

from tf_resflow._internal.messages import counted, shortened
from tf_resflow._internal.private_api import check_sample_weight
from tf_resflow._internal.writing import atomic_write, check_output_path
from tf_resflow.data.files import explain_read_errors
from tf_resflow.evaluation import p_values
from tf_resflow.models.repeated_training import draw_rows
from tf_resflow.tables.arguments import ARGUMENTS, LEAST_NOISE, MOST_NOISE
from tf_resflow.tables.density import TOLERANCE, TableDensity
from tf_resflow.tables.encoder import TableEncoder
from tf_resflow.tables.explanations import gains
from tf_resflow.tables.frames import FrameType, in_library, in_pandas
from tf_resflow.tables.noise_conditioned import is_significant, winsorize
from tf_resflow.tables.report import write_report
from tf_resflow.tables.thresholds import threshold
from tf_resflow.tables.vectors import Vectors, quasirandom_points

_LEVELS = np.geomspace(LEAST_NOISE, MOST_NOISE, 12)  # the noise levels to choose from
_LEAST_ROWS = 10
_MOST_HELD_OUT = 10_000  # maximum number of held-out rows per member
_MOST_COMPARED = 500  # maximum number of held-out rows per member to choose the noise level
_FEW_ROWS = 500
_MEMBERS_OF_FEW_ROWS = 4  # default number of flows for up to _FEW_ROWS rows
_DRAWN_AT_ONCE = 2**14  # rows
_REFERENCE = 16  # maximum number of values of a column that `explain` substitutes
_NUM_QUANTILES = 4000  # of the map of samples to the margins of the fit
_ROUNDING = 1e-5  # held-out scores are this much lower, so that rounding does not decide which scores are equal
_SMALL_P_VALUE = 0.01  # a warning says if p-values cannot be as small
_ADVICE = (
    "Correct such values, or leave out their rows. Values can be missing only in columns that had missing values "
    "in the fit, and not in condition_columns."
)
_FITTED = (  # saved as JSON
    "noise_",
    "tolerance_",
    "whiten_",
    "offset_",
    "flagged_interval_",
    "reference_",
    "_dtype",
    "_draws_seed",
)
_ARRAYS = ("noise_levels_", "held_out_scores_", "held_out_", "_margins", "_conditions", "_times", "rows_of_fit_")


class FlowDensity(OutlierMixin, DensityMixin, BaseEstimator):
    r"""Estimates the density of the rows of a table with a residual flow: smooth, and robust to outliers.

    ```python
    import numpy as np
    from tf_resflow.tables import FlowDensity

    X = np.random.default_rng(0).normal(size=[100, 2])
    density = FlowDensity(num_blocks=1, hidden=(16,), max_steps=100, random_state=0).fit(X)
    print(density.score_samples([[0.0, 0.0], [9.0, 9.0]]).shape, density.predict([[9.0, 9.0]]))
    # (2,) [-1]
    ```

    The type of a column implies its kind: number, whole number, time or category; see
    `tf_resflow.tables.TableEncoder`. `kinds` overrides it. The score of a row is \\(\log p(x)\\) in nats, where p
    is a probability in the discrete columns and a density in the units of the other columns. A frequent value in a
    column of numbers, such as 0 in rainfall, is an atom: p is a probability there, and a density elsewhere. If
    the other columns depend on the phase of a time in the day, the week or the year, they are modeled given it.

    A flow learns the densities of the standardized rows with added noise, for all noise levels from 0.003 to 1.
    Held-out rows stop the training and choose the level: the largest one whose log-likelihood is within two
    standard errors of the best. The result is a defensive mixture: 1 % of the density at level 1 is mixed in and
    determines the scores of rows far from the data. With few rows, the density is the mean over several flows.

    The flow has a known Lipschitz constant. Therefore the log-density falls at most quadratically with the distance
    from a row, which limits the effect of a single outlier (see the guide "Mathematics"). With more than 256
    columns, log-determinants are estimated, with the same random numbers for each row.

    Args:
      noise: "auto", or a noise level from 0.003 to 1, in standard deviations of the columns.
      contamination: Expected share of outliers, in (0, 0.5], that `predict` reports in new rows like those of the
        fit.
      missing: How to handle rows with missing values: "error"; "drop", which leaves them out of the fit and scores
        them NaN; or "condition", which scores their other values, given which ones are missing.
      condition_columns: Names (numbers, for an array) of columns. The density is of the others, given these.
      kinds: Kinds of columns by name (by number, for an array), overriding their types:
        `{"wind": "number", "temp": 0.1, "rooms": "whole", "code": "category", "size": ["S", "M", "L"],
        "rain": {0.0}, "sold": "day + year"}`; see `tf_resflow.tables.TableEncoder`.
      bounds: Pairs (low, high) by the names of columns of numbers. Either end may be None.
      whiten: Whether the flows begin with a `tf_resflow.bijectors.Whiten`, which helps if columns are correlated.
        "auto" tries both for a quarter of the steps, at most 200, and keeps it if held-out rows are clearly more
        likely.
      num_blocks: Number of residual blocks.
      hidden: Widths of the hidden layers of each block.
      num_members: Number of flows, each with its own held-out rows. By default, 4 up to 500 rows, otherwise 1.
      max_steps: Maximum number of training steps. By default, 15 times the square root of the number of rows, or
        the number of rows minus 500 if that is larger, but at most 4,000. Twice as many for 20 or more columns.
      validation_fraction: Share of the rows that each flow holds out, at most 10,000 rows. It trains on the others.
      extrapolate: Whether `sample` draws from the density of `score_samples`, which includes values outside the
        range of the fit. By default, `sample` draws at the most likely noise level, and maps the values of each
        column of numbers or times to their distribution in the rows of the fit.
      random_state: `int`, `numpy.random.RandomState` or None, for the choice of held-out rows and the training.
      verbose: 1 or "auto" for a progress bar of each training, 2 for one line at its end, 0 for neither. Both show
        `held_out_nats`, the mean log-density of held-out rows in nats with noise of all levels, without outliers.

    Attributes:
      noise_: The noise level.
      whiten_: Whether the flows begin with a `Whiten`.
      tolerance_: The tolerated standard error of scores: 0.02 nats, or 2 % of the standard deviation of the scores
        of held-out rows if that is larger.
      noise_levels_: The noise levels that were compared.
      held_out_scores_: The mean log-likelihoods of the held-out rows at these levels.
      offset_: The score below which a row is an outlier. A share of `contamination` of new rows like those of the
        fit is expected below it, on average over fits. It is a quantile of the scores of held-out rows, or with few
        such rows, that of a generalized Pareto distribution of the 30 lowest scores. It is minus infinity if at
        least this share of the held-out rows would have probability 0 without themselves. Then a row with an
        unknown level is no outlier, as in `p_values`.
      flagged_interval_: The ends of a 95 % interval of the share of such rows that `predict` flags in this fit. It
        is wide if few rows were held out.
      held_out_: `[2, num]`: the scores of held-out rows, as `decision_function` compares rows, each from the first
        flow that held it out; and their weights.
      reference_: The numbers that `explain` tries, `{column or atom: (position of the column, numbers)}`.
      rows_of_fit_: The numbers of up to 4,000 rows of the fit, see `TableEncoder.numbers`.
      encoder_: The `TableEncoder`.
      density_: The `TableDensity`.
      kinds_: The kind of each column, in the form of `kinds`.
      n_features_in_: Number of columns.
      feature_names_in_: Names of the columns, for a data frame.

    Raises:
      ValueError: If an argument is out of range, there are fewer than 10 rows, a column cannot be read, or the
        columns differ from those of the fit.

    References:
      Chen et al., Residual flows for invertible generative modeling, 2019.
      Kim et al., SoftFlow, 2020: one flow for all noise levels.
      Hesterberg, Weighted average importance sampling and defensive mixture distributions, 1995.
    """

    _dtype: str | None  # of an array, None for a frame
    _arrow: FrameType | None = None  # of a frame, unless it is pandas
    _margins: np.ndarray  # vectors `[num, size]` of the fit
    _conditions: np.ndarray  # of rows of the fit
    _times: np.ndarray  # numbers `[num, 0 or 1]` of times with cycles, in rows of the fit
    _draws: Any = None  # the `QuantileTransformer`s of many draws and of the margins, once `sample` was called

    def __init__(
        self,
        *,
        noise: str | float = ARGUMENTS["noise"].default,
        contamination: float = ARGUMENTS["contamination"].default,
        missing: str = ARGUMENTS["missing"].default,
        condition_columns: Collection[Any] = (),
        kinds: Mapping[Any, Any] | None = None,
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
        whiten: str | bool = ARGUMENTS["whiten"].default,
        num_blocks: int = ARGUMENTS["num_blocks"].default,
        hidden: Sequence[int] = ARGUMENTS["hidden"].default,
        num_members: int | None = ARGUMENTS["num_members"].default,
        max_steps: int | None = ARGUMENTS["max_steps"].default,
        validation_fraction: float = ARGUMENTS["validation_fraction"].default,
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
          X: Rows `[num, columns]`: an array, or a data frame of pandas, polars or pyarrow.
          y: Ignored.
          sample_weight: `[num]`, at least 0. Training draws rows in proportion to their weights, and held-out rows
            count in proportion, like repeated rows.
        """
        return self.fit_members(X, {}, sample_weight)

    def fit_members(self, X: Any, trained: MutableMapping[int, Any], sample_weight: Any = None) -> "FlowDensity":
        """Like `fit`, but skips the members in `trained` and adds the others to it, so a fit can be resumed."""
        self._check_arguments()
        self.__dict__.pop("offset_", None)  # its presence marks a finished fit
        table = self._table(X, is_fit=True)
        is_kept = self._is_kept(table)
        weights = np.ones(len(table))
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, table)
            is_kept &= weights > 0
        table = table[is_kept]
        weights = weights[is_kept]
        if len(table) < _LEAST_ROWS:
            raise ValueError(f"A fit needs at least {_LEAST_ROWS} rows; got n_samples={len(table)}.")
        self.encoder_ = TableEncoder(
            table,
            kinds=self.kinds,
            bounds=self.bounds,
            condition_columns=self.condition_columns,
            weights=weights,
        )
        self.kinds_ = self.encoder_.kinds
        self.density_ = TableDensity(self.encoder_, self.num_blocks, self.hidden)
        numbers = self._numbers(table)
        rng = check_random_state(self.random_state)
        held_out_of_members = self._train(numbers, weights, rng, trained)
        self._choose_noise(numbers, weights, held_out_of_members)
        held_out, scores, ensemble_gains = self._score_held_out(numbers, held_out_of_members)
        self._keep(numbers, weights, rng)
        is_alone = self.encoder_.is_singleton(table)[held_out]
        scores = np.where(is_alone, -np.inf, scores - _ROUNDING)
        weights = weights[held_out]
        self.held_out_ = np.stack([scores, weights])
        self.offset_, self.flagged_interval_ = threshold(scores + ensemble_gains, weights, self.contamination)
        return self

    def _train(self, numbers, weights, rng, trained):
        """Trains the members that are not in `trained`, and adds them to it and to the density.

        Returns:
          The indices of the held-out rows of each member.
        """
        num = len(numbers)
        rows = self.encoder_.encode(numbers)
        flow = self.density_.flow
        num_members = self.num_members or (_MEMBERS_OF_FEW_ROWS if num <= _FEW_ROWS else 1)
        num_held_out = min(max(3, int(self.validation_fraction * num)), _MOST_HELD_OUT)
        steps = flow.num_steps(num - num_held_out) if self.max_steps is None else self.max_steps
        whiten: bool | None = bool(self.whiten)
        if self.whiten == "auto":
            whiten = None if self.encoder_.size > 1 else False  # None: the first member tries both
        order = rng.permutation(num)
        seeds = [int(rng.randint(2**31)) for _ in range(num_members)]
        held_out_of_members = []
        for member_index, seed in enumerate(seeds):
            order = np.roll(order, num_held_out)
            held_out, kept = np.split(order, [num_held_out])
            if member_index not in trained:
                trained[member_index] = flow.train(
                    Vectors(*(array[kept] for array in rows)),
                    Vectors(*(array[held_out] for array in rows)),
                    weights[kept],
                    weights[held_out],
                    whiten=whiten,
                    seed=seed,
                    steps=steps,
                    verbose=self.verbose,
                )
            member_weights, whiten = trained[member_index]
            self.density_.members.append(member_weights)
            held_out_of_members.append(held_out)
        self.whiten_ = whiten
        return held_out_of_members

    def _choose_noise(self, numbers, weights, held_out_of_members):
        """Chooses the noise level and the tolerated standard error of scores, with the held-out rows."""
        density = self.density_
        levels = _LEVELS if self.noise == "auto" else np.array([float(self.noise)])
        compared_rows = [held_out[:_MOST_COMPARED] for held_out in held_out_of_members]
        log_probs = []
        log_units = []
        for rows, member in zip(compared_rows, density.members, strict=True):
            log_probs_of_member, log_units_of_member = density.log_probs(numbers[rows], levels, [member])
            log_probs.append(log_probs_of_member)
            log_units.append(log_units_of_member)
        scores_at_levels = np.concatenate(log_probs, axis=1)
        weights = weights[np.concatenate(compared_rows)]
        means = scores_at_levels @ weights / weights.sum()
        best_scores = scores_at_levels[np.argmax(means)]
        is_good = [not is_significant(best_scores - scores, weights) for scores in scores_at_levels]
        self.noise_levels_ = levels
        self.held_out_scores_ = means
        self.noise_ = float(levels[is_good].max())
        density.noise = self.noise_
        spread = winsorize(scores_at_levels[levels == self.noise_][0] + np.concatenate(log_units)).std()
        self.tolerance_ = TOLERANCE * max(1.0, float(spread))
        density.tolerance = self.tolerance_

    def _score_held_out(self, numbers, held_out_of_members):
        """Scores all held-out rows with the first member that held them out.

        Returns:
          The sorted indices of the rows, their scores, and the gains of the ensemble over a single member.
        """
        density = self.density_
        scores = []
        gains = []
        for member_index, held_out in enumerate(held_out_of_members):
            rows = numbers[held_out]
            (_, comparable_scores), _ = density.scores_and_errors(rows, [density.members[member_index]])
            other_members = density.members[:member_index] + density.members[member_index + 1 :]
            scores.append(comparable_scores)
            gains.append(self._ensemble_gains(rows, other_members))
        held_out_rows, first = np.unique(np.concatenate(held_out_of_members), return_index=True)
        return held_out_rows, np.concatenate(scores)[first], np.concatenate(gains)[first]

    def _ensemble_gains(self, numbers, other_members):
        """Estimates by how much the score of the ensemble exceeds the mean score of its members, for each row.

        All members but one have trained on the rows. For small differences between the scores of m members, this
        gain is (1 - 1 / m) times half of their variance.
        """
        num = len(other_members)
        if num < 2:
            return np.zeros(len(numbers))
        scores = []
        for member in other_members:
            log_probs, _ = self.density_.log_probs(numbers, [self.noise_], [member])
            scores.append(log_probs[0])
        gains = special.logsumexp(scores, axis=0) - math.log(num) - np.mean(scores, axis=0)
        return gains * (num / (num + 1)) / (1 - 1 / num)

    def _keep(self, numbers, weights, rng):
        """Keeps what `explain` and `sample` need from the rows of the fit."""
        self.reference_ = {}
        names = list(self.kinds_)
        columns = enumerate(self.encoder_.columns[: self.encoder_.num_own])
        for column_index, column in sorted(columns, key=lambda entry: names.index(entry[1].name)):
            x = numbers[np.isfinite(numbers[:, column_index]), column_index]
            for label, group in column.number_groups(x).items():
                if len(group):
                    self.reference_[label] = column_index, _reference_numbers(group, bool(column.cycles))
        chosen = draw_rows(weights, _NUM_QUANTILES, rng)
        self.rows_of_fit_ = numbers[chosen[: len(numbers)]]
        vectors = self.encoder_.encode(numbers[chosen])
        spread = vectors.lower + vectors.widths * quasirandom_points(len(chosen))
        self._margins = np.where(vectors.is_blank, np.nan, spread)
        given = numbers[chosen, self.encoder_.size :]
        self._conditions = self.encoder_.condition(given).numpy()
        times = given[:, : self.encoder_.num_own - self.encoder_.size]
        self._times = times[np.isfinite(times).all(axis=1)]
        self._draws = None
        self._draws_seed = int(rng.randint(2**31))

    def score_samples(self, X: Any, return_std: bool = False) -> Any:
        """Returns the log-density of each row in nats, `[num]`.

        It is minus infinity, with a warning, if a value cannot occur, such as an unknown category, or 2.5 in a
        column of whole numbers. It is NaN, with a warning that names column and reason, if a value cannot be read,
        if it is missing in a column without missing values in the fit, or if a condition cannot occur. With
        `missing="error"`, missing values are an error. With "drop", their rows get NaN without a warning.

        The probability of a row with discrete or missing values is a mean over random points, whose number doubles
        from 64 to at most 1,024 until its standard error is at most `tolerance_`. A warning says if it is larger.
        The points and the score of a row depend on this row alone.

        Args:
          X: Rows `[num, columns]`.
          return_std: Whether to return also the standard error of each log-density, `[num]`. It is 0 for a row
            without discrete and missing values, and NaN if the log-density is NaN.
        """
        scores, errors = self._scored(X)
        return (scores[0], errors) if return_std else scores[0]

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean log-density of the rows in nats, ignoring NaN."""
        return float(np.nanmean(self.score_samples(X)))

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns the log-density of each row minus `offset_`, `[num]`; negative for outliers.

        A missing value contributes the mean log-density of its column, and the probability of an atom is divided by
        the width of its cell, so units do not change the ranking.
        """
        (_, scores), _ = self._scored(X)
        with np.errstate(invalid="ignore"):  # minus infinity minus infinity
            return np.where(scores == self.offset_, 0.0, scores - self.offset_)

    def predict(self, X: Any) -> np.ndarray:
        """Returns -1 for outliers and rows with a NaN score, see `score_samples`, 1 for other rows, `[num]`."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> np.ndarray:
        """Returns the conformal p-value of each row, `[num]`; see `tf_resflow.evaluation.p_values`.

        It is the share of the held-out rows that are at most as likely, counting the row itself. Of new rows like
        those of the fit, at most 1 % are expected to have a p-value of at most 0.01. The smallest p-value is
        1 / (n + 1) for n held-out rows, with a warning if it exceeds 0.01. Rows are compared as in
        `decision_function`. A held-out row that would have probability 0 in a fit without it, such as the only row
        with a level, counts like a new row with an unknown level.
        """
        (_, comparable_scores), _ = self._scored(X)
        if self.least_p_value > _SMALL_P_VALUE:
            warnings.warn(
                f"No p-value is below {self.least_p_value:.2g}, because only {len(self.held_out_[0])} rows were "
                "held out. Fit to more rows, or choose a larger threshold.",
                stacklevel=2,
            )
        return p_values(comparable_scores, *self.held_out_)

    @property
    def least_p_value(self) -> float:
        """The smallest possible p-value, 1 / (n + 1) for n held-out rows."""
        return 1 / (len(self.held_out_[0]) + 1)

    def sample(self, n_samples: int = 1, random_state: Any = None, *, condition: Any = None) -> Any:
        """Draws rows with the column types, names and order of the fit, as a data frame like it or an array.

        Up to 32,767 rows are drawn at once. Of more rows, parts of 16,384 rows are drawn one after the other, and
        the last part has the remainder, too. So calls with the sizes of the parts and the same
        `numpy.random.RandomState` draw the same rows.

        Args:
          n_samples: Number of rows; ignored if `condition` is given.
          random_state: Overrides `random_state` of the estimator.
          condition: Values of the `condition_columns`, one row per sample.
        """
        check_is_fitted(self, "offset_")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        condition = self._condition_table(n_samples, condition)
        numbers = self._numbers(condition, given_only=True)
        parts = np.split(numbers, np.cumsum(part_sizes(len(numbers)))[:-1])
        values, times = map(np.concatenate, zip(*(self._draw(part, rng) for part in parts), strict=True))
        for column, x in zip(self.encoder_.columns[self.encoder_.num_own :], numbers.T, strict=True):
            if pandas.api.types.is_string_dtype(condition[column.name]):  # as in a command
                condition[column.name] = column.with_all_decimals().to_series(x)
        table = pandas.concat([self.encoder_.decode(values, times), condition], axis=1)[list(self.kinds_)]
        return table.to_numpy(self._dtype) if self._dtype else self._like_fit(table, with_schema=True)

    def _draw(self, conditions, rng):
        """Returns a vector for each row of the numbers of condition columns, and a time if it has cycles."""
        times = self._draw_times(len(conditions), rng)
        encoded = self.encoder_.condition(np.hstack([times, conditions])).numpy()
        if self.extrapolate:
            return self.density_.sample(encoded, rng), times
        level = self.noise_levels_[np.argmax(self.held_out_scores_)]
        return self._match_marginals(self.density_.sample(encoded, rng, level), level), times

    def _draw_times(self, num, rng):
        """Draws numbers `[num, 1]` of a time column with cycles, `[num, 0]` without one."""
        if self.encoder_.time is None:
            return np.zeros([num, 0])
        if self.extrapolate:
            return self.encoder_.time.draw(rng.uniform(size=[num, 2])).numpy()
        return self._times[rng.randint(len(self._times), size=num)]

    def _condition_table(self, n_samples, condition):
        """Returns a `pandas.DataFrame` of the condition columns, with a row for each sample."""
        columns = list(self.condition_columns)
        if (condition is None) != (not columns):
            raise ValueError(f"condition must have the values of condition_columns = {columns}, if there are any.")
        if condition is None:
            table = pandas.DataFrame(index=range(n_samples))
        else:
            condition, _ = in_pandas(condition)
            names = None if isinstance(condition, pandas.DataFrame) else columns
            table = pandas.DataFrame(condition, columns=names).reset_index(drop=True)
        lacking = [name for name in columns if name not in table]
        if lacking:
            raise ValueError(f"condition has no column {lacking[0]!r}. Give values of {columns}.")
        if not len(table):
            raise ValueError("No rows to draw: n_samples must be at least 1, or condition must have rows.")
        return table[columns]

    def _match_marginals(self, values, level):
        """Maps numbers and times from their quantiles in many draws to those in the rows of the fit."""
        if self._draws is None:
            draws = self.density_.sample(self._conditions, np.random.RandomState(self._draws_seed), level)
            self._draws = [
                QuantileTransformer(n_quantiles=_NUM_QUANTILES, subsample=None).fit(rows)
                for rows in (draws, self._margins)
            ]
        of_draws, of_fit = self._draws
        mapped = of_fit.inverse_transform(of_draws.transform(values))
        return np.where(self.encoder_.own.has_levels, values, mapped)

    def explain(self, X: Any) -> Any:
        """Returns which columns make rows unlikely: a data frame `[num, columns]` in nats.

        An entry is the increase of log p if the column had the best of its values at up to 16 quantiles of the fit,
        or of its levels. It is about 0 if the column fits the others. An atom has a column of its own, such as
        "rain = 0", and the column "rain" is for other values. Rows are compared as in `decision_function`.
        The largest entry of a row ranks rows by their worst value. A row without a score has NaN, with a warning.
        """
        table = self._table(X)
        numbers, is_scored = self._scorable(table)
        gains = np.full([len(table), len(self.reference_)], np.nan)
        if is_scored.any():
            gains[is_scored] = self.gains(numbers.array[is_scored])
        return self._like_fit(pandas.DataFrame(gains, table.index, list(self.reference_)))

    def gains(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the entries of `explain` for rows of numbers, see `TableEncoder.numbers`.

        The columns are those of `reference_`.
        """
        return gains(self.density_, self.reference_, numbers)

    def report(
        self,
        X: Any,
        path: str | os.PathLike[str] = "report.html",
        *,
        title: str = "Report on a table",
        random_state: Any = None,
    ) -> None:
        """Writes a report on rows as one HTML file with pictures, which loads nothing from elsewhere.

        The report compares the rows with up to 4,000 rows of the fit and with samples, column by column and in
        pairs of columns. It marks the columns whose distribution differs, says what changed, and explains the rows
        with the lowest scores. If the rows are like those of the fit, but were not used in it, the AUC of a
        classifier of rows and samples measures how good the density is: 0.5 means that nothing tells them apart.

        A row that cannot be scored is reported, and no error. The report needs the extra `plots`.

        Args:
          X: Rows `[num, columns]`, such as held-out rows or new ones.
          path: The .html file to write.
          title: The heading.
          random_state: Overrides `random_state` of the estimator, for samples and tests.
        """
        check_output_path(path, [".html"])
        table = self._table(X)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        write_report(path, self, {"rows of the table": table}, title=title, seed=int(rng.randint(2**31)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the fitted estimator as an .npz file of arrays and JSON, which `FlowDensity.load` reads.

        Unlike a pickle, the file cannot run code. It holds column names, levels, and vectors of rows of the fit.
        """
        check_is_fitted(self, "offset_")
        settings = self.get_params() | {"kinds": None, "bounds": [*(self.bounds or {}).items()]}
        if not isinstance(self.random_state, int):
            settings["random_state"] = None
        fields = {name: getattr(self, name) for name in _FITTED}
        fields |= {"settings": settings, "encoder": self.encoder_.to_json()}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for weight_index, weight_of_members in enumerate(zip(*self.density_.members, strict=True)):
            arrays[f"weights{weight_index}"] = np.stack(weight_of_members)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, json=np.array(json.dumps(fields, default=_plain)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FlowDensity":
        """Loads an estimator that `save` wrote. Frames of its samples are pandas."""
        with explain_read_errors(path, "a saved FlowDensity"), np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
            fields = json.loads(arrays.pop("json").item())
        encoder = TableEncoder.from_json(fields.pop("encoder"))
        settings = fields.pop("settings")
        bounds = {name: tuple(ends) for name, ends in settings["bounds"]}
        density = cls(**settings | {"kinds": encoder.kinds, "bounds": bounds or None})
        density.tolerance_ = TOLERANCE  # files of earlier versions lack it and the interval
        fields["flagged_interval_"] = tuple(fields.get("flagged_interval_", (math.nan, math.nan)))
        for name, value in fields.items():
            setattr(density, name, value)
        arrays.setdefault("_times", np.zeros([0, 0]))  # files of earlier versions have no times with cycles
        arrays.setdefault("rows_of_fit_", np.zeros([0, 0]))  # nor the rows for a report
        for name in _ARRAYS:
            setattr(density, name, arrays.pop(name))
        weights = [arrays[f"weights{index}"] for index in range(len(arrays))]  # of all members
        members = list(zip(*weights, strict=True))
        density.encoder_ = encoder
        density.kinds_ = encoder.kinds
        density.n_features_in_ = len(encoder.kinds)
        density.density_ = TableDensity(
            encoder, density.num_blocks, density.hidden, members, density.noise_, density.tolerance_
        )
        if density._dtype is None and all(isinstance(name, str) for name in encoder.kinds):
            density.feature_names_in_ = np.array(list(encoder.kinds), object)
        return density

    def _check_arguments(self):
        if isinstance(self.condition_columns, str):
            raise ValueError(f"condition_columns is {self.condition_columns!r}; it must be a list of columns.")
        for name, argument in ARGUMENTS.items():
            value = getattr(self, name)
            if not argument.is_valid(value):
                raise ValueError(f"{name} is {value!r}; it must be {argument.expected}.")

    def _table(self, X, is_fit=False):
        if not is_fit:
            check_is_fitted(self, "offset_")
        X, arrow = in_pandas(X)
        is_frame = isinstance(X, pandas.DataFrame)
        if is_frame:
            validate_data(self, X, reset=is_fit, skip_check_array=True)
            table = X if is_fit or self._dtype is None else X.set_axis(list(self.kinds_), axis=1)
        elif not is_fit and self._dtype is None:
            validate_data(self, X, reset=False, skip_check_array=True)
            table = pandas.DataFrame(np.asarray(X), columns=list(self.kinds_)).infer_objects()
        else:
            finite = True if self.missing == "error" else "allow-nan"
            X = validate_data(self, X, reset=is_fit, dtype="numeric", ensure_all_finite=finite)
            table = pandas.DataFrame(X)
        if is_fit:
            self._arrow = arrow
            self._dtype = None if is_frame else X.dtype.name
        return table

    def _like_fit(self, table, with_schema=False):
        """Converts a `pandas.DataFrame` to the library of the fit."""
        return table if self._arrow is None else in_library(table, self._arrow, with_schema=with_schema)

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

    def _numbers(self, table, **options):
        """Returns the numbers of the rows of a fit, or of conditions. Raises ValueError if a row has no score."""
        numbers = self.encoder_.numbers(table, **options)
        unscored_rows = np.flatnonzero(~numbers.has_score)
        if len(unscored_rows):
            row = unscored_rows[0]
            raise ValueError(f"Row with index {table.index[row]}, {numbers.reasons[row]}. {_ADVICE}")
        return numbers.array

    def _scorable(self, table):
        """Returns the `Numbers` of a table, and which rows have a score. Warns of others, except dropped ones."""
        is_kept = self._is_kept(table)
        numbers = self.encoder_.numbers(table)
        is_unscored = is_kept & ~numbers.has_score
        if is_unscored.any():
            counts = numbers.fault_counts(numbers.is_blocking & is_unscored[:, np.newaxis])
            warnings.warn(
                f"{is_unscored.sum():,} of {len(table):,} rows cannot be scored and get NaN: {_listed(counts)}. "
                f"{_ADVICE}",
                stacklevel=4,
            )
        return numbers, is_kept & numbers.has_score

    def _scored(self, X):
        """Returns the scores of rows and the comparable scores, and their errors; NaN for rows without a score."""
        numbers, is_scored = self._scorable(self._table(X))
        scores = np.full([2, len(is_scored)], np.nan)
        errors = np.full(len(is_scored), np.nan)
        scores[:, is_scored], errors[is_scored] = self.density_.scores_and_errors(numbers.array[is_scored])
        self.density_.warn(errors[is_scored])
        is_impossible = np.isneginf(scores[0])
        if is_impossible.any():
            counts = numbers.fault_counts(is_impossible[:, np.newaxis])
            warnings.warn(
                f"The score of {counted(int(is_impossible.sum()), 'row')} is minus infinity, because a value "
                f"cannot occur: {_listed(counts)}.",
                stacklevel=3,
            )
        return scores, errors


def part_sizes(num: int) -> list[int]:
    """Returns the numbers of rows that `FlowDensity.sample` draws one after the other, for a total of `num`."""
    num_parts = max(num // _DRAWN_AT_ONCE, 1)
    sizes = [_DRAWN_AT_ONCE] * num_parts
    sizes[-1] += num - sum(sizes)
    return sizes


def _listed(counts):
    """Returns the texts of `FaultCount`s as one."""
    return shortened([count.text for count in counts], "; ")


def _reference_numbers(x, has_cycles):
    """Returns all different numbers, or those at evenly spaced quantiles if there are many.

    With cycles, the spacing is irregular. Otherwise all numbers could be on the same day of the week.
    """
    different = np.unique(x)
    if len(different) <= _REFERENCE:
        return different.tolist()
    levels = quasirandom_points(_REFERENCE).ravel() if has_cycles else np.linspace(0, 1, _REFERENCE)
    return np.unique(np.quantile(x, levels, method="nearest")).tolist()


def _plain(value):
    """Returns a number or a collection of NumPy or pandas as one of Python, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Collection):
        return list(value)
    raise TypeError(f"{value!r} cannot be saved. Use numbers and text as arguments and names.")
