r"""Measures how long training takes until a held-out score, here and with the published PyTorch code.

    python benchmarks/time_to_score.py --config=mnist_small --data_dir=DIR --published_dir=CHECKOUT \
      --output=times.json --figure=times.png

CHECKOUT is a clone of github.com/rtqichen/residual-flows. The Python that runs it (--published_python, by default
this one) needs torch. Four sides are trained on the data of a config:

- published: the published code as it ships, with the model, optimizer and schedule of the config
- published, our schedule: the same model and Adam with the batch size, schedule and number of steps that we
  recommend, and the learning rate that we use for AdamW: 0.012 for 64 images, scaled by the square root of the
  batch size
- here, same settings: this package with the settings of the first side, for at most twice as many steps
- here, best_small: --config=best_small:CONFIG, another network with learned noise and Muon

The sides take turns, with the same number of threads. A turn takes --seconds_per_turn of training, or a tenth of
the side's training so far if that is longer. All seconds are processor seconds of the training process, from the
moment when libraries and data are loaded: building the model, tracing and compiling count. After each turn the
current weights (not their average) are scored on the same held-out images; scoring does not count. The scores to
reach are those of the published side after --steps steps, and of the second side at its end. The time to a score is
the time of the first turn that ends with a score as good. The table has means over seeds.

A side ends with its last step. The third side waits while it is ahead of the first one, and the fourth while it
is ahead of the first two. Gradients are clipped to the norm 1 and weights do not decay, as in the published code,
except for the last side. Results are added to --output, and seeds whose sides it already holds are not computed
again. Without --published_dir only the last two sides are trained, and the scores to reach are those of the third.
"""

import copy
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags
from rows_file import read_rows, write_rows
from summaries import SIDES, curve, time_to_score_table
from workers import our_worker, published_worker

from tf_resflow import data, training
from tf_resflow.training.checkpoints import learning_rate_schedule

_CONFIG = flags.DEFINE_string("config", "mnist_small", "Name of a config of images whose model the paper has.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of TensorFlow data sets.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the curves, read and written.", required=True)
_FIGURE = flags.DEFINE_string("figure", None, "Picture of the scores over the seconds, .png.")
_STEPS = flags.DEFINE_list("steps", ["300", "600", "1500"], "Steps of the published code that set the scores.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each side.", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds_per_turn", 20.0, "Least seconds of training between two scores.", lower_bound=0.0
)
_EXAMPLES = flags.DEFINE_integer("num_examples", 500, "Held-out images of a score.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads of each side.", lower_bound=1)

_FREE = ("num_blocks", "width", "fc_width", "logit_alpha")  # fields that the published side supports
_RATE = 6e-3  # AdamW's learning rate for the batch size of best_small
_PUBLISHED, _SCHEDULED, *_ = SIDES


def configs(name, steps):
    """Returns the config of each side; the published schedule runs for `steps` steps."""
    base, best = training.base_config(name), training.base_config(f"best_small:{name}")
    _check_comparable(base)
    base.train.update(weight_decay=0.0, global_clipnorm=1.0, steps=steps)
    scheduled, same = copy.deepcopy(base), copy.deepcopy(base)
    scheduled.train = best.train.copy_and_resolve_references()
    scheduled.train.update(optimizer="adam", learning_rate=_RATE, weight_decay=0.0, global_clipnorm=1.0)
    found = dict(zip(SIDES, (base, scheduled, same, best), strict=True))
    for config in found.values():
        config.data.data_dir = _DATA_DIR.value
        config.eval.num_examples = _EXAMPLES.value
    if not _PUBLISHED_DIR.value:
        return {side: found[side] for side in SIDES[2:]}
    if base.train.schedule == "constant":  # a longer training has the same first steps
        same.train.steps *= 2
    return found


def _check_comparable(config):
    """Exits if the config has a setting that the published side does not support."""
    default = training.default_config()
    if config.model.activation == "lipswish":
        default.model.activation = "lipswish"  # the automatic activation of images
    others = [key for key in default.model if key not in _FREE and config.model[key] != default.model[key]]
    if config.task != "density" or others:
        what = "config.task" if config.task != "density" else f"config.model.{others[0]}"
        free = ", ".join(f"config.model.{key}" for key in _FREE)
        sys.exit(f"Error: {what} is not the default, and the published side cannot follow. Only {free} can change.")


def train(found, seed, stops):
    """Trains all sides in turns. Each returned row has a side, its steps and seconds so far, and its score."""
    workers = {}
    for side, config in found.items():
        config.seed = seed
        settings = {"config": config.to_dict(), "stops": stops, "seconds_per_turn": _SECONDS.value}
        options = {"threads": _THREADS.value, "keep_memory": True}
        if side.startswith(_PUBLISHED):
            rate = learning_rate_schedule(config.train)
            settings["rates"] = [float(rate(i) if callable(rate) else rate) for i in range(config.train.steps)]
            workers[side] = published_worker(_PUBLISHED_DIR.value, _PUBLISHED_PYTHON.value, **options)
            with tempfile.TemporaryDirectory() as folder:
                settings["arrays"] = _arrays(config, folder)
                workers[side].ask(f"prepare learning {json.dumps(settings)}")
        else:
            workers[side] = our_worker(**options)
            workers[side].ask(f"prepare learning {json.dumps(settings)}")
    first = next(iter(workers))
    rivals = {SIDES[2]: {first}, SIDES[3]: {first, _SCHEDULED} & workers.keys()}  # whose scores a side has to reach
    rows, best = [], dict.fromkeys(workers, np.inf)
    while workers:
        for side, worker in list(workers.items()):
            others = rivals.get(side, set()) - {side}
            if others and best[side] < min(best[other] for other in others):
                is_done = not others & workers.keys()
            else:
                result = {key: round(value, 4) for key, value in worker.ask("run").items()}
                rows.append({"config": _CONFIG.value, "seed": seed, "side": side, **_settings(), **result})
                print(rows[-1], flush=True)
                best[side] = min(best[side], result["bits_per_dim"])
                is_done = result["step"] >= found[side].train.steps
            if is_done:
                workers.pop(side).close()
    return rows


def _settings():
    """Settings that all rows of a file share."""
    return {"threads": _THREADS.value, "num_examples": _EXAMPLES.value}


def _arrays(config, folder):
    """Writes the training and held-out images to a file, and returns its path."""
    dataset, path = data.load(config.data), str(pathlib.Path(folder) / "images.npz")
    np.savez(path, train=dataset.array("train"), test=dataset.array(config.eval.split))
    return path


def draw(rows, path):
    """Draws the scores of all sides over their seconds."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    rows = [row for row in rows if row["config"] == _CONFIG.value]
    for place, side in enumerate(SIDES):
        for seed in sorted({row["seed"] for row in rows}):
            _, seconds, scores = curve(rows, side, seed)
            label = side if seed == 0 else None
            axes.plot(seconds, scores, ".-", markersize=4, color=f"C{place}", alpha=0.8, label=label)
    axes.set(xscale="log", xlabel="processor seconds of training, tracing included", title=_CONFIG.value)
    axes.set_ylabel("held-out bits/dim (lower is better)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(_):
    """Trains the seeds that the file lacks, and prints its table."""
    stops = sorted(map(int, _STEPS.value))
    try:
        rows = read_rows(_OUTPUT.value)
        found = configs(_CONFIG.value, stops[-1])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    if any(row | _settings() != row for row in rows):
        sys.exit(f"Error: {_OUTPUT.value} has rows with other --threads or --num_examples. Pass another --output.")
    for seed in range(_SEEDS.value):
        own = [row for row in rows if (row["config"], row["seed"]) == (_CONFIG.value, seed)]
        if not found.keys() <= {row["side"] for row in own}:
            rows = [row for row in rows if row not in own] + train(found, seed, stops)
            write_rows(_OUTPUT.value, rows)
    reference, ours = next(iter(found)), found[SIDES[-1]]
    owners = [(reference, stop) for stop in stops] + [(_SCHEDULED, ours.train.steps)]
    print(time_to_score_table(rows, _CONFIG.value, owners))
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


if __name__ == "__main__":
    app.run(main)
