r"""Trains the models whose scores the front page states, with several seeds, and scores them on held-out data.

    python benchmarks/scores.py --output=scores.json --workdir=runs/scores --data_dir=DIR

The commands `resflow-train` and `resflow-evaluate` run with the defaults of each config. A row has the score and
its standard error over the held-out examples (bits/dim, or nats for the density in the plane), the scores of
baselines, and the processor minutes of the training, which include tracing and its own evaluations. Results are
added to --output, and interrupted trainings continue from --workdir.
"""

import itertools
import json
import pathlib
import resource
import subprocess
import sys

from absl import app, flags
from rows_file import add_rows

MODELS = {
    "digits": ["--config=best_small:digits"],
    "pinwheel": ["--config=toy2d", "--config.data.name=pinwheel"],
    "mnist_small": ["--config=best_small:mnist_small"],
    "fashion_mnist_small": ["--config=best_small:fashion_mnist_small"],
    "bsds32_small": ["--config=best_small:bsds32_small"],
}
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of TensorFlow data sets.")
_MODELS = flags.DEFINE_list("models", list(MODELS), "Models to train.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each model.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Training steps, if not those of the config.", lower_bound=1)

_BIN = pathlib.Path(__file__).parents[1] / "bin"


def _run(command, *arguments):
    """Runs a command, and returns its processor minutes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(_BIN / f"{command}.py"), *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def result(seed, name):
    """Trains a model. Returns its held-out score, and the scores that it can be compared with."""
    workdir = pathlib.Path(_WORKDIR.value) / f"{name}_{seed}"
    arguments = [*MODELS[name], f"--config.seed={seed}"]
    if name.endswith("_small"):
        arguments.append(f"--config.data.data_dir={_DATA_DIR.value}")
    if _STEPS.value:
        arguments.append(f"--config.train.steps={_STEPS.value}")
    minutes = _run("train", *arguments, f"--workdir={workdir}")
    _run("evaluate", f"--workdir={workdir}", "--metrics=likelihood", f"--output={workdir / 'scores.json'}")
    found = json.loads((workdir / "scores.json").read_text())
    unit = "bits_per_dim" if "bits_per_dim" in found else "nats"
    keys = ("num_examples", "baselines", "entropy")
    row = {"processor_minutes": minutes, "unit": unit, "score": found[unit], "stderr": found[f"{unit}_stderr"]}
    return row | {key: found[key] for key in keys if key in found}


def main(_):
    """Adds the rows that the file lacks."""
    cases = itertools.product(range(_SEEDS.value), _MODELS.value)
    add_rows(_OUTPUT.value, ("seed", "model"), cases, result)


if __name__ == "__main__":
    app.run(main)
