r"""Scores examples by their log-likelihood, and writes a table: to find anomalies.

resflow-score --workdir=runs/table --input=new.csv --output=scores.csv
resflow-score --workdir=runs/table --input=new.csv --output=scores.csv --stderr=0.01
resflow-score --workdir=runs/digits --output=scores.csv

Each example has a line, in the order of the input, with

- example: its number from 1,
- log_prob: log p(x) in nats, a mean of several estimates, and stderr, the standard error of that mean,
- quantile: the fraction of the run's held-out examples that are less likely. An example with 0.01 or less is less
  likely than 99 of 100 examples of the data.

--input is a table, or for images a folder or a .npy or .npz file, of the kind that the run was trained on. The
columns of a table are found by their names; others are ignored. Without --input the held-out examples are scored.
The labels of images in --input are unknown: if the run is given labels, log_prob is that of the mixture of its
classes, equally frequent, for the held-out examples, too.

--stderr asks for a standard error of log_prob in nats: a short measurement chooses the number of estimates and the
estimator of each block. Without it there are 8 estimates, or one of vectors of at most 16 columns, which is exact.
"""

import csv
import pathlib
from typing import Any

import numpy as np
from absl import flags, logging

import tf_resflow as resflow
from tf_resflow import evaluation, progress, training
from tf_resflow.cli import command_line
from tf_resflow.data.files import check_table
from tf_resflow.plurals import counted
from tf_resflow.progress import track
from tf_resflow.writing import check_output_path, whole_file

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string("input", None, "File or folder of the examples; by default the held-out ones are scored.")
    flags.DEFINE_string("output", None, "File to write: .csv.")
    command_line.define_estimator_flags("each log_prob, in nats")
    flags.DEFINE_integer("batch_size", None, "Examples at a time.", 1)
    flags.DEFINE_integer("seed", 0, "Seed of the estimates.", 0, 2**31 - 1)
    command_line.define_data_flags()
    flags.mark_flag_as_required("output")


def check() -> None:
    """Raises ValueError if a flag is wrong, or the workdir has no run."""
    check_output_path(FLAGS.output, [".csv"])
    command_line.check_run()
    if FLAGS.input is None:
        command_line.check_data()
    elif command_line.workdir().read_data().levels is None:
        check_table(pathlib.Path(FLAGS.input).expanduser())
    elif not pathlib.Path(FLAGS.input).expanduser().exists():
        raise ValueError(f"--input={FLAGS.input}: there is no such file or folder.")


def main() -> None:
    """Scores and writes the file."""
    scores, note = _scores()
    with whole_file(FLAGS.output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["example", *scores])
        for number, row in enumerate(zip(*scores.values(), strict=True), 1):
            writer.writerow([number, *(f"{value:.9g}" for value in row)])
    low = np.nanmean(scores["quantile"] <= 0.01) if "quantile" in scores else None
    rare = f"{low:.1%} are less likely than 99 % of held-out examples" if low is not None else "without quantiles"
    by = ", by the model" + note if note else ""
    print(f"{counted(len(scores['log_prob']), 'example')}; {rare}{by}: {FLAGS.output}")


def _scores():
    files = command_line.workdir()
    config, info = files.read_config(), files.read_data()
    size = FLAGS.batch_size or config.eval.batch_size
    given = None if FLAGS.input is None else _batches(_examples(config, info), size)
    held_out = _held_out(config, size, required=given is None)
    run = resflow.load(FLAGS.workdir)
    batches = held_out if given is None else given
    score = evaluation.ExampleScores(run.density, _plan(run, batches[0]))
    scores = score(track(batches, "examples"), FLAGS.seed)
    if held_out is not None:
        reference = scores if given is None else score(track(held_out, "held-out examples"), FLAGS.seed)
        scores["quantile"] = evaluation.quantiles(scores["log_prob"], reference["log_prob"])
    return scores, run.note


def _batches(examples, size):
    """Batches of an array, or of a tuple of arrays."""
    import tensorflow as tf

    starts = range(0, len(tf.nest.flatten(examples)[0]), size)
    return [tf.nest.map_structure(lambda rows, i=i: rows[i : i + size], examples) for i in starts]


def _examples(config, info):
    """The examples of the input; with their conditions, if the model has columns as a condition."""
    from tf_resflow.data.loading import load_examples

    kind: dict[str, Any] = {"levels": info.levels, "key": config.data.key, "image_size": config.data.image_size}
    kind["max_image_size"] = config.data.max_image_size
    kind |= {"read_options": config.data.read_options, "skip_unreadable": config.data.skip_unreadable}
    shape, columns = info.event_shape, info.columns
    if info.condition_mean is None:
        return load_examples(FLAGS.input, event_shape=shape, columns=columns, **kind)[0]
    if columns is None:
        raise ValueError(
            "The table of the run has no names, and nothing tells which columns of --input are the condition: "
            "train on a table that names its columns."
        )
    both = (shape[0] + len(info.condition_columns),)
    columns = [*columns, *info.condition_columns]
    rows, _ = load_examples(FLAGS.input, event_shape=both, columns=columns, **kind)
    return rows[:, : shape[0]], rows[:, shape[0] :]


def _held_out(config, size, required):
    """Batches of the run's held-out examples, with their conditions; None if they are missing and not required."""
    try:
        with progress.stage("data"):
            dataset = training.load_data(FLAGS.workdir, data_dir=FLAGS.data_dir, data_path=FLAGS.data_path)
        has_labels = bool(config.model.condition) and required  # those of --input are unknown
        labels = has_labels or dataset.condition_mean is not None
        batches = dataset.eval_batches(config.eval.split, size, config.eval.num_examples or None, labels=labels)
        return list(batches.as_numpy_iterator())
    except ValueError as error:
        if required:
            raise
        logging.warning("The table has no quantiles: %s", error)
        return None


def _plan(run, batch):
    model = run.density
    if FLAGS.stderr is not None:
        if model.condition.num_classes is not None and not isinstance(batch, tuple):
            batch = batch, np.arange(len(batch)) % model.condition.num_classes
        x, condition = model.condition.split(batch)
        return evaluation.plan_likelihood(model, x, FLAGS.stderr, condition=condition)
    from tf_resflow.evaluation.planning import NUM_SAMPLES

    _, estimator = run.estimator(FLAGS.log_det, FLAGS.num_probes)
    return evaluation.LikelihoodPlan(log_det=estimator, num_samples=NUM_SAMPLES)


def run() -> None:
    """The command resflow-score."""
    command_line.run(__doc__, define_flags, main, check)
