r"""Draws the learning curves of one or several runs.

python bin/plot_runs.py --workdirs=runs/a,runs/b --output=curves.png

Solid: the held-out score; dotted: what the training reported, by the estimator that trains. --score=accuracy draws
another one of metrics.jsonl; by default it is the bits/dim or nats of the first run.
"""

import pathlib

from absl import flags

from tf_resflow import evaluation, training

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Directories of the runs, as train.py wrote them.")
_OUTPUT = flags.DEFINE_string("output", None, "An image file.")
_SCORE = flags.DEFINE_string("score", None, "The score to draw.")
flags.mark_flags_as_required(["workdirs", "output"])


def main():
    """Draws the figure."""
    training.check_output(_OUTPUT.value)
    for workdir in _WORKDIRS.value:
        training.Workdir(workdir).read_config()
    runs = {pathlib.Path(workdir).name: training.read_metrics(workdir) for workdir in _WORKDIRS.value}
    first = next(iter(runs.values()))
    score = _SCORE.value or next((k for line in first for k in ("bits_per_dim", "nats") if k in line), "loss")
    evaluation.learning_curves(_OUTPUT.value, runs, score, score.replace("_per_", "/"))
    return 0


if __name__ == "__main__":
    training.run(main)
