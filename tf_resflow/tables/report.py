"""A report that compares a table with a density and with the rows of its fit, as one HTML file."""

import base64
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from tf_resflow._internal.extras import LazyPackage, extra
from tf_resflow._internal.messages import cut
from tf_resflow._internal.writing import atomic_write
from tf_resflow.evaluation import p_values
from tf_resflow.tables.columns.kinds import format_kinds
from tf_resflow.tables.figures import column_figure, p_value_figure, pairs_figure
from tf_resflow.tables.frames import in_pandas

with extra("sklearn"):
    import pandas
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

jinja2: Any = LazyPackage("jinja2", "plots")

_LEVEL = 0.01  # of the tests
_SMALL_P_VALUE = 0.01  # rows with at most this p-value are rare
_FEWEST_SAMPLES = 1000
_MOST_SAMPLES = 5000
_FEWEST_CLASSIFIED = 20  # rows
_NUM_FOLDS = 10
_CLASSIFIER = {"learning_rate": 0.05, "max_leaf_nodes": 16}  # few rows need less than the defaults
_MOST_CELLS = 110  # columns with more different values have no permutation test
_DRAWS_PER_COLUMN = 200  # of a permutation test, so that the corrected p-value can be below _LEVEL
_FEWEST_DRAWS = 10_000
_NUM_RARE_ROWS = 10
_NUM_CAUSES = 3  # columns that explain a row
_LEAST_NATS = 0.1  # of a cause
_MOST_NAMED = 3  # values with a fault
_LONGEST_VALUE = 60  # letters

FIT = "rows of the fit"
SAMPLES = "samples"


class Distance(NamedTuple):
    """The distance of two groups of values, the distance that chance exceeds in 1 % of cases, and the p-value."""

    size: float
    limit: float
    p_value: float


class Score(NamedTuple):
    """The estimate of a score, and its standard error."""

    mean: float
    stderr: float


def write_report(
    path: str | os.PathLike[str],
    density: Any,
    tables: Mapping[str, Any],
    *,
    title: str,
    seed: int,
    date_format: str | None = None,
) -> None:
    """Writes a report on one or two tables. See `FlowDensity.report`.

    Args:
      path: The .html file.
      density: The fitted `FlowDensity`.
      tables: Dict of name to `pandas.DataFrame`. Samples are compared with the first table. The last table is
        compared with the rows of the fit, and its rarest rows are explained.
      title: The heading.
      seed: Seed of samples and tests.
      date_format: Format of dates given as text; ISO 8601 by default.
    """
    for name, table in tables.items():
        if not len(table):
            raise ValueError(f"There are no {name}, so there is nothing to report. Give at least one row.")
    if not len(density.rows_of_fit_):
        raise ValueError("The density was saved by an earlier version, without rows for a report. Fit it again.")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    )
    environment.filters.update(share=_share, cut=cut)
    template = environment.get_template("report.html")
    text = template.render(title=title, **_Report(density, tables, seed, date_format).content())
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class _Report:
    """Computes the content of a report."""

    def __init__(self, density, tables, seed, date_format):
        encoder = density.encoder_
        self.density = density
        self.seed = seed
        self.tables = {name: encoder.numbers(table, date_format=date_format) for name, table in tables.items()}
        self.name = [*tables][-1]
        self.rows = self.tables[self.name]
        self.threshold = max(_SMALL_P_VALUE, density.least_p_value)
        self.scores = {name: self._scores(numbers) for name, numbers in self.tables.items()}
        self.p_values = {
            name: p_values(scores, *density.held_out_)[~np.isnan(scores)] for name, scores in self.scores.items()
        }
        self.groups = {FIT: density.rows_of_fit_}
        self.groups |= {name: numbers.array for name, numbers in self.tables.items()}
        self.groups[SAMPLES] = self._samples(next(iter(self.tables.values())))

    def _scores(self, numbers):
        """Returns the scores that rank rows, NaN for rows without a score."""
        scores = np.full(len(numbers.array), np.nan)
        scores[numbers.has_score] = self.density.density_.score(numbers.array[numbers.has_score])[1]
        return scores

    def _samples(self, numbers):
        """Returns the numbers of samples. Their conditions are those of rows of a table that have a score."""
        density = self.density
        encoder = density.encoder_
        num = int(np.clip(len(numbers.array), _FEWEST_SAMPLES, _MOST_SAMPLES))
        given = numbers.array[numbers.has_score]
        given = given if len(given) else density.rows_of_fit_
        given = given[np.resize(np.random.default_rng(self.seed).permutation(len(given)), num)]
        condition = {
            column.name: column.with_all_decimals().to_series(given[:, index])
            for index, column in enumerate(encoder.columns)
            if index >= encoder.num_own
        }
        samples = density.sample(num, self.seed, condition=pandas.DataFrame(condition) if condition else None)
        table = pandas.DataFrame(in_pandas(samples)[0], columns=list(density.kinds_))
        return encoder.numbers(table).array

    def content(self):
        """Returns the variables of the template."""
        columns = self._columns()
        p_value_picture = None
        if any(map(len, self.p_values.values())):
            p_value_picture = _picture(p_value_figure, self.p_values, self.density.least_p_value)
        return {
            "name": self.name,
            "judged": [*self.tables][0],
            "num_fit": len(self.groups[FIT]),
            "num_rows": len(self.rows.array),
            "num_unscored": int(np.isnan(self.scores[self.name]).sum()),
            "faults": [count.text for count in self.rows.fault_counts(self.rows.is_blocking)],
            "num_held_out": len(self.density.held_out_[0]),
            "threshold": self.threshold,
            "fewest_classified": _FEWEST_CLASSIFIED,
            "num_rare": int(np.sum(self.p_values[self.name] <= self.threshold)),
            "num_scored": len(self.p_values[self.name]),
            "p_value_distances": {name: self._p_value_distance(p) for name, p in self.p_values.items() if len(p)},
            "p_value_picture": p_value_picture,
            "level": _LEVEL,
            "auc": self._auc(),
            "columns": columns,
            "drifted": [column for column in columns if column["has_drifted"]],
            "rare_rows": self._rare_rows(),
            "pairs": self._pairs(),
        }

    def _p_value_distance(self, p):
        """Returns the largest excess of small p-values, compared with the uniform distribution."""
        _, weights = self.density.held_out_
        num_held_out = weights.sum() ** 2 / np.sum(weights**2)
        num = len(p) * num_held_out / (len(p) + num_held_out)
        excess = np.arange(1, len(p) + 1) / len(p) - np.sort(p)
        size = max(0.0, excess.max())
        return Distance(size, np.sqrt(-np.log(_LEVEL) / 2 / num), np.exp(-2 * num * size**2))

    def _auc(self):
        """Returns the `Score` of a classifier of samples and complete rows, or None if there are few rows."""
        rows = self.tables[[*self.tables][0]].array
        rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows) < _FEWEST_CLASSIFIED:
            return None
        rows = np.random.default_rng(self.seed).permutation(rows)[:_MOST_SAMPLES]
        has_levels = [column.has_levels for column in self.density.encoder_.columns]
        return classifier_auc(rows, self.groups[SAMPLES], has_levels, self.seed)

    def _columns(self):
        """Returns what the report says about each column, in the order of the table."""
        encoder = self.density.encoder_
        num_draws = max(_FEWEST_DRAWS, _DRAWS_PER_COLUMN * len(encoder.columns))
        rng = np.random.default_rng(self.seed)
        names = list(self.density.kinds_)
        columns = []
        for index, column in sorted(enumerate(encoder.columns), key=lambda entry: names.index(entry[1].name)):
            groups = {name: numbers[:, index] for name, numbers in self.groups.items()}
            if index >= encoder.num_own:
                del groups[SAMPLES]
            fit = groups[FIT]
            new = groups[self.name]
            columns.append(
                {
                    "name": str(column.name),
                    "kind": format_kinds({"": column.kind}).removeprefix(": "),
                    "is_condition": index >= encoder.num_own,
                    "measure": "Total variation" if column.has_levels else "Kolmogorov-Smirnov",
                    "distance": distance(fit, new, not column.has_levels, num_draws, rng),
                    "changes": _changes(column, fit, new, self.rows.faults[:, index], self.rows.table[column.name]),
                    "picture": _picture(column_figure, column, groups),
                }
            )
        corrected = holm([column["distance"].p_value for column in columns])
        for column, p_value in zip(columns, corrected, strict=True):
            column["p_value"] = p_value
            column["has_drifted"] = p_value < _LEVEL
        return columns

    def _rare_rows(self):
        """Returns what the report says about the rows with the lowest scores. Equal reasons are not repeated."""
        density = self.density
        scores = self.scores[self.name]
        reasons = pandas.Series(self.rows.reasons)[np.argsort(scores, kind="stable")]
        reasons = reasons[~np.isnan(scores[reasons.index])]
        is_repeated = reasons.duplicated() & (reasons != "")
        indices = reasons.index[~is_repeated][:_NUM_RARE_ROWS]
        if not len(indices):
            return []
        gains = density.gains(self.rows.array[indices])
        longest = max(1.0, np.max(gains[np.isfinite(gains)], initial=0.0))
        labels = [density.encoder_.columns[index].name for index, _ in density.reference_.values()]
        rare_rows = []
        for index, gains_of_row in zip(indices, gains, strict=True):
            gain_of_column = pandas.Series(gains_of_row).groupby(labels, sort=False).max().nlargest(_NUM_CAUSES)
            causes = [
                {
                    "name": str(name),
                    "value": _text(self.rows.table[name].iloc[index]),
                    "nats": nats,
                    "width": min(nats / longest, 1.0),
                }
                for name, nats in gain_of_column.items()
                if nats >= _LEAST_NATS
            ]
            rare_rows.append(
                {
                    "row": self.rows.table.index[index],
                    "p_value": p_values(scores[index], *density.held_out_),
                    "reason": reasons[index],
                    "num_repeated": int(is_repeated[reasons == reasons[index]].sum()),
                    "causes": causes,
                }
            )
        return rare_rows

    def _pairs(self):
        """Returns pictures of the pairs of columns, with the rows of the fit beside the samples and the rows."""
        encoder = self.density.encoder_
        if encoder.num_own == 1:
            return {}
        names = [SAMPLES, self.name]
        groups = {name: {FIT: self.groups[FIT], name: self.groups[name]} for name in names}
        return {name: _picture(pairs_figure, encoder, numbers) for name, numbers in groups.items()}


def classifier_auc(rows: np.ndarray, samples: np.ndarray, has_levels: Any, seed: int) -> Score:
    """Returns the area under the ROC curve of a classifier that distinguishes rows from samples `[num, columns]`.

    It is the mean over the folds of a cross-validation. The standard error is that of Nadeau and Bengio (2003),
    because training sets overlap.
    """
    x = np.concatenate([rows, samples])
    is_row = np.arange(len(x)) < len(rows)
    classifier = HistGradientBoostingClassifier(
        categorical_features=has_levels, early_stopping=False, random_state=seed, **_CLASSIFIER
    )
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    areas = cross_val_score(classifier, x, is_row, scoring="roc_auc", cv=folds)
    variance = areas.var(ddof=1) * (1 / _NUM_FOLDS + 1 / (_NUM_FOLDS - 1))
    return Score(float(areas.mean()), float(np.sqrt(variance)))


def distance(
    fit: np.ndarray, new: np.ndarray, is_ordered: bool, num_draws: int, rng: np.random.Generator
) -> Distance:
    """Returns the Kolmogorov-Smirnov distance of numbers, or the total variation distance of levels.

    Missing values (NaN) are one more value, and so are values that cannot occur (infinity). The p-value is that of
    the distance, or of the share of missing values, or of the share of values that cannot occur (Bonferroni). With
    few different values, a permutation test gives the first one, otherwise the distribution for continuous numbers.
    """
    values, cells = np.unique(np.concatenate([fit, new]), return_inverse=True)
    counts = np.bincount(cells, minlength=len(values))

    def size(counts_of_fit):
        differences = counts_of_fit / len(fit) - (counts - counts_of_fit) / len(new)
        if is_ordered:
            return np.abs(np.cumsum(differences, axis=-1)).max(axis=-1)
        return np.abs(differences).sum(axis=-1) / 2

    observed = float(size(np.bincount(cells[: len(fit)], minlength=len(values))))
    if len(values) > _MOST_CELLS:
        num = max(1, round(len(fit) * len(new) / (len(fit) + len(new))))
        limit = stats.kstwo.isf(_LEVEL, num)
        p = stats.kstwo.sf(observed, num)
    else:
        sizes = size(rng.multivariate_hypergeometric(counts, len(fit), num_draws, method="marginals"))
        limit = np.quantile(sizes, 1 - _LEVEL)
        p = (1 + np.sum(sizes >= observed - 1e-9)) / (1 + num_draws)
    tests = [p]
    for is_special in (np.isnan, np.isinf):
        nums = np.array([is_special(fit).sum(), is_special(new).sum()])
        if nums.any():
            tests.append(stats.fisher_exact([nums, [len(fit), len(new)] - nums])[1])
    return Distance(observed, float(limit), min(1.0, len(tests) * min(tests)))


def holm(p_values_of_tests: Any) -> np.ndarray:
    """Returns p-values that are corrected for the number of tests (Holm, 1979)."""
    p = np.asarray(p_values_of_tests)
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def _changes(column, fit, new, faults, values):
    """Returns what is different in the numbers of new rows: a list of texts."""
    changes = []
    is_missing = np.isnan(new) & np.isin(faults, ["", "missing"])
    shares = _share(np.isnan(fit).mean()), _share(is_missing.mean())
    if shares[0] != shares[1]:
        changes.append(f"missing: {shares[1]} instead of {shares[0]}")
    for fault in np.unique(faults[(faults != "") & (faults != "missing")]):
        counts = values[faults == fault].map(_text).value_counts()
        named = ", ".join(f"{text} ({num:,})" for text, num in counts.head(_MOST_NAMED).items())
        more = ", …" if len(counts) > _MOST_NAMED else ""
        changes.append(f"{fault}: {_share(counts.sum() / len(new))} of the values: {named}{more}")
    fit = fit[np.isfinite(fit)]
    new = new[np.isfinite(new)]
    if column.has_levels or not len(new):
        return changes
    ends = column.to_series(np.array([fit.min(), fit.max(), new.min(), new.max()])).map(_text)
    num_below = np.sum(new < fit.min())
    if num_below:
        changes.append(f"{num_below:,} below the smallest value of the fit, {ends[0]}: down to {ends[2]}")
    num_above = np.sum(new > fit.max())
    if num_above:
        changes.append(f"{num_above:,} above the largest value of the fit, {ends[1]}: up to {ends[3]}")
    return changes


def _text(value):
    """Returns a value as text, without digits and times of day that are not needed."""
    if pandas.isna(value):
        return "missing"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, pandas.Timestamp):
        value = value.floor("s")
    return cut(str(value).removesuffix(" 00:00:00").strip(), _LONGEST_VALUE)


def _share(value):
    digits = ".2g" if 0 < value < 0.0995 else ".0f"
    return f"{100 * value:{digits}}\N{NO-BREAK SPACE}%"


def _picture(figure: Callable, *arguments: Any) -> str:
    """Returns the picture that a function writes, as the URI of its data."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "picture.png")
        figure(path, *arguments)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
