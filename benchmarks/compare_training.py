r"""Trains the model of a config with this package and with the published PyTorch code, and draws both curves.

    python benchmarks/compare_training.py --config=configs/mnist_small.py --config.data.data_dir=DIR \
      --published_dir=CHECKOUT --output=curves.json

CHECKOUT is a clone of github.com/rtqichen/residual-flows; the Python that runs it (--published_python, this one by
default) needs torch. A figure with the name of the JSON file and the suffix .png is drawn, too.

Both sides have the same architecture, optimizer, warm-up, batch size and estimators, and clip the gradient as the
published code does. Weight decay, which has no effect there, is 0. They take turns of --steps_per_turn steps with
the same number of threads. After a turn the weights (not their average) are scored on the same test images; the
time is that of the training steps alone.
"""

import json
import os
import pathlib
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags
from workers import start_workers

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the configuration.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the curves.")
_STEPS = flags.DEFINE_integer("steps_per_turn", 100, "Steps between two scores.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads of each side.", lower_bound=1)
flags.mark_flags_as_required(["config", "published_dir", "output"])

_NAMES = {"ours": "tf_resflow", "published": "published code"}
_FREE = ("num_blocks", "width", "fc_width", "logit_alpha")  # the fields that the published side follows


def _check_comparable(config):
    """Exits if the config asks for something that the published side does not do."""
    from tf_resflow import training

    default = training.default_config()
    others = [key for key in default.model if key not in _FREE and config.model[key] != default.model[key]]
    if config.task != "density" or others:
        what = "config.task" if config.task != "density" else f"config.model.{others[0]}"
        free = ", ".join(f"config.model.{key}" for key in _FREE)
        sys.exit(f"Error: {what} is not the default, and the published side cannot follow. Only {free} can change.")


def _curves(config):
    """A dict of side to dict of lists: "step", "seconds" of training so far, "bits_per_dim"."""
    import numpy as np

    from tf_resflow import data

    dataset = data.load(config.data)
    with tempfile.TemporaryDirectory() as folder:
        arrays = str(pathlib.Path(folder) / "images.npz")
        np.savez(arrays, train=dataset.array("train"), test=dataset.array(config.eval.split))
        settings = {"config": config.to_dict(), "arrays": arrays, "steps": _STEPS.value}
        workers = start_workers(
            _PUBLISHED_DIR.value, _PUBLISHED_PYTHON.value, threads=_THREADS.value, keep_memory=True
        )
        for worker in workers.values():
            worker.ask(f"prepare learning {json.dumps(settings)}")
    curves = {side: {"step": [], "seconds": [], "bits_per_dim": []} for side in workers}
    for step in range(_STEPS.value, config.train.steps + 1, _STEPS.value):
        for side, worker in workers.items():
            turn, curve = worker.ask("run"), curves[side]
            curve["step"].append(step)
            curve["seconds"].append(turn["seconds"] + (curve["seconds"] or [0.0])[-1])
            curve["bits_per_dim"].append(turn["bits_per_dim"])
            print(f"{step:6} {side:10} {curve['seconds'][-1]:9.1f} s {turn['bits_per_dim']:8.4f}", flush=True)
    for worker in workers.values():
        worker.close()
    return curves


def _draw(curves, name, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, key, label in zip(axes, ("step", "seconds"), ("steps", "seconds of training"), strict=True):
        for side, curve in curves.items():
            axis.plot(curve[key], curve["bits_per_dim"], label=_NAMES[side])
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="held-out bits/dim", title=name)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main(_):
    """Trains both and writes the curves."""
    config, output = _CONFIG.value, pathlib.Path(_OUTPUT.value)
    if not output.parent.is_dir():
        sys.exit(f"Error: the directory of --output={output} does not exist.")
    _check_comparable(config)
    config.train.weight_decay = 0.0
    config.train.global_clipnorm = 1.0
    curves = _curves(config)
    output.write_text(json.dumps(curves, indent=2) + "\n")
    _draw(curves, config.data.name, output.with_suffix(".png"))


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    app.run(main)
