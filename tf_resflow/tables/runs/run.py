"""Runs on tables: training, loading and evaluation."""

import dataclasses
import hashlib
import os
import pathlib
import sys
import warnings
from typing import Any

import numpy as np
from absl import logging

from tf_resflow._internal.console import show_progress, stage
from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.messages import counted, shortened
from tf_resflow._internal.writing import explain_write_errors, finite_or_none, write_json
from tf_resflow.data.splits import draw_splits
from tf_resflow.evaluation import p_values
from tf_resflow.tables.columns.kinds import format_kinds, is_text, parse_kinds
from tf_resflow.tables.encoder import Numbers
from tf_resflow.tables.figures import pairs_figure
from tf_resflow.tables.flow_density import FlowDensity
from tf_resflow.tables.runs.config import check_paths, parse_bounds, parse_names, validate_config
from tf_resflow.tables.runs.files import find_columns, identifiers, read_table
from tf_resflow.tables.runs.workdir import Members, TableWorkdir
from tf_resflow.training.config_fields import ConfigDict
from tf_resflow.training.workdir import read_json

pandas: Any = LazyPackage("pandas", "data")

_NUM_POINTS = 5000  # rows and samples in the figure


@dataclasses.dataclass(frozen=True)
class TableRun:
    """The fitted density of a run on a table, as returned by `tf_resflow.load`.

    Attributes:
      density: The `FlowDensity`.
      config: The config of the run, an `ml_collections.ConfigDict`.
      result: Content of result.json.
      workdir: Directory of the run, a `pathlib.Path`.
    """

    density: FlowDensity
    config: Any = dataclasses.field(repr=False)
    result: dict[str, Any] = dataclasses.field(repr=False)
    workdir: pathlib.Path


def score_rows(density: FlowDensity, table: Any, date_format: str | None = None) -> tuple[Any, Numbers]:
    """Scores the rows of a table, with a reason for each row that has no score or the score minus infinity.

    Args:
      table: `pandas.DataFrame` that has the columns of the fit. Values may be text.
      date_format: Format of dates given as text; ISO 8601 by default.

    Returns:
      A data frame and the `Numbers` of the rows. The frame has the index of the table and these columns: `log_prob`
      in nats, minus infinity if a value cannot occur, NaN if there is no score; `compared`, the score that ranks
      rows, see `FlowDensity.decision_function`; `p_value`; `outlier`, which is missing if there is no score; and
      `reason`.
    """
    numbers = density.encoder_.numbers(table, date_format=date_format)
    scores = np.full([2, len(table)], np.nan)
    scores[:, numbers.has_score] = density.density_.score(numbers.array[numbers.has_score])
    columns = {"log_prob": scores[0], "compared": scores[1], "p_value": p_values(scores[1], *density.held_out_)}
    is_outlier = pandas.array(scores[1] < density.offset_, dtype="boolean")
    is_outlier[np.isnan(scores[1])] = pandas.NA
    columns["outlier"] = is_outlier
    columns["reason"] = numbers.reasons
    return pandas.DataFrame(columns, index=table.index), numbers


def warn_of_common_faults(path: str | os.PathLike[str], numbers: Numbers) -> None:
    """Logs a warning of each fault that more than half of the values of a column in a file have."""
    for count in numbers.fault_counts():
        if 2 * count.num > len(numbers.array):
            logging.warning(
                "%s, %s. Check that the file has the format and the units of the fit.", path, count.text
            )


def read_rows(config: ConfigDict) -> dict[str, Any]:
    """Reads the "train" rows of a run, and its "test" rows if there are any, in the order of the file.

    Columns that identify the rows are left out, unless the config names them.
    """
    data = config.data
    path = pathlib.Path(data.path).expanduser()
    kinds = parse_kinds(data.kinds)
    options = {
        "key": data.key or None,
        "texts": [name for name, kind in kinds.items() if is_text(kind)],
        "read_options": data.read_options.to_dict(),
    }
    listed = parse_names(data.columns)
    table = read_table(path, columns=listed or None, exclude_columns=parse_names(data.exclude_columns), **options)
    named = dict.fromkeys([*parse_names(data.condition_columns), *kinds, *parse_bounds(data.bounds)])
    named_columns = table.columns[find_columns(path, table, list(named))]
    if not listed:
        table = _without_identifiers(path, table, named_columns)
    if data.path_test:
        test = pathlib.Path(data.path_test).expanduser()
        rows = read_table(test, columns=list(table), typed=False, **options)
        return {"train": table, "test": rows.set_axis(table.columns, axis=1)}  # the file may lack names
    drawn = draw_splits(len(table), {"test": data.test_fraction}, data.split_seed, path)
    return {split: table.iloc[np.sort(drawn[split])] for split in ("train", "test") if split in drawn}


def _without_identifiers(path, table, kept):
    """Leaves out columns that identify the rows, except for those to keep, with a warning."""
    left_out = [name for name in identifiers(table) if name not in kept]
    if left_out:
        logging.warning(
            "%s: these columns identify the rows and are left out: %s. To keep one, name it in "
            "--config.data.kinds or --config.data.columns.",
            path,
            shortened(map(repr, left_out)),
        )
    return table.drop(columns=left_out)


def train(config: ConfigDict, workdir: str | os.PathLike[str], *, progress: bool = True) -> dict[str, Any]:
    """Fits the density of a table, or resumes the fit. Members that are trained are not trained again.

    The scores are those of `FlowDensity(random_state=config.seed, ...).fit(table)`, where the table has the train
    rows.

    Args:
      config: A config with the fields of `tf_resflow.tables.runs.config.default_config`.
      workdir: Directory of the run.
      progress: Whether to show the progress of each member.

    Returns:
      The content of result.json, a dict with a summary `line`. A finished run returns it without training.

    Raises:
      ValueError: If the config, the workdir or the data are invalid.
    """
    validate_config(config)
    check_paths(config.data)
    files = TableWorkdir(workdir)
    with files.locked(), show_progress(progress), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: logging.warning("%s", message)
        files.check_config(config)
        with stage("data"):
            rows = read_rows(config)
        data = {"sha256": _sha256(rows)}
        if files.is_begun():
            _check_data(files, config, data)
        if files.is_done():
            result = read_json(files.result)
            return result | {"line": f"Already done: {result['line']}"}
        density = _density(config, rows["train"])
        with explain_write_errors(files.path):
            files.members.mkdir(exist_ok=True)
            files.figures.mkdir(exist_ok=True)
        write_json(files.config, _with_absolute_paths(config).to_dict())
        write_json(files.data, data)
        density.verbose = (1 if sys.stdout.isatty() else 2) if progress else 0
        try:
            density.fit_members(rows["train"], Members(files.members))
        except ValueError as error:
            raise ValueError(
                f"{config.data.path}: {error} Set arguments of FlowDensity with flags such as "
                "--config.density.missing=drop or --config.data.kinds='code: category'."
            ) from None
        density.verbose = 0
        density.save(files.density)
        result = _result(density, config, rows)
        with stage("figures"):
            _write_figure(files.figures / "pairs.png", config, density, rows["train"])
        write_json(files.result, finite_or_none(result))
        return result


def load_rows(run: TableRun) -> dict[str, Any]:
    """Reads the rows of a run again, see `read_rows`. Raises ValueError if they have changed."""
    rows = read_rows(run.config)
    _check_data(TableWorkdir(run.workdir), run.config, {"sha256": _sha256(rows)})
    return rows


def _check_data(files, config, data):
    if data != read_json(files.data):
        raise ValueError(
            f"{config.data.path} has changed since the training of the run in {files.path}. Restore the file, "
            "or train on the new one in another --workdir."
        )


def load(workdir: str | os.PathLike[str]) -> TableRun:
    """Loads the run on a table in a directory."""
    files = TableWorkdir(workdir)
    config = files.read_config()
    files.check_trained()
    return TableRun(FlowDensity.load(files.density), config, read_json(files.result), files.path)


def _density(config, table):
    """Returns the `FlowDensity` of a config, without a fit."""
    data = config.data
    condition_columns = list(dict.fromkeys(parse_names(data.condition_columns)))
    return FlowDensity(
        random_state=config.seed,
        condition_columns=list(table.columns[find_columns(data.path, table, condition_columns)]),
        kinds=_by_name(data.path, table, parse_kinds(data.kinds)),
        bounds=_by_name(data.path, table, parse_bounds(data.bounds)),
        **config.density.to_dict(),
    )


def _by_name(path, table, settings):
    """Returns the settings of columns by their names instead of their numbers."""
    names = table.columns[find_columns(path, table, [*settings])]
    return dict(zip(names, settings.values(), strict=True))


def _with_absolute_paths(config):
    config = config.copy_and_resolve_references()
    for field in ("path", "path_test"):
        if config.data[field]:
            config.data[field] = str(pathlib.Path(config.data[field]).expanduser().absolute())
    return config


def _sha256(rows):
    """Returns a hash of the columns and the rows."""
    digest = hashlib.sha256()
    for table in rows.values():
        digest.update("\0".join(map(str, table)).encode())
        digest.update(pandas.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _result(density, config, rows):
    """Returns the content of result.json."""
    result: dict[str, Any] = {
        "name": pathlib.Path(config.data.path).stem,
        "split": "test",
        "unit": "nats",
        "num_train": len(rows["train"]),
        "num_members": len(density.density_.members),
        "noise": density.noise_,
        "least_p_value": density.least_p_value,
        "kinds": format_kinds(density.kinds_),
        "figures": ["pairs.png"],
    }
    if "test" in rows:
        scores, numbers = score_rows(density, rows["test"], config.data.read_options.date_format)
        warn_of_common_faults(config.data.path_test or config.data.path, numbers)
        log_prob = scores["log_prob"]
        finite = log_prob[np.isfinite(log_prob)]
        result |= {
            "nats": float(finite.mean()),
            "nats_stderr": float(finite.sem()),
            "num_examples": len(finite),
            "num_impossible": int(np.isneginf(log_prob).sum()),
            "num_unscored": int(log_prob.isna().sum()),
        }
    return result | {"line": _line(result)}


def _line(result):
    """Returns a one-line summary of a result."""
    fitted = f"fitted to {counted(result['num_train'], 'row')}"
    if not result.get("num_examples"):
        return f"{result['name']}: {fitted}, without test rows that have a score"
    left_out = result["num_impossible"] + result["num_unscored"]
    if left_out:
        fitted += f"; not counting {counted(left_out, 'row')} with invalid or unknown values"
    score = f"{result['nats']:.3f} ± {result['nats_stderr']:.3f} nats"
    return f"{result['name']}: {score} on {counted(result['num_examples'], 'test row')} ({fitted})"


def _write_figure(path, config, density, train):
    rows = train.dropna() if density.missing == "drop" else train
    rows = rows.sample(min(_NUM_POINTS, len(rows)), random_state=0)
    condition = rows[list(density.condition_columns)] if len(density.condition_columns) else None
    drawn = density.sample(len(rows), random_state=config.seed, condition=condition)
    groups = {
        name: density.encoder_.numbers(table).array for name, table in (("train rows", rows), ("samples", drawn))
    }
    pairs_figure(path, density.encoder_, groups, title=pathlib.Path(config.data.path).stem)
