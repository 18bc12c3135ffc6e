r"""Scores examples by their log-likelihood to find anomalies, and writes a table of the scores.

resflow-score --workdir=runs/table --input=new.csv --output=scores.csv
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --id_columns=name,date --top=20
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --stderr=0.01
resflow-score --workdir=runs/table --input=- --output=- < new.csv > scores.csv
resflow-score --workdir=runs/digits --output=scores.csv

The output has one line per example, in the order of the input, with these columns:

- example: its number, from 1; for a folder of images, `file`; and the columns of --id_columns
- log_prob and stderr: the mean of several estimates of log p(x) in nats, and its standard error. With 8 estimates,
  log_prob +- 2.36 stderr is a 95 % interval (Student's t)
- p_value: the share of the run's held-out examples that are at most as likely, counting the example itself. A fresh
  example of the same data has a p_value of at most 0.01 with a probability of at most 1 %
- reason, for a table: why a row has no score, or the score -inf

The score of a row is a probability in the discrete columns (whole numbers, levels, whole days) and a density in the
other columns, in their units. A level that did not occur in training has probability 0, so its score is -inf. A row
with a missing or unreadable value has no score; with --strict, it is an error.

--input is a table, or a folder, .npy or .npz file of images, as in training. The columns of a table are matched by
name, and additional columns are ignored. The labels of images in --input are unknown, so a model given labels
scores them, and the held-out examples for the p-values, by the mixture of its classes with equal weights.

log_prob is one exact value for up to 16 columns of numbers, and the mean of 8 estimates otherwise, or of 32 if
there are discrete columns. With --stderr, the number of estimates doubles until log_prob of held-out examples has
this standard error, in nats. Without held-out examples, the first batch of --input is used.
"""

import pathlib
import sys
import tempfile

import numpy as np
from absl import flags, logging

import tf_resflow as resflow
from tf_resflow import evaluation
from tf_resflow.cli import command_line
from tf_resflow.cli.command_line import say
from tf_resflow.console import track
from tf_resflow.data.files import check_table
from tf_resflow.data.table_files import TABLE_OUTPUTS, pandas, write_frames
from tf_resflow.messages import counted
from tf_resflow.writing import STANDARD_STREAM, check_output_path

FLAGS = flags.FLAGS

_FARTHEST = 1e12  # standard deviations; numbers farther from the mean are moved to this distance
_LARGEST = 1e38
_COLUMNS = ("example", "log_prob", "stderr", "p_value", "reason")


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string(
        "input", None, "File or folder of examples, or - for .csv rows. Default: the run's held-out examples."
    )
    flags.DEFINE_string("output", None, "The .csv or .parquet file to write, or - for .csv rows.")
    flags.DEFINE_list("id_columns", [], "Columns of --input to copy to the output: names, or numbers from 1.")
    flags.DEFINE_bool("strict", False, "Refuse a table if a row has no score or an unknown level.")
    flags.DEFINE_integer("top", 0, "Number of examples to print, those with the lowest scores.", 0)
    command_line.define_estimator_flags("each log_prob, in nats")
    flags.DEFINE_integer("batch_size", None, "Number of examples per batch.", 1)
    flags.DEFINE_integer("seed", 0, "Random seed of the estimates.", 0, 2**31 - 1)
    command_line.define_data_flags()


def check() -> None:
    """Raises ValueError if a flag is wrong, or the workdir has no run."""
    check_output_path(FLAGS.output, TABLE_OUTPUTS)
    command_line.check_run()
    is_table = command_line.workdir().read_data().levels is None
    if FLAGS.id_columns and not (FLAGS.input and is_table):
        raise ValueError(
            "--id_columns needs a table as --input: give a table that has these columns, or leave out --id_columns."
        )
    if FLAGS.input is None:
        command_line.check_data()
    elif is_table and FLAGS.input != STANDARD_STREAM:
        check_table(pathlib.Path(FLAGS.input).expanduser())


def main() -> None:
    """Scores the examples, writes the file and prints a summary."""
    with tempfile.TemporaryDirectory() as folder:
        if FLAGS.input == STANDARD_STREAM:
            path = pathlib.Path(folder, "standard input.csv")  # the name in error messages
            path.write_bytes(sys.stdin.buffer.read())
            FLAGS["input"].value = str(path)
        columns, ranking, num_held_out, note = _scored()
    frame = pandas.DataFrame(columns)
    write_frames(FLAGS.output, [frame])
    if FLAGS.top:
        order = np.argsort(ranking, kind="stable")
        lowest = frame.iloc[order[~np.isnan(ranking[order])][: FLAGS.top]]
        shown = lowest.replace("", None).dropna(axis="columns", how="all")
        say(shown.to_string(index=False, na_rep="", float_format="%.9g".__mod__, max_colwidth=None))
    scores, reasons = columns["log_prob"], columns.get("reason", np.zeros(0))
    has_score, rare = ~np.isnan(scores), "without p-values"
    if "p_value" in columns:
        least = 1 / (num_held_out + 1)
        low = np.mean(columns["p_value"][has_score] <= max(least, 0.01))
        rare = f"{low:.1%} have a p-value of at most 0.01"
        if least > 0.01:
            rare = f"{low:.1%} have the smallest p-value, {least:.2g} with {num_held_out} held-out examples"
    by = ", by the model" + note if note else ""
    say(f"{counted(has_score.sum(), 'example')}; {rare}{by}: {FLAGS.output}")
    for rows, what in ((~has_score, "no score"), (np.isneginf(scores), "the score -inf")):
        if rows.any() and len(reasons):
            first = np.argmax(rows)
            say(f"{rows.sum():,} of {len(rows):,} have {what}, such as row {first + 1}, {reasons[first]}.")


def _scored():
    """Returns the columns of the output, the comparable scores, the number of held-out examples and a note."""
    from tf_resflow.data.loading import load_images

    workdir = command_line.workdir()
    config, info = workdir.read_config(), workdir.read_data()
    size = FLAGS.batch_size or config.eval.batch_size
    is_table = FLAGS.input is not None and info.levels is None
    rows, columns = _rows(config, info) if is_table else (None, {})
    given = None
    if rows is not None:
        is_whole, num_columns = np.isfinite(rows.values).all(axis=1), info.event_shape[0]
        known = np.flatnonzero(rows.known[:, :num_columns].all(axis=1) & is_whole)
        parts = np.split(rows.values[known].astype(np.float32), [num_columns], axis=1)
        x, condition = (np.split(part, range(size, len(known), size)) for part in parts)
        given = x if info.condition_mean is None else list(zip(x, condition, strict=True))
    elif FLAGS.input is not None:
        options = {name: config.data[name] for name in ("key", "image_size", "max_image_size", "skip_unreadable")}
        images, files = load_images(FLAGS.input, event_shape=info.event_shape, levels=info.levels, **options)
        columns = {} if files is None else {"file": files}
        given = np.split(images, range(size, len(images), size))
    held_out, files = _held_out(config, size, required=given is None)
    if given is None and files is not None:
        columns = {"file": files}
    run = resflow.load(FLAGS.workdir)
    batches = held_out if given is None else given
    usual = batches if held_out is None else held_out  # anomalies in --input would distort the number of estimates
    likelihood = evaluation.LogLikelihood(run.density, **_estimates(run, usual[0]))
    scores = reference = likelihood.score_examples(track(batches, "examples"), FLAGS.seed)
    if rows is not None:
        every = {name: np.where(is_whole, -np.inf, np.nan).astype(x.dtype) for name, x in scores.items()}
        every["stderr"][is_whole] = 0.0
        for name, values in scores.items():
            every[name][known] = values
        scores = every
    if held_out is not None:
        if given is not None:
            reference = likelihood.score_examples(track(held_out, "held-out examples"), FLAGS.seed)
        scores["p_value"] = evaluation.p_values(scores["comparable"], reference["comparable"])
    reason = {} if rows is None else {"reason": rows.reasons}
    num_held_out, ranking = len(reference["comparable"]), scores.pop("comparable")
    return {"example": 1 + np.arange(len(ranking)), **columns, **scores, **reason}, ranking, num_held_out, run.note


def _rows(config, info):
    """Returns the `EncodedRows` of the input, and the columns to copy to the output."""
    from tf_resflow.data.column_codes import ColumnCodes
    from tf_resflow.data.table_files import find_columns
    from tf_resflow.data.tabular import read_rows

    if info.condition_mean is not None and info.columns is None:
        raise ValueError(
            "The run was trained on a table without column names, so the condition columns of --input are unknown. "
            "Train on a table with column names."
        )
    codes = info.codes or ColumnCodes.of_numbers(info.columns or range(1, 1 + info.event_shape[0]))
    options = {"key": config.data.key, "read_options": config.data.read_options}
    rows, table = read_rows(FLAGS.input, codes, info.condition_codes, **options)
    path = pathlib.Path(FLAGS.input).expanduser().absolute()
    kept = table.iloc[:, find_columns(path, table, FLAGS.id_columns)]
    if taken := [str(name) for name in kept if name in _COLUMNS]:
        raise ValueError(
            f"--id_columns names {taken[0]!r}, but the output has a column {taken[0]!r} of its own. Rename the "
            "column in --input."
        )
    reasons = rows.reasons
    wrong = np.flatnonzero(reasons != "")
    if FLAGS.strict and len(wrong):
        raise ValueError(
            f"{path}, row {wrong[0] + 1}, {reasons[wrong[0]]}. {len(wrong):,} of {len(reasons):,} rows have "
            "invalid values or unknown levels. Correct them, or leave out --strict to score the other rows."
        )
    moments = [(info.mean, info.std), (info.condition_mean, info.condition_std)]
    parts = zip(np.split(rows.values, info.event_shape, axis=1), moments, strict=True)
    rows = rows._replace(values=np.concatenate([_clipped(part, mean, std) for part, (mean, std) in parts], axis=1))
    if not np.any(rows.known[:, : codes.size].all(axis=1) & np.isfinite(rows.values).all(axis=1)):
        raise ValueError(f"{path}: no row has a score. Row 1, {reasons[0]}. Correct the values in the file.")
    return rows, {str(name): kept[name].to_numpy(object) for name in kept}


def _clipped(values, mean, std):
    """Clips values to a distance from the mean whose square is representable in float32."""
    mean, std = (0.0, 1.0) if mean is None else (mean.astype(np.float64), std.astype(np.float64))
    distance = np.minimum(_FARTHEST * std, _LARGEST)
    return np.clip(values, mean - distance, mean + distance)


def _held_out(config, size, required):
    """Returns batches of the held-out examples and their files or None; (None, None) if the data are missing."""
    try:
        dataset = command_line.load_data()
        has_labels = bool(config.model.condition) and required  # the labels of --input are unknown
        labels, split = has_labels or dataset.condition_mean is not None, config.eval.split
        limit = config.eval.num_examples or None
        batches = dataset.eval_batches(split, size, limit, labels=labels)
        return list(batches.as_numpy_iterator()), (dataset.files or {}).get(split, [])[:limit] or None
    except ValueError as error:
        if required:
            raise
        logging.warning("The output has no p-values, because the held-out data cannot be loaded: %s", error)
        return None, None


def _estimates(run, batch):
    """Returns the estimator and the number of estimates of each score."""
    model = run.density
    _, estimator = run.estimator(FLAGS.log_det_estimator, FLAGS.num_probes, stderr=FLAGS.stderr)
    if FLAGS.stderr is None:
        return {"log_det_estimator": estimator}
    if model.condition.num_classes is not None and not isinstance(batch, tuple):
        batch = batch, np.arange(len(batch)) % model.condition.num_classes
    x, condition = model.condition.split(batch)
    options = {"condition": condition, "log_det_estimator": estimator}
    num_samples = evaluation.required_samples(model, x, FLAGS.stderr, **options)
    return {"log_det_estimator": estimator, "num_samples": num_samples}


run = command_line.command(__doc__, define_flags, main, check, ["workdir", "output"])
