r"""Scores examples by their log-likelihood to find anomalies, and writes a table of the scores.

resflow-score --workdir=runs/table --input=new.csv --output=scores.csv
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --id_columns=name,date --top=20
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --explain=0.01
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --read_options='{"sep": ";"}'
resflow-score --workdir=runs/table --input=- --output=- < new.csv > scores.csv
resflow-score --workdir=runs/digits --output=scores.csv

The output has one line per example, in the order of the input, with these columns:

- example: its number, from 1; for a folder of images, `file`; and the columns of --id_columns
- log_prob: log p(x) in nats
- stderr, for images and points: the standard error of log_prob, the mean of several estimates. With 8 estimates,
  log_prob +- 2.36 stderr is a 95 % interval (Student's t)
- p_value: the share of the run's held-out examples that are at most as likely, counting the example itself. A
  fresh example of the same data has a p_value of at most 0.01 with a probability of at most 1 %
- outlier, for a table: whether `FlowDensity.predict` flags the row. This is expected of the share `contamination`
  of fresh rows, even if so few rows were held out that p-values cannot be small
- column and nats, with --explain=THRESHOLD: for rows of a table with a p-value of at most THRESHOLD, the column
  that makes the row most unlikely, and how much log p would increase with the best value of this column
- reason, for a table: why a row has no score, or the score -inf

The score of a row is a probability in the discrete columns (whole numbers, levels, whole days) and a density in the
other columns, in their units. A level that did not occur in the fit has probability 0, so its score is -inf. A row
with an unreadable value has no score, nor has one with a missing value in a column that had none missing in the
fit. With --strict, such a row is an error.

--input is a table, or a folder, .npy or .npz file of images, as in training. Without it, the held-out examples of a
run on images or a 2-D density are scored. The columns of a table are matched by name, and additional columns are
ignored. The labels of images in --input are unknown. A model of images given labels therefore scores these images,
and the held-out examples for the p-values, by the mixture of its classes with equal weights.

With --stderr, the number of estimates for images and points doubles until log_prob of held-out examples has this
standard error, in nats. Without held-out examples, the first batch of --input is used.
"""

import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

import tf_resflow as resflow
from tf_resflow import evaluation, training
from tf_resflow._internal.console import track
from tf_resflow._internal.messages import counted
from tf_resflow._internal.writing import STANDARD_STREAM, check_output_path, new_temporary_folder
from tf_resflow.cli import command_line, tables
from tf_resflow.cli.command_line import print_line
from tf_resflow.tables.runs.files import TABLE_OUTPUTS, pandas, write_frames

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string(
        "input", None, "Table, folder or file of images, or - for .csv rows. Default: the run's held-out examples."
    )
    flags.DEFINE_string("output", None, "The .csv or .parquet file to write, or - for .csv rows.")
    flags.DEFINE_list("id_columns", [], "Columns of --input to copy to the output: names, or numbers from 1.")
    command_line.define_read_options()
    flags.DEFINE_bool("strict", False, "Refuse a table if a row has no score or an unknown level.")
    flags.DEFINE_float("explain", None, "Explain the rows of a table with a p-value of at most this number.", 0, 1)
    flags.DEFINE_integer("top", 0, "Number of examples to print, those with the lowest scores.", 0)
    command_line.define_estimator_flags("each log_prob, in nats")
    flags.DEFINE_integer("batch_size", None, "Number of examples per batch.", 1)
    flags.DEFINE_integer("seed", 0, "Random seed of the estimates.", 0, 2**31 - 1)
    command_line.define_data_flags()


def check() -> None:
    """Raises ValueError if a flag is wrong, or the workdir has no run."""
    check_output_path(FLAGS.output, TABLE_OUTPUTS)
    if command_line.is_table():
        tables.check_score()
        return
    command_line.refuse_flags(["id_columns", "read_options", "strict", "explain"], "a run that is not on a table")
    command_line.check_run()
    if FLAGS.input is None:
        command_line.workdir().config_of_data(**command_line.data_paths())
    elif command_line.workdir().read_data().levels is None:
        command_line.refuse_flags(["input"], "a run on a 2-D density, whose held-out points are scored")


def main() -> None:
    """Scores the examples, writes the file and prints a summary."""
    with new_temporary_folder() as folder:
        if FLAGS.input == STANDARD_STREAM:
            path = pathlib.Path(folder, "standard input.csv")  # the name in error messages
            path.write_bytes(sys.stdin.buffer.read())
            FLAGS["input"].value = str(path)
        frame, ranking, num_held_out, scored_table = tables.score() if command_line.is_table() else _scored()
    write_frames(FLAGS.output, [frame])
    if scored_table is not None:
        tables.check_scored(scored_table.numbers)
    if frame.empty:
        print_line(f"{FLAGS.input} has no rows, so the output has none: {FLAGS.output}")
        return
    if FLAGS.top:
        lowest = frame.iloc[np.argsort(ranking, kind="stable")[: min(FLAGS.top, np.sum(~np.isnan(ranking)))]]
        shown = lowest.replace("", None).dropna(axis="columns", how="all")
        print_line(shown.to_string(index=False, na_rep="", float_format="%.9g".__mod__, max_colwidth=None))
    scored = frame.dropna(subset="log_prob")
    p_values = "without p-values"
    if "p_value" in frame:
        threshold = max(0.01, 1 / (num_held_out + 1))
        rare = (scored["p_value"] <= threshold).sum() / max(len(scored), 1)
        p_values = f"{rare:.1%} have a p-value of at most {threshold:.2g}, with {num_held_out:,} held-out examples"
    print_line(f"{counted(len(scored), 'example')}; {p_values}: {FLAGS.output}")
    if scored_table is not None:
        tables.print_outliers(frame, scored_table.density)
        tables.print_reasons(frame, scored_table.numbers)


def _scored():
    """Scores the images of --input, by default held-out examples. Returns what `tables.score` does, and None."""
    batches, files, held_out = _read_examples()
    run = resflow.load(FLAGS.workdir)
    usual = held_out or batches  # anomalies in --input would distort the number of estimates
    likelihood = run.likelihood(FLAGS.log_det_estimator, FLAGS.num_probes, FLAGS.stderr, lambda: usual[0])
    scores = reference = likelihood.score_examples(track(batches, "examples"), FLAGS.seed)
    if held_out is not None:
        if FLAGS.input is not None:
            reference = likelihood.score_examples(track(held_out, "held-out examples"), FLAGS.seed)
        scores["p_value"] = evaluation.p_values(scores["log_prob"], reference["log_prob"])
    columns: dict[str, Any] = {"example": 1 + np.arange(len(scores["log_prob"]))}
    if files:
        columns["file"] = files
    return pandas.DataFrame(columns | scores), scores["log_prob"], len(reference["log_prob"]), None


def _read_examples():
    """Returns the batches to score, their files if known, and the held-out batches for the p-values, or None."""
    from tf_resflow.data.loading import load_images
    from tf_resflow.training.runs import load_held_out

    workdir = command_line.workdir()
    config = workdir.read_config()
    batch_size = FLAGS.batch_size or config.eval.batch_size
    if FLAGS.input is None:
        dataset = training.load_data(FLAGS.workdir, **command_line.data_paths())
        held_out_files = (dataset.files or {}).get(config.eval.split, [])[: config.eval.num_examples or None]
        held_out = _held_out_batches(dataset, config, batch_size, labels=bool(config.model.condition))
        return held_out, held_out_files, held_out
    info = workdir.read_data()
    options = {name: config.data[name] for name in ("key", "image_size", "max_image_size", "skip_unreadable")}
    images, files = load_images(FLAGS.input, event_shape=info.event_shape, levels=info.levels, **options)
    batches = np.split(images, range(batch_size, len(images), batch_size))
    held_out_dataset = load_held_out(FLAGS.workdir, **command_line.data_paths())
    if held_out_dataset is None:
        return batches, files, None
    # The labels of --input are unknown, so the labels of held-out examples are not used either.
    return batches, files, _held_out_batches(held_out_dataset, config, batch_size, labels=False)


def _held_out_batches(dataset, config, batch_size, labels):
    limit = config.eval.num_examples or None
    batches = dataset.eval_batches(config.eval.split, batch_size, limit, labels=labels)
    return list(batches.as_numpy_iterator())


run = command_line.command(__doc__, define_flags, main, check, ["workdir", "output"])
