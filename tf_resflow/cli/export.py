r"""Exports a trained model as a SavedModel that needs only TensorFlow or TensorFlow Serving.

resflow-export --workdir=runs/digits --export_dir=served/digits

The model is written to EXPORT_DIR/VERSION, with README.md, signatures.json and, if the package
tensorflow-serving-api is installed, warm-up requests. The weights are the averages of the newest checkpoint or, if
the run keeps it, of the best one on validation. Scores include a p-value among up to 10,000 held-out scores. For a
run on a table, the flags are --version, --max_samples and --max_batch.
"""

from absl import flags

from tf_resflow import training
from tf_resflow._internal.writing import new_version_folder
from tf_resflow.cli import command_line, tables

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string("export_dir", None, "Directory for the versions of the model.")
    flags.DEFINE_integer("version", None, "Version number. Default: the next free one.", 1)
    command_line.define_estimator_flags("log_prob, in nats")
    flags.DEFINE_integer("num_samples", None, "Number of estimates per log_prob. Default: 8.", 2)
    flags.DEFINE_integer("seed", 0, "Seed of the random numbers of serving_default.", 0, 2**63 - 1)
    flags.DEFINE_integer("max_samples", 1024, "Maximum number of samples per request.", 1)
    flags.DEFINE_integer("max_batch", None, "Maximum number of examples in other requests. Default: no limit.", 1)
    flags.DEFINE_list(
        "signatures",
        None,
        "Signatures to export, such as encode,sample. Default: all. If serving_default is not among them, the "
        "first one also has this name.",
    )
    command_line.define_data_flags()
    flags.DEFINE_bool(
        "precise", False, "Invert integer data to the rounding error of the dtype, not to 1/32 of a level."
    )


def check() -> None:
    """Raises ValueError if a flag is wrong, the workdir has no run, or the version exists."""
    if FLAGS.stderr is not None and FLAGS.num_samples is not None:
        raise ValueError("--stderr determines the number of estimates: leave out --num_samples or --stderr.")
    if command_line.is_table():
        tables.check("export")
    else:
        command_line.check_run()
    new_version_folder(FLAGS.export_dir, FLAGS.version)


def main() -> None:
    """Exports the model and prints its path."""
    names = ["version", "log_det_estimator", "num_probes", "stderr", "num_samples", "data_dir", "data_path", "seed"]
    names += ["max_samples", "max_batch", "signatures", "precise"]
    options = {name: FLAGS[name].value for name in names}
    is_table = command_line.is_table()
    path = tables.export() if is_table else training.export_run(FLAGS.workdir, FLAGS.export_dir, **options)
    print(f"{path}: {', '.join(sorted(file.name for file in path.iterdir()))}")


run = command_line.command(__doc__, define_flags, main, check, ["workdir", "export_dir"])
