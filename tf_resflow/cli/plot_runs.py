r"""Plots the learning curves of one or more runs.

resflow-plot-runs --workdirs=runs/a,runs/b --output=curves.png

Solid lines are held-out scores. Dotted lines are the scores logged during training, by the training estimator.
--score=accuracy plots another score in metrics.jsonl; the default is the bits/dim or nats of the first run. The
axis covers the scores after the first tenth of the steps. Runs with equal names also show their folders.
"""

import pathlib
from collections.abc import Iterable

from absl import flags

from tf_resflow import training
from tf_resflow.cli import command_line
from tf_resflow.evaluation.figures import check_figure_path, learning_curves

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_list("workdirs", None, "Directories of the runs, as resflow-train wrote them.")
    flags.DEFINE_string("output", None, "Image file to write: .png, .pdf, .svg or another format of matplotlib.")
    flags.DEFINE_string("score", None, "Score to plot.")
    flags.mark_flags_as_required(["workdirs", "output"])
    flags.register_validator("workdirs", lambda paths: paths != [], "name at least one directory")


def check() -> None:
    """Raises ValueError if a workdir has no run, or the figure cannot be written."""
    from tf_resflow.training.workdir import Workdir  # imported here because it needs an extra

    check_figure_path(FLAGS.output)
    for workdir in FLAGS.workdirs:
        Workdir(workdir).read_config()
        training.read_metrics(workdir)


def main() -> None:
    """Plots the figure and prints its path."""
    workdirs = run_names(FLAGS.workdirs)
    runs = {name: training.read_metrics(workdir) for name, workdir in workdirs.items()}
    first = next(iter(runs.values()))
    score = FLAGS.score or next((k for line in first for k in ("bits_per_dim", "nats") if k in line), "loss")
    learning_curves(FLAGS.output, runs, score)
    print(f"{score} of {', '.join(runs)}: {FLAGS.output}")


def run_names(workdirs: Iterable[str]) -> dict[str, str]:
    """Returns a dict of the shortest distinct path suffix of each run to its path. Duplicate runs appear once."""
    paths = {pathlib.Path(workdir).expanduser().resolve(): workdir for workdir in workdirs}
    names = {}
    for path, workdir in paths.items():
        length = 1
        while [other.parts[-length:] for other in paths].count(path.parts[-length:]) > 1:
            length += 1
        names[str(pathlib.PurePath(*path.parts[-length:]))] = workdir
    return names


run = command_line.command(__doc__, define_flags, main, check)
