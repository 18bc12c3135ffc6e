r"""Evaluates a trained model, prints a table of scores, and writes the full result as JSON.

resflow-evaluate --workdir=runs/digits --output=evaluation.json
resflow-evaluate --workdir=runs/digits --metrics=likelihood,importance_weighted --log_det_estimator=exact
resflow-evaluate --workdir=runs/table
resflow-evaluate --workdir=runs/table --report=report.html --input=new.csv

The metrics and their JSON keys follow. The score is `bits_per_dim` for integer data and `nats` for continuous data.
Infinite and undefined values are null. The default is all metrics that apply except importance_weighted and fid.

{metrics}

`dequantization` is the noise of integer data, "uniform" or "variational".

--stderr=0.01 requests a standard error for each example's score, in bits/dim or nats. The number of estimates per
example doubles until the first batch reaches it. The result contains this number, `num_samples`, and the standard
error that was reached, `example_stderr`.

For a run on a table, the result was computed by the training: the mean log-likelihood of the test rows in `nats`,
its standard error `nats_stderr`, and the number of rows `num_examples`. The mean leaves out rows without a score
(`num_unscored`) and rows with values that cannot occur (`num_impossible`).

--report=report.html also writes a page with pictures for a run on a table. It compares the rows of the fit, the
test rows and samples in each column and in pairs of columns. It has the AUC of a classifier of samples and test
rows, and the rarest rows with the columns that make them rare. With --input=new.csv, these are the rarest new rows,
and the page shows how new rows differ from the fit. Without test rows and --input, it shows rows of the fit. Of the
other flags, only --output and --read_options apply to tables.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

import tf_resflow as resflow
from tf_resflow import training
from tf_resflow._internal.settings import flat_fields
from tf_resflow._internal.writing import check_output_path, finite_or_none, write_json
from tf_resflow.cli import command_line, tables

FLAGS = flags.FLAGS

METRICS = {
    "likelihood": """`bits_per_dim`; its standard error `bits_per_dim_stderr`; `num_examples`; `example_stderr`, the
  standard error of an example's score; `bound`, "elbo" for integer data, else "none"; `baselines`; `entropy`.""",
    "noise": """standard deviation of an example's loss due to the estimates of the log-determinants, with the
  estimators of training (`noise.training`) and of this evaluation (`noise.evaluation`).""",
    "reconstruction": """error of encoding and decoding, in the flow's input space and in levels, and the number of
  iterations and failures of the solver.""",
    "lipschitz": """Lipschitz bounds of `layers`, `blocks`, `flow`, `inverse`: nominal and certified for the current
  weights.""",
    "importance_weighted": """tighter bound from --iw_samples dequantizations. It needs precise log-determinants:
  --log_det_estimator=exact or many --num_probes. `estimator_bias` is the most that their noise can have lowered the
  score.""",
    "fid": """Fréchet distance between --fid_samples samples and training images in Inception's features. Keras's
  weights differ from those in the literature, see `InceptionFeatures`.""",
    "classification": """for a hybrid model, `accuracy` and its standard error, `cross_entropy` (in bits for images)
  and `calibration_error` (expected calibration error, 15 bins). If named, also for a model of images given their
  label, which predicts the label with the largest likelihood. This takes one evaluation per class.""",
}
"""Dict of the name of each metric, a method of `tf_resflow.training.Evaluation`, to its description."""


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string("output", None, "JSON file to write the result to, or - for standard output.")
    flags.DEFINE_string("report", None, "The .html file of a report on a run on a table.")
    flags.DEFINE_string("input", None, "Table of new rows for --report.")
    command_line.define_read_options()
    flags.DEFINE_list("metrics", None, "Metrics to compute, separated by commas.")
    command_line.define_data_flags()
    flags.DEFINE_string("split", None, "Split to evaluate on: test, validation or train. Default: the run's.")
    flags.DEFINE_integer("num_examples", None, "Evaluate only the first N examples; 0 for all.", 0)
    flags.DEFINE_integer("batch_size", None, "Number of examples per batch.", 1)
    command_line.define_estimator_flags("each example's score, in bits/dim or nats")
    flags.DEFINE_integer("iw_samples", 16, "Number of dequantizations per example for importance_weighted.", 1)
    flags.DEFINE_integer("fid_samples", 10_000, "Number of samples for fid.", 2)
    flags.DEFINE_string(
        "fid_weights", "imagenet", "File with Inception's weights. By default, Keras's weights are downloaded."
    )

    @flags.validator("metrics", f"choose from {', '.join(METRICS)}, separated by commas")
    def _are_metrics(names):
        return names is None or bool(names) and set(names) <= set(METRICS)


def check() -> None:
    """Raises ValueError if a flag is wrong, or the workdir has no run."""
    if FLAGS.output:
        check_output_path(FLAGS.output, [".json"])
    if command_line.is_table():
        tables.check_evaluate()
        return
    command_line.refuse_flags(["report", "input", "read_options"], "a run that is not on a table")
    command_line.check_run()
    files = command_line.workdir()
    files.config_of_data(**command_line.data_paths())
    info = files.read_data()
    if FLAGS.split and info.sizes and FLAGS.split not in info.sizes:
        raise ValueError(
            f"--split={FLAGS.split} does not exist in {info.name!r}. Choose one of {', '.join(sorted(info.sizes))}."
        )
    metrics = FLAGS.metrics or ()
    if "importance_weighted" in metrics and info.levels is None:
        raise ValueError("The data have no noise: leave out importance_weighted.")
    if "fid" in metrics and len(info.event_shape) != 3:
        raise ValueError(f"FID is for images, but {info.name!r} has vectors. Leave fid out of --metrics.")
    weights = FLAGS.fid_weights
    if "fid" in metrics and weights != "imagenet" and not pathlib.Path(weights).is_file():
        raise ValueError(
            f"--fid_weights={weights}: there is no such file. Give a file, or leave out --fid_weights."
        )
    if "classification" in metrics and not info.num_classes:
        raise ValueError(f"{info.name!r} has no labels: leave out classification.")


def main() -> None:
    """Evaluates, prints the table and writes the file."""
    from tf_resflow.training.workdir import read_json  # imported here because it needs an extra

    result = read_json(command_line.workdir().result) if command_line.is_table() else _evaluate()
    command_line.print_line(table(result))
    if FLAGS.report:
        tables.report()
    if FLAGS.output:
        write_json(pathlib.Path(FLAGS.output), finite_or_none(result))


def _evaluate():
    dataset = training.load_data(FLAGS.workdir, **command_line.data_paths())
    run = resflow.load(FLAGS.workdir)
    fields = {"split": FLAGS.split, "num_examples": FLAGS.num_examples, "batch_size": FLAGS.batch_size}
    run.config.eval.update({field: value for field, value in fields.items() if value is not None})
    measured = training.Evaluation(
        run, dataset, log_det_estimator=FLAGS.log_det_estimator, num_probes=FLAGS.num_probes, stderr=FLAGS.stderr
    )
    options = {
        "importance_weighted": {"num_samples": FLAGS.iw_samples},
        "fid": {"features": FLAGS.fid_weights, "num_samples": FLAGS.fid_samples},
    }
    result = measured.header()
    for metric in FLAGS.metrics or measured.metrics:
        result |= getattr(measured, metric)(**options.get(metric, {}))
    return result


def table(result: Mapping[str, Any]) -> str:
    """Formats a result with one number per line. Of the blocks, shows only the one with the largest constant."""
    shown = dict(result)
    if "lipschitz" in result:
        bounds = {key: value for key, value in result["lipschitz"].items() if key != "layers"}
        bounds["blocks"] = dict(sorted(bounds["blocks"].items(), key=lambda block: block[1]["certified"])[-1:])
        bounds["unbounded"] = dict(list(bounds["unbounded"].items())[:1])
        shown["lipschitz"] = bounds
    lines = flat_fields(shown)
    width = max(map(len, lines))
    texts = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in lines.items()}
    return "\n".join(f"{name:{width}}  {text}" for name, text in texts.items())


_METRICS = "\n".join(f"- {name}: {description}" for name, description in METRICS.items())
run = command_line.command(__doc__.format(metrics=_METRICS), define_flags, main, check)
