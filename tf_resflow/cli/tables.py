"""What the commands do with runs on tables."""

import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

import tf_resflow as resflow
from tf_resflow._internal.console import stage, track
from tf_resflow._internal.messages import counted, shortened
from tf_resflow._internal.writing import STANDARD_STREAM, check_output_path
from tf_resflow.cli import command_line
from tf_resflow.cli.command_line import print_line
from tf_resflow.data.files import check_table
from tf_resflow.tables.runs.files import TABLE_OUTPUTS, find_columns, pandas, read_table, write_frames

FLAGS = flags.FLAGS

_EXPLAINED_AT_ONCE = 1000  # rows
_NUM_SAMPLES = 1000  # by default
_NUM_ROWS_OF_FIT = 5000  # in a report without other rows
# The columns of the output of resflow-score.
_COLUMNS = ("example", "log_prob", "p_value", "outlier", "column", "nats", "reason")
_ESTIMATES = ("log_det_estimator", "num_probes", "stderr")
_UNUSED = {
    "score": [*_ESTIMATES, "batch_size", "seed", "data_dir", "data_path"],
    "sample": ["precise", "temperature"],
    "evaluate": [*_ESTIMATES, "metrics", "data_dir", "data_path", "split", "num_examples", "batch_size"]
    + ["iw_samples", "fid_samples", "fid_weights"],
    "export": [*_ESTIMATES, "num_samples", "seed", "signatures", "data_dir", "data_path", "precise"],
}
"""The flags of each command that do not apply to a run on a table."""


def check(command: str) -> None:
    """Raises ValueError if a flag does not apply, or there is no trained run."""
    command_line.refuse_flags(_UNUSED[command])
    command_line.check_run()


def _loaded_run():
    command_line.enable_grappler()
    return resflow.load(FLAGS.workdir)


def check_score() -> None:
    """Raises ValueError if a flag of resflow-score is wrong."""
    check("score")
    read_options()
    if FLAGS.input is None:
        raise ValueError("--input must be given for a run on a table. Give the table with the rows to score.")
    if FLAGS.input != STANDARD_STREAM:
        check_table(pathlib.Path(FLAGS.input).expanduser())


class Scored(NamedTuple):
    """The density that scored rows, and the `Numbers` of the rows."""

    density: Any
    numbers: Any


def score() -> tuple[Any, np.ndarray, int, Scored]:
    """Scores the rows of --input.

    Returns:
      A data frame of the output, whose index has the positions of the rows; the scores that rank the rows; the
      number of held-out scores that give the p-values; and the density with the `Numbers` of the rows.
    """
    from tf_resflow.tables.runs import score_rows  # imported here because it needs TensorFlow

    run = _loaded_run()
    options = {**run.config.data.read_options.to_dict(), **read_options()}
    path = pathlib.Path(FLAGS.input).expanduser().absolute()
    table, ids = _read_input(path, run, options, FLAGS.id_columns)
    with stage("scores"):
        scores, numbers = score_rows(run.density, table, options.get("date_format"))
    wrong = scores[scores["reason"] != ""]
    if FLAGS.strict and len(wrong):
        raise ValueError(
            f"{path}, {wrong.index.name} {wrong.index[0]}, {wrong['reason'].iloc[0]}. {len(wrong):,} of "
            f"{len(table):,} rows have invalid values or unknown levels. Correct them, or leave out --strict to "
            "score the other rows."
        )
    ranking = scores.pop("compared").to_numpy()
    for name, values_of_rows in reversed({"example": 1 + np.arange(len(table)), **ids}.items()):
        scores.insert(0, name, values_of_rows)
    if FLAGS.explain is not None:
        _explain(run.density, scores, numbers.array)
    return scores, ranking, len(run.density.held_out_[0]), Scored(run.density, numbers)


def _read_input(path, run, options, id_names=()):
    """Returns the columns of the fit, and the columns to copy to the output."""
    names = [column.name for column in run.density.encoder_.columns]
    texts = [column.name for column in run.density.encoder_.columns if column.is_text]
    texts += [name for name in id_names if name not in names]
    table = read_table(path, key=run.config.data.key or None, texts=texts, typed=False, read_options=options)
    fitted_columns = find_columns(path, table, names)
    id_columns = find_columns(path, table, id_names)
    ids = {str(table.columns[index]): table.iloc[:, index].to_numpy(object) for index in id_columns}
    for name in ids:
        if name in _COLUMNS:
            raise ValueError(
                f"--id_columns names {name!r}, which is also a column of the output. Rename it in --input."
            )
    used = {*fitted_columns, *id_columns}
    ignored = [repr(name) for index, name in enumerate(table) if index not in used]
    if ignored:
        print_line(f"{path.name}: ignored the columns {shortened(ignored)}, which the fit does not have.")
    return table.iloc[:, fitted_columns].set_axis(names, axis=1), ids


def _explain(density, scores, values):
    """Inserts the columns that make the rows with small p-values unlikely, and by how many nats."""
    rare_rows = np.flatnonzero(scores["p_value"] <= FLAGS.explain)
    names = np.full(len(scores), "", object)
    nats = np.full(len(scores), np.nan)
    if len(rare_rows):
        batches = np.array_split(values[rare_rows], math.ceil(len(rare_rows) / _EXPLAINED_AT_ONCE))
        gains = np.concatenate([density.gains(batch) for batch in track(batches, "explanations")])
        tried_columns = [str(density.encoder_.columns[index].name) for index, _ in density.reference_.values()]
        nats[rare_rows] = gains.max(axis=1)
        names[rare_rows] = [tried_columns[index] for index in gains.argmax(axis=1)]
    scores.insert(scores.shape[1] - 1, "column", np.where(nats > 0, names, ""))
    scores.insert(scores.shape[1] - 1, "nats", np.where(nats > 0, nats, np.nan))


def check_evaluate() -> None:
    """Raises ValueError if a flag of resflow-evaluate is wrong."""
    check("evaluate")
    read_options()
    if FLAGS.report is None:
        if FLAGS.input is not None:
            raise ValueError(f"--input={FLAGS.input} needs --report. Give both, such as --report=report.html.")
        return
    check_output_path(FLAGS.report, [".html"])
    if FLAGS.input is not None:
        check_table(pathlib.Path(FLAGS.input).expanduser())


def report() -> None:
    """Writes a report on the test rows, and on the rows of --input."""
    from tf_resflow.tables.report import write_report  # imported here because it needs TensorFlow
    from tf_resflow.tables.runs import load_rows

    run = _loaded_run()
    config = run.config
    options = config.data.read_options.to_dict()
    rows = {}
    try:
        with stage("data"):
            rows = load_rows(run)
    except (OSError, ValueError) as error:
        if FLAGS.input is None:
            raise
        logging.warning("The report has no test rows: %s", error)
    tables = {"test rows": rows["test"]} if "test" in rows else {}
    if FLAGS.input is not None:
        options |= read_options()
        path = pathlib.Path(FLAGS.input).expanduser().absolute()
        tables["new rows"], _ = _read_input(path, run, options)
    elif not tables:
        tables["rows used in the fit"] = rows["train"][:_NUM_ROWS_OF_FIT]
    with stage("report"):
        write_report(
            FLAGS.report,
            run.density,
            tables,
            title=f"Report on {pathlib.Path(config.data.path).name}",
            seed=config.seed,
            date_format=options.get("date_format"),
        )
    print_line(f"report: {FLAGS.report}")


def check_scored(numbers: Any) -> None:
    """Raises ValueError, after the output is written, if the table has rows but none has a score."""
    if len(numbers.array) and not numbers.has_score.any():
        num = counted(len(numbers.array), "row")
        faults = [count.text for count in numbers.fault_counts(numbers.is_blocking)]
        raise ValueError(
            f"{FLAGS.input}: none of the {num} can be scored: {shortened(faults, '; ')}. The column 'reason' of "
            f"the output ({FLAGS.output}) has the reason of each row. Correct the values, or give their format, "
            """such as --read_options='{"date_format": "%d.%m.%Y"}'. Values can be missing only in columns that """
            "had missing values in the fit, and not in condition columns."
        )


def print_outliers(scores: Any, density: Any) -> None:
    """Prints the share of outliers, and the share that is expected of rows like those of the fit."""
    if np.isneginf(density.offset_):
        print_line(
            f"No row can be an outlier, because at least contamination={density.contamination:g} of the held-out "
            "rows have values that no other row has. Raise contamination, or merge rare levels."
        )
        return
    low, high = density.flagged_interval_
    expected = (
        "" if math.isnan(low) else f"; between {low:.1%} and {high:.1%} of rows like those of the fit would be"
    )
    print_line(
        f"{scores['outlier'].mean():.1%} are outliers, with scores below the threshold for "
        f"contamination={density.contamination:g}{expected}."
    )


def print_reasons(scores: Any, numbers: Any) -> None:
    """Prints the number of rows without a score or with the score -inf, and the first reason.

    Warns of reasons that more than half of the rows have.
    """
    from tf_resflow.tables.runs.run import warn_of_common_faults  # imported here because it needs TensorFlow

    warn_of_common_faults(FLAGS.input, numbers)
    log_prob = scores["log_prob"]
    for is_chosen, what in ((log_prob.isna(), "no score"), (np.isneginf(log_prob), "the score -inf")):
        if is_chosen.any():
            reasons = scores["reason"][is_chosen]
            first = f"{scores.index.name} {reasons.index[0]}, {reasons.iloc[0]}"
            print_line(f"{is_chosen.sum():,} of {len(scores):,} have {what}, such as {first}.")


def read_options() -> dict[str, Any]:
    """Parses --read_options, such as '{"sep": ";"}'."""
    try:
        return dict(json.loads(FLAGS.read_options))
    except ValueError as error:
        raise ValueError(
            f"--read_options={FLAGS.read_options} is not a JSON object ({error}). Write it like "
            """--read_options='{"sep": ";", "decimal": ","}'."""
        ) from None


def check_sample() -> None:
    """Raises ValueError if a flag of resflow-sample is wrong."""
    from tf_resflow.tables.runs.config import parse_names  # imported here because it needs an extra

    check("sample")
    names = parse_names(command_line.workdir().read_config().data.condition_columns)
    if len(names) != len(FLAGS.condition or ()):
        expected = f"one value for each of {', '.join(names)}, separated by commas" if names else "no --condition"
        raise ValueError(f"--condition is {FLAGS.condition}. The run has a density that needs {expected}.")
    check_output_path(FLAGS.output, [".png", *TABLE_OUTPUTS])


def sample() -> None:
    """Draws rows and writes a table, part by part, or a picture."""
    from tf_resflow.tables.figures import pairs_figure  # imported here because it needs TensorFlow
    from tf_resflow.tables.flow_density import part_sizes

    run = _loaded_run()
    num = FLAGS.num or _NUM_SAMPLES
    rng = np.random.RandomState(FLAGS.seed % 2**32)

    def draw(size):
        condition = [FLAGS.condition] * size if FLAGS.condition else None
        return run.density.sample(size, random_state=rng, condition=condition)

    sizes = track(part_sizes(num), "samples")
    parts = map(draw, sizes)
    if pathlib.Path(FLAGS.output).suffix.lower() == ".png":
        title = pathlib.Path(run.config.data.path).stem
        drawn = pandas.concat(parts, ignore_index=True)
        encoder = run.density.encoder_
        pairs_figure(FLAGS.output, encoder, {"samples": encoder.numbers(drawn).array}, title=title)
    else:
        write_frames(FLAGS.output, parts)
    if next(sizes, None) is None:  # otherwise, the reader of standard output has ended
        print_line(f"{counted(num, 'sample')}: {FLAGS.output}")


def export() -> pathlib.Path:
    """Exports the density and returns the path of the version."""
    from tf_resflow.tables.export import export_density  # imported here because it needs TensorFlow

    run = _loaded_run()
    options: dict[str, Any] = {name: FLAGS[name].value for name in ("version", "max_samples", "max_batch")}
    about = f"resflow-train fitted it to {pathlib.Path(run.config.data.path).name}."
    return export_density(run.density, FLAGS.export_dir, about=about, **options)
