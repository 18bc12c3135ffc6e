r"""Evaluates a trained model, prints a table, and writes all of it as JSON.

resflow-evaluate --workdir=runs/digits --output=evaluation.json
resflow-evaluate --workdir=runs/digits --metrics=likelihood,importance_weighted --log_det_estimator=exact

Metrics, and their keys in the JSON file (scores are `bits_per_dim` of integer data, `nats` of continuous
data; infinite and undefined values are null):

{metrics}

`dequantization` says which noise the bounds of integer data are of, "uniform" or "variational".

The default is all of them but importance_weighted and fid, if the model has a density, residual blocks and a
classifier.
With --ood_data=NAME, another data set, `ood` has the areas under the ROC curves by which log p(x),
`auroc_log_prob`, and the largest class probability, `auroc_max_probability`, separate the data from it. Of images
given their label, log p(x) is that of the mixture of the classes, in both data sets.

--log_det_estimator=adaptive_series certifies that the rest of each series is below 1e-4 nats. --stderr=0.01 asks
for a standard error of each example's score, in its unit: a short measurement chooses the number of dequantizations
and the estimator of each block that reach it in the least time. The result has the `plan` and the reached
`example_stderr`.
"""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.cli import command_line
from tf_resflow.training.config import flat_fields
from tf_resflow.training.evaluation_metrics import METRICS
from tf_resflow.writing import check_output_path, finite_or_none

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string("output", None, "JSON file to write the result to.")
    flags.DEFINE_list("metrics", None, "What to measure.")
    flags.DEFINE_string(
        "ood_data", None, "Another data set, which the scores should tell from the data, such as digits."
    )
    command_line.define_data_flags()
    flags.DEFINE_string("split", None, "The split to evaluate on: test, validation, train; default the run's.")
    flags.DEFINE_integer("num_examples", None, "Evaluate only the first N examples; 0 for all.", 0)
    flags.DEFINE_integer("batch_size", None, "Examples at a time.", 1)
    command_line.define_estimator_flags("each example's score, in its unit")
    flags.DEFINE_integer("iw_samples", 16, "Samples of importance_weighted.", 1)
    flags.DEFINE_integer("fid_samples", 10_000, "Samples of fid.", 2)
    flags.DEFINE_string(
        "fid_weights", "imagenet", "File with Inception's weights; by default Keras' are downloaded."
    )

    @flags.validator("metrics", f"choose some of {', '.join(METRICS)}, separated by commas")
    def _are_metrics(names):
        return names is None or bool(names) and set(names) <= set(METRICS)


def check() -> None:
    """Raises ValueError if a flag is wrong, or the workdir has no run."""
    if FLAGS.output:
        check_output_path(FLAGS.output, [".json"])
    command_line.check_run()
    command_line.check_data()
    info = command_line.workdir().read_data()
    if FLAGS.split and info.sizes and FLAGS.split not in info.sizes:
        raise ValueError(f"--split={FLAGS.split}: {info.name!r} has {', '.join(sorted(info.sizes))}.")
    for name in FLAGS.metrics or ():
        if reason := METRICS[name].refusal(info, FLAGS):
            raise ValueError(reason)


def main() -> None:
    """Evaluates, prints the table and writes the file."""
    from tf_resflow.training.workdir import write_json  # which an extra provides

    dataset, run = command_line.load_data(), resflow.load(FLAGS.workdir)
    fields = {"split": FLAGS.split, "num_examples": FLAGS.num_examples, "batch_size": FLAGS.batch_size}
    run.config.eval.update({field: value for field, value in fields.items() if value is not None})
    measured = training.Evaluation(
        run, dataset, log_det_estimator=FLAGS.log_det_estimator, num_probes=FLAGS.num_probes, stderr=FLAGS.stderr
    )
    result, metrics = measured.header(), FLAGS.metrics or measured.metrics
    if "importance_weighted" in metrics:
        _ = measured.bound_plan  # what cannot be planned ends the command before any long work
    for metric in metrics:
        result |= METRICS[metric].measure(measured, FLAGS)
    if FLAGS.ood_data:
        ours = run.config.data
        other = {"name": FLAGS.ood_data, "levels": ours.levels, "image_size": ours.image_size}
        result |= measured.ood(data.load(other | {"data_dir": FLAGS.data_dir or ours.data_dir}))
    print(table(result))
    if FLAGS.output:
        write_json(pathlib.Path(FLAGS.output), finite_or_none(result))


def table(result: Mapping[str, Any]) -> str:
    """A line for each number of a result; of the blocks alone that with the largest certified constant."""
    shown = dict(result)
    if "plan" in result:
        blocks = collections.Counter(block["type"] for block in result["plan"]["blocks"].values())
        shown["plan"] = result["plan"] | {"blocks": ", ".join(f"{num} {kind}" for kind, num in blocks.items())}
    if "lipschitz" in result:
        bounds = {key: value for key, value in result["lipschitz"].items() if key != "layers"}
        bounds["blocks"] = dict(sorted(bounds["blocks"].items(), key=lambda block: block[1]["certified"])[-1:])
        bounds["unbounded"] = dict(list(bounds["unbounded"].items())[:1])
        shown["lipschitz"] = bounds
    lines = flat_fields(shown)
    width = max(map(len, lines))
    texts = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in lines.items()}
    return "\n".join(f"{name:{width}}  {text}" for name, text in texts.items())


_METRICS = "\n".join(f"- {name}: {metric.description}" for name, metric in METRICS.items())
run = command_line.command(__doc__.format(metrics=_METRICS), define_flags, main, check)
