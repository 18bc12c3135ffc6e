r"""Evaluates a trained model, prints a table, and writes all of it as JSON.

resflow-evaluate --workdir=runs/digits --output=evaluation.json
resflow-evaluate --workdir=runs/digits --metrics=likelihood,importance_weighted --log_det=exact

Metrics, and their keys in the JSON file (scores are `bits_per_dim` of integer data, `nats` of continuous
data; infinite and undefined values are null):

- likelihood: `bits_per_dim`, `bits_per_dim_stderr`, and the sources of that standard error,
  `bits_per_dim_stderr_parts` (data, dequantization, estimator); `num_examples`; `bound`, "elbo" for integer data,
  "importance_weighted" for tables with discrete columns, whose error has no parts; `baselines`; `entropy`.
- noise: of the estimate of one example's loss, with the training's estimator and with this
  evaluation's (`noise.training`, `noise.evaluation`): mean, standard deviations, excess kurtosis.
- reconstruction: the error of encoding and decoding, in the flow's input space and in levels, and
  the solver's iterations and failures.
- lipschitz: `layers`, `blocks`, `flow` and `inverse`, nominal and certified.
- importance_weighted: the tighter bound of --iw_samples dequantizations. It needs precise
  log-determinants: --log_det=exact; many --num_probes; or a small --stderr, here of each dequantization.
  `estimator_bias` tells what their noise can have gained.
- fid: the Fréchet distance between --fid_samples samples and train images in Inception's features. (Keras'
  weights differ from those of the literature: see `InceptionFeatures`.)
- classification, of a hybrid model: `accuracy` and its standard error, `cross_entropy` (in bits for images) and
  `calibration_error` (expected calibration error, 15 bins). If it is named, also of a model of images given their
  label, by the label under which an image is most likely: as many evaluations as there are classes.

`dequantization` tells which noise the bounds of integer data are of, "uniform" or "variational".

The default is the first four and the last, as far as the model has a density, residual blocks and a classifier.
With --ood_data=NAME, another data set, `ood` has the areas under the ROC curves by which log p(x),
`auroc_log_prob`, and the largest class probability, `auroc_max_probability`, separate the data from it. Of images
given their label, log p(x) is that of the mixture of the classes, in both data sets.

--log_det=adaptive_series certifies that the rest of each series is below 1e-4 nats. --stderr=0.01 asks for a
standard error of each example's score, in its unit: a short measurement chooses the number of dequantizations and
the estimator of each block that reach it in the least time. The result has the `plan`, and `example_stderr`, what
was reached.
"""

import collections
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

import tf_resflow as resflow
from tf_resflow import data, evaluation, progress, training
from tf_resflow.cli import command_line
from tf_resflow.writing import check_output_path, finite_or_none

METRICS = ("likelihood", "noise", "reconstruction", "lipschitz", "importance_weighted", "fid", "classification")
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
    files, metrics = command_line.workdir(), FLAGS.metrics or ()
    info = files.read_data()
    if FLAGS.split and info.sizes and FLAGS.split not in info.sizes:
        raise ValueError(f"--split={FLAGS.split}: {info.name!r} has {', '.join(sorted(info.sizes))}.")
    if "fid" in metrics and len(info.event_shape) != 3:
        raise ValueError(f"FID is for images; {info.name!r} are vectors. Leave it out of --metrics.")
    if "fid" in metrics and FLAGS.fid_weights != "imagenet" and not pathlib.Path(FLAGS.fid_weights).is_file():
        raise ValueError(f"--fid_weights={FLAGS.fid_weights}: there is no such file.")
    if "importance_weighted" in metrics and not info.is_dequantized:
        raise ValueError("importance_weighted is of dequantized data, and these are continuous: leave it out.")
    if "classification" in metrics and info.num_classes is None:
        raise ValueError(f"classification needs labels, which {info.name!r} do not have: leave it out.")


def main() -> None:
    """Evaluates, prints the table and writes the file."""
    result = _evaluate()
    print(table(result))
    if FLAGS.output:
        from tf_resflow.training.workdir import write_json

        write_json(pathlib.Path(FLAGS.output), finite_or_none(result))


def _evaluate():
    with progress.stage("data"):
        dataset = training.load_data(FLAGS.workdir, data_dir=FLAGS.data_dir, data_path=FLAGS.data_path)
    run = resflow.load(FLAGS.workdir)
    fields = {"split": FLAGS.split, "num_examples": FLAGS.num_examples, "batch_size": FLAGS.batch_size}
    run.config.eval.update({field: value for field, value in fields.items() if value is not None})
    measured = training.Evaluation(
        run, dataset, log_det=FLAGS.log_det, num_probes=FLAGS.num_probes, stderr=FLAGS.stderr
    )
    result, metrics = measured.header(), FLAGS.metrics or measured.metrics
    if "importance_weighted" in metrics:
        _ = measured.bound_plan  # what cannot be planned ends the command before any long work
    for metric in metrics:
        result |= getattr(measured, metric)(**_arguments(metric, dataset))
    if FLAGS.ood_data:
        result |= measured.ood(_other_data(run.config.data))
    return result


def _other_data(ours):
    fields = {"name": FLAGS.ood_data, "levels": ours.levels, "image_size": ours.image_size}
    return data.load({**fields, "data_dir": FLAGS.data_dir or ours.data_dir})


def _arguments(metric, dataset):
    if metric == "importance_weighted":
        return {"num_samples": FLAGS.iw_samples}
    if metric == "fid":
        features = evaluation.InceptionFeatures(dataset.levels, FLAGS.fid_weights)
        return {"features": features, "num_samples": FLAGS.fid_samples}
    return {}


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
    lines = dict(_lines(shown))
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines.items())


def _lines(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield prefix + name, f"{value:.5g}" if isinstance(value, float) else str(value)


def run() -> None:
    """The command resflow-evaluate."""
    command_line.run(__doc__, define_flags, main, check)
