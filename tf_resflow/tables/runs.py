"""Runs on tables: training, loading and evaluation."""

import contextlib
import hashlib
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from scipy import stats

from tf_resflow.config_fields import ConfigDict
from tf_resflow.console import shown, stage
from tf_resflow.data.splits import draw_splits
from tf_resflow.evaluation import p_values
from tf_resflow.extras import LazyPackage
from tf_resflow.messages import counted, shortened
from tf_resflow.tables.column import is_text, kinds_from_words, kinds_in_words
from tf_resflow.tables.config import bounds_from_words, check_places, names_of, validate_config
from tf_resflow.tables.density import log_densities, points_of
from tf_resflow.tables.figures import pairs_figure
from tf_resflow.tables.files import find_columns, identifiers, read_table
from tf_resflow.tables.flow_density import FlowDensity
from tf_resflow.tables.noise_conditioned import LEAST_NOISE, MOST_NOISE
from tf_resflow.tables.workdir import TableWorkdir, read_json
from tf_resflow.writing import finite_or_none, write_json

pandas: Any = LazyPackage("pandas", "data")

_NUM_POINTS = 5000  # rows and samples in the figure
_AT_ONCE = 2048  # rows of the Gaussian baseline
_LEAST_TRAIN = 10  # rows of a fit


class TableRun:
    """The fitted density of a run on a table, as returned by `tf_resflow.load`.

    Attributes:
      density: the `FlowDensity`.
      config: the config of the run, an `ml_collections.ConfigDict`.
      result: content of result.json.
      workdir: directory of the run, a `pathlib.Path`.
    """

    def __init__(self, density: FlowDensity, config: Any, result: dict[str, Any] | None, workdir: pathlib.Path):
        self.density, self.config, self.result, self.workdir = density, config, result, workdir

    def rows(self, *, data_path: str | None = None) -> dict[str, Any]:
        """Returns the "train" rows, and the "test" rows if there are any, as data frames.

        Args:
          data_path: the file, if it has moved since the training.

        Raises:
          ValueError: if the file is missing, or its rows have changed since the training.
        """
        files = TableWorkdir(self.workdir)
        config, described = files.config_of_data(data_path=data_path), read_json(files.data)
        rows = read_rows(config, described["columns"])
        if _description(rows) != described:
            raise ValueError(
                f"{config.data.path} has changed since the training of the run in {self.workdir}, so its test rows "
                "are unknown. Restore the file."
            )
        return rows

    def evaluate(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the mean log-likelihood of the test rows and its standard error, and that of a Gaussian.

        Args:
          rows: the result of `rows`.
        """
        scores = score_rows(self.density, rows["test"], self.config.data.read_options.date_format)
        log_prob = scores.log_prob[is_possible := np.isfinite(scores.log_prob)]
        found: dict[str, Any] = {"num_examples": len(log_prob)}
        found["num_impossible"] = int(np.isneginf(scores.log_prob).sum())
        found["num_unscored"] = int(np.isnan(scores.log_prob).sum())
        if not len(log_prob):
            return found
        stderr = log_prob.std(ddof=1) / len(log_prob) ** 0.5 if len(log_prob) > 1 else np.nan
        with stage("Gaussian baseline"):
            gaussian = _gaussian_log_probs(self.density, rows["train"], scores.values[is_possible])
        found |= {"nats": float(log_prob.mean()), "nats_stderr": float(stderr)}
        return found | {"baselines": {"gaussian": float(gaussian.mean())}}

    def __repr__(self) -> str:
        return f"TableRun(density={self.density}, workdir={self.workdir})"


class RowScores(NamedTuple):
    """The scores of the rows of a table, arrays with one entry per row.

    Attributes:
      log_prob: log-density in nats: minus infinity if a value cannot occur, NaN if there is no score.
      compared: the scores that rank rows and give p-values, see `FlowDensity.decision_function`.
      p_value: conformal p-value, see `FlowDensity.p_values`.
      reasons: why a row has no score, or the score minus infinity; otherwise "".
      values: the numbers `[num, columns]`, see `TableEncoder.numbers`.
    """

    log_prob: np.ndarray
    compared: np.ndarray
    p_value: np.ndarray
    reasons: np.ndarray
    values: np.ndarray


def score_rows(density: FlowDensity, table: Any, date_format: str | None = None) -> RowScores:
    """Scores the rows of a table. Unlike `FlowDensity.score_samples`, it accepts unreadable values.

    Args:
      table: `pandas.DataFrame` that has the columns of the fit. Values may be text.
      date_format: format of dates given as text; ISO 8601 by default.
    """
    encoder = density.encoder_
    numbers = encoder.numbers(table, date_format=date_format)
    values, num_own = numbers.values, encoder.num_own
    is_allowed = np.append(encoder.is_masked, np.zeros(values.shape[1] - num_own, bool))
    is_allowed = np.isnan(values) & (numbers.faults == "") & is_allowed
    lacks = np.isnan(values) & ~is_allowed
    has_score = ~lacks.any(axis=1) & np.isfinite(values[:, num_own:]).all(axis=1)
    scores = np.full([2, len(values)], np.nan)
    if has_score.any():
        scores[:, has_score] = density.density_.score(values[has_score])
    reasons = numbers._replace(values=np.where(is_allowed, 0.0, values)).reasons
    log_prob, compared = scores
    return RowScores(log_prob, compared, p_values(compared, *density.held_out_), reasons, values)


def read_rows(config: ConfigDict, columns: Sequence[Any] | None = None) -> dict[str, Any]:
    """Reads the "train" rows of a run, and its "test" rows if there are any, in the order of the file.

    Args:
      columns: the columns to read. By default, those of the config. Without `data.columns`, columns that identify
        the rows are left out with a warning.
    """
    data, path = config.data, pathlib.Path(config.data.path).expanduser()
    kinds = kinds_from_words(data.kinds)
    options: dict[str, Any] = {"key": data.key or None, "read_options": data.read_options.to_dict()}
    options["texts"] = [name for name, kind in kinds.items() if is_text(kind)]
    if columns is None:
        listed, given = names_of(data.columns), names_of(data.condition_columns)
        excluded = names_of(data.exclude_columns)
        table = read_table(path, columns=listed or None, exclude_columns=excluded, **options)
        named = dict.fromkeys([*listed, *given, *kinds, *bounds_from_words(data.bounds)])
        kept = table.columns[find_columns(path, table, [name for name in named if name not in excluded])]
        if own := [name for name in identifiers(table) if name not in kept]:
            logging.warning(
                "%s: these columns identify the rows and are left out: %s. To keep one, name it in "
                "--config.data.kinds or --config.data.columns.",
                path,
                shortened(map(repr, own)),
            )
            table = table.drop(columns=own)
    else:
        table = read_table(path, columns=[str(name) for name in columns], **options)
    _check_missing(path, table, config)
    if data.path_test:
        columns, test = [str(name) for name in table], pathlib.Path(data.path_test).expanduser()
        return {"train": table, "test": read_table(test, columns=columns, typed=False, **options)}
    if not data.test_fraction:
        return {"train": table}
    fractions = {"test": data.test_fraction}
    drawn = draw_splits(len(table), fractions, data.split_seed, path, least=_LEAST_TRAIN)
    return {split: table.iloc[np.sort(drawn[split])] for split in ("train", "test")}


def train(config: ConfigDict, workdir: str | os.PathLike[str], *, progress: bool = True) -> dict[str, Any]:
    """Fits the density of a table, or resumes the fit. Members that are trained are not trained again.

    The scores are those of `FlowDensity(random_state=config.seed, ...).fit(table)`, where the table has the train
    rows.

    Args:
      config: a config with the fields of `tf_resflow.tables.config.default_config`.
      workdir: directory of the run.
      progress: whether to show the progress of each member.

    Returns:
      The content of result.json, a dict with a summary `line`. A finished run returns it without training.

    Raises:
      ValueError: if the config, the workdir or the data are invalid.
    """
    validate_config(config)
    check_places(config.data)
    files = TableWorkdir(workdir)
    with files.locked(), shown(progress), _logged_warnings():
        files.check_config(config)
        with stage("data"):
            rows = read_rows(config)
        density = _density(config, rows["train"])
        files.start(config, _description(rows))
        if done := files.read_result(config):
            return done | {"line": f"Already done: {done['line']}"}
        density.verbose = (1 if sys.stdout.isatty() else 2) if progress else 0
        try:
            density.fit_members(rows["train"], files.members)
        except ValueError as error:
            raise ValueError(f"{config.data.path}: {error}") from None
        density.verbose = 0
        density.save(files.density)
        run = TableRun(density, config, None, files.path)
        result = _result(run, rows)
        with stage("figures"):
            _write_figure(files.figures / "pairs.png", config, density, rows["train"])
        write_json(files.result, finite_or_none(result))
        return result


def load(workdir: str | os.PathLike[str]) -> TableRun:
    """Loads the run on a table in a directory."""
    files = TableWorkdir(workdir)
    config = files.read_config()
    files.check_trained()
    result = read_json(files.result) if files.result.exists() else None
    return TableRun(FlowDensity.load(files.density), config, result, files.path)


def conditions(density: FlowDensity, given: Sequence[Any], num: int) -> Any:
    """Returns a data frame of the condition columns with `num` equal rows, with the types of the fit.

    Raises ValueError if a value cannot be read or did not occur in the fit.
    """
    encoder = density.encoder_
    own, columns = encoder.columns[: encoder.num_own], encoder.columns[encoder.num_own :]
    row = pandas.DataFrame([[None] * len(own) + list(given)], columns=[column.name for column in encoder.columns])
    numbers = encoder.numbers(row.astype(object))
    values = numbers._replace(values=np.where(np.arange(row.shape[1]) < len(own), 0.0, numbers.values))
    if reason := values.reasons[0]:
        raise ValueError(reason)
    found = zip(columns, values.values[0, len(own) :], strict=True)
    # The values of samples are rounded to the decimals of the fit, but a condition is not.
    is_real = lambda column: column.json_name == "number" and column.dtype.kind == "f"  # noqa: E731
    parts = {
        column.name: np.full(num, x + column.offset) if is_real(column) else column.sampled(np.full(num, x))
        for column, x in found
    }
    return pandas.DataFrame(parts)


def _density(config, table):
    """Returns the `FlowDensity` of a config, without a fit."""

    def by_name(given):
        places = find_columns(config.data.path, table, [*given])
        return dict(zip(table.columns[places], given.values(), strict=True))

    kinds, bounds = kinds_from_words(config.data.kinds), bounds_from_words(config.data.bounds)
    return FlowDensity(
        random_state=config.seed,
        condition_columns=list(by_name(dict.fromkeys(names_of(config.data.condition_columns)))),
        kinds=by_name(kinds),
        bounds=by_name(bounds),
        **config.density.to_dict(),
    )


def _check_missing(path, table, config):
    """Raises ValueError if values are missing and the config does not say what to do."""
    is_missing = table.isna()
    rows = np.flatnonzero(is_missing.any(axis=1))
    if config.density.missing != "error" or not len(rows):
        return
    counts = [f"{str(name)!r} ({num:,})" for name, num in is_missing.sum().items() if num]
    raise ValueError(
        f"{path}, {table.index.name} {table.index[rows[0]]}: a value is missing. {len(rows):,} of {len(table):,} "
        f"rows have missing values, by column: {shortened(counts)}. Score the other values of these rows with "
        "--config.density.missing=condition, leave out the rows with --config.density.missing=drop, or leave out "
        "the columns with --config.data.exclude_columns."
    )


def _description(rows):
    """Returns the columns of the data, the number of rows of each split, and a hash of the rows."""
    digest = hashlib.sha256()
    for part in rows.values():
        digest.update(pandas.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
    sizes = {split: len(part) for split, part in rows.items()}
    return {"columns": rows["train"].columns.tolist(), "sizes": sizes, "sha256": digest.hexdigest()}


def _result(run, rows):
    density = run.density
    result: dict[str, Any] = {"name": pathlib.Path(run.config.data.path).stem, "split": "test"}
    result |= {"num_train": len(rows["train"]), "num_members": len(density.density_.members)}
    result |= {"noise": density.noise_, "least_p_value": density.least_p_value}
    result |= {"kinds": kinds_in_words(density.kinds_), "figures": ["pairs.png"]}
    result |= run.evaluate(rows) if "test" in rows else {}
    return result | {"line": _line(result)}


def _line(result):
    """Returns a one-line summary of a result."""
    fitted = f"fitted to {counted(result['num_train'], 'row')}"
    if not result.get("num_examples"):
        return f"{result['name']}: {fitted}, without test rows that have a score"
    against = [f"gaussian {result['baselines']['gaussian']:.3f}", fitted]
    left_out = {"num_impossible": "with values that cannot occur", "num_unscored": "without a score"}
    against += [
        f"not counting {counted(result[key], 'row')} {what}" for key, what in left_out.items() if result[key]
    ]
    score = f"{result['nats']:.3f} ± {result['nats_stderr']:.3f} nats"
    return f"{result['name']}: {score} on {counted(result['num_examples'], 'test row')} ({'; '.join(against)})"


def _gaussian_log_probs(density, train, values):
    """Returns the log-densities of rows under a Gaussian linear regression of the vectors on the conditions."""
    encoder = density.encoder_
    numbers = encoder.numbers(train).values
    rows = encoder.encode(numbers[~np.isnan(numbers).any(axis=1)] if density.missing == "drop" else numbers)
    z, _ = encoder.own.spread(rows.vectors, np.random.default_rng(0).uniform(size=[len(rows), encoder.size + 1]))
    z = z.numpy()
    slopes = np.linalg.lstsq(_with_ones(rows.condition), z, rcond=None)[0]
    errors = z - _with_ones(rows.condition) @ slopes
    covariance = np.atleast_2d(np.cov(errors.T, bias=True)) + LEAST_NOISE**2 * np.eye(encoder.size)
    normal = stats.multivariate_normal(cov=covariance)

    def log_prob(x):
        x = x.numpy()
        means = _with_ones(x[:, encoder.size + 1 :]) @ slopes
        return tf.constant(np.atleast_1d(normal.logpdf(x[:, : encoder.size] - means)))

    points = points_of(encoder)
    parts = [values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE)]
    found = [
        log_densities(encoder, encoder.rows(tf.constant(own)), points, [MOST_NOISE], [log_prob]) for own in parts
    ]
    return np.concatenate(found, axis=1)[0]


def _with_ones(condition):
    return np.insert(np.asarray(condition, np.float64), 0, 1.0, axis=1)


def _write_figure(path, config, density, train):
    rows = train.dropna() if density.missing == "drop" else train
    rows = rows.sample(min(_NUM_POINTS, len(rows)), random_state=0)
    condition = rows[list(density.condition_columns)] if len(density.condition_columns) else None
    drawn = density.sample(len(rows), random_state=config.seed, condition=condition)
    groups = {"train rows": rows, "samples": drawn}
    pairs_figure(path, density.encoder_, groups, title=pathlib.Path(config.data.path).stem)


@contextlib.contextmanager
def _logged_warnings() -> Iterator[None]:
    """Context manager in which Python's warnings go to the log, without the line of code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def log(message, category, *arguments, **options):
            if issubclass(category, UserWarning):
                logging.warning("%s", message)
            else:
                show(message, category, *arguments, **options)

        warnings.showwarning = log
        yield
