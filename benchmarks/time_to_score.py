r"""How long until a held-out score: the published PyTorch code and this package, in turns, tracing included.

    python benchmarks/time_to_score.py --config=mnist_small --data_dir=DIR --published_dir=CHECKOUT \
      --output=times.json --figure=times.png

CHECKOUT is a clone of github.com/rtqichen/residual-flows; the Python that runs it (--published_python, this one by
default) needs torch. Four sides are trained on the data of a config:

- published: the published code, with the model, the optimizer and the schedule of the config, as it ships
- published, our schedule: its model and Adam, with the batches, the schedule and the steps that we recommend, and
  AdamW's learning rate here: 0.012 with 64 images, times the square root of the batch's share
- here, same settings: what the published side does, by this package, for at most twice as many steps
- here, best_small: --config=best_small:CONFIG, another network, with learned noise and Muon

They take turns of --seconds_per_turn of training, with the same number of threads. After a turn the weights (not
their average) are scored on the same held-out images, which takes none of the time. The time begins when libraries
and data are loaded: building the model, tracing and compiling count. The scores to reach are those of the published
side after --steps steps, and of the second side at its end; the time until one is that of the first turn after
which the score is as good. Of several seeds the table has the mean, or how many reach the score, if not all do.

A side ends with its last step; the last two also when they have reached all of these scores. Gradients are clipped
to the norm 1 and weights do not decay, as in the published code, but for the last side. Results are added to
--output; seeds whose sides it already holds are not computed again. Without --published_dir two sides are trained,
and the scores of the third take the published ones' place.
"""

import copy
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags
from workers import our_worker, published_worker

_CONFIG = flags.DEFINE_string("config", "mnist_small", "Name of a config of images whose model the paper has.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of TensorFlow data sets.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the curves, read and written.", required=True)
_FIGURE = flags.DEFINE_string("figure", None, "Picture of the scores over the seconds, .png.")
_STEPS = flags.DEFINE_list("steps", ["300", "600", "1500"], "Steps of the published code whose scores count.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each side.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds_per_turn", 20.0, "Seconds of training between two scores.", lower_bound=0.0)
_EXAMPLES = flags.DEFINE_integer("num_examples", 500, "Held-out images of a score.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads of each side.", lower_bound=1)

_FREE = ("num_blocks", "width", "fc_width", "logit_alpha")  # the fields that the published side follows
_RATE = 6e-3  # of AdamW in the batches of best_small: docs/results.md
_PUBLISHED, _SCHEDULED = "published", "published, our schedule"
_SIDES = (_PUBLISHED, _SCHEDULED, "here, same settings", "here, best_small")


def configs(name, steps):
    """The config of each side by its name; the published schedule goes on for so many steps."""
    from tf_resflow import training

    base, best = training.base_config(name), training.base_config(f"best_small:{name}")
    _check_comparable(base)
    base.train.update(weight_decay=0.0, global_clipnorm=1.0, steps=steps)
    scheduled, same = copy.deepcopy(base), copy.deepcopy(base)
    scheduled.train = best.train.copy_and_resolve_references()
    scheduled.train.update(optimizer="adam", learning_rate=_RATE, weight_decay=0.0, global_clipnorm=1.0)
    found = dict(zip(_SIDES, (base, scheduled, same, best), strict=True))
    for config in found.values():
        config.data.data_dir = _DATA_DIR.value
        config.eval.num_examples = _EXAMPLES.value
    if not _PUBLISHED_DIR.value:
        return {side: found[side] for side in _SIDES[2:]}
    if base.train.schedule == "constant":  # which does not depend on the number of steps
        same.train.steps *= 2
    return found


def _check_comparable(config):
    """Exits if the config asks for something that the published side does not do."""
    from tf_resflow import training

    default = training.default_config()
    if config.model.activation == "lipswish":
        default.model.activation = "lipswish"  # the automatic activation of images
    others = [key for key in default.model if key not in _FREE and config.model[key] != default.model[key]]
    if config.task != "density" or others:
        what = "config.task" if config.task != "density" else f"config.model.{others[0]}"
        free = ", ".join(f"config.model.{key}" for key in _FREE)
        sys.exit(f"Error: {what} is not the default, and the published side cannot follow. Only {free} can change.")


def train(found, seed, stops):
    """Trains all sides in turns; returns rows of a side, the steps and seconds so far, and the score."""
    from tf_resflow.training.optimizer import learning_rate_schedule

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
    rows, best = [], dict.fromkeys(workers, np.inf)
    while workers:
        for side, worker in list(workers.items()):
            rows.append({"config": _CONFIG.value, "seed": seed, "side": side, **_settings(), **worker.ask("run")})
            print(rows[-1], flush=True)
            best[side] = min(best[side], rows[-1]["bits_per_dim"])
            if has_reached_all(side, best, workers) or rows[-1]["step"] >= found[side].train.steps:
                workers.pop(side).close()
    return rows


def has_reached_all(side, best, running):
    """Whether a side has the scores to reach, by the best ones so far. The sides whose scores they are go on."""
    owners = {next(iter(best)), _SCHEDULED} & best.keys()
    return side not in owners and all(o not in running and best[side] <= best[o] for o in owners)


def _settings():
    """What the rows of a file have in common, to be compared."""
    return {"threads": _THREADS.value, "num_examples": _EXAMPLES.value}


def _arrays(config, folder):
    """A file of the train and held-out images."""
    from tf_resflow import data

    dataset, path = data.load(config.data), str(pathlib.Path(folder) / "images.npz")
    np.savez(path, train=dataset.array("train"), test=dataset.array(config.eval.split))
    return path


def curve(rows, side, seed):
    """The steps, seconds and scores of a training, arrays."""
    own = [row for row in rows if (row["config"], row["side"], row["seed"]) == (_CONFIG.value, side, seed)]
    return [np.array([row[key] for row in own]) for key in ("step", "seconds", "bits_per_dim")]


def time_to(score, seconds, scores):
    """The seconds of the first score that is as good; infinite if none is."""
    return min(seconds[scores <= score], default=np.inf)


def print_table(rows, stops):
    """Prints a Markdown table: the mean seconds of each side until the score that a side has at a step; ratios."""
    rows = [row for row in rows if row["config"] == _CONFIG.value]
    seeds = sorted({row["seed"] for row in rows})
    sides = [side for side in _SIDES if any(row["side"] == side for row in rows)]
    print(f"| {_CONFIG.value}: score of | seeds | bits/dim | {' | '.join(sides)} |\n{'|---' * (3 + len(sides))}|")
    for owner, stop in stops:
        scores, times = [], []
        for seed in seeds:
            steps, _, found = curve(rows, owner, seed)
            if stop in steps:
                scores.append(found[np.flatnonzero(steps == stop)[0]])
                times.append([time_to(scores[-1], *curve(rows, side, seed)[1:]) for side in sides])
        if scores:
            means, reached = np.mean(times, axis=0), np.isfinite(times).sum(axis=0)
            own = means[sides.index(owner)]
            cells = [
                f"{mean:,.0f} s ({own / mean:.1f} x)" if num == len(times) else f"{num} of {len(times)}"
                for mean, num in zip(means, reached, strict=True)
            ]
            print(f"| {owner}, {stop:,} steps | {len(times)} | {np.mean(scores):.3f} | {' | '.join(cells)} |")


def draw(rows, path):
    """Draws the scores of all sides over the seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for place, side in enumerate(_SIDES):
        for seed in sorted({row["seed"] for row in rows}):
            _, seconds, scores = curve(rows, side, seed)
            label = side if seed == 0 else None
            axes.plot(seconds, scores, ".-", markersize=4, color=f"C{place}", alpha=0.8, label=label)
    axes.set(xscale="log", xlabel="seconds, tracing included", title=_CONFIG.value)
    axes.set_ylabel("held-out bits/dim (lower is better)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(_):
    """Trains what is missing in the file, and prints its table."""
    from rows_file import read_rows, write_rows

    stops = sorted(map(int, _STEPS.value))
    try:
        rows = read_rows(_OUTPUT.value)
        found = configs(_CONFIG.value, stops[-1])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    if any(row | _settings() != row for row in rows):
        sys.exit(f"Error: {_OUTPUT.value} has rows of other --threads or --num_examples. Give another --output.")
    for seed in range(_SEEDS.value):
        own = [row for row in rows if (row["config"], row["seed"]) == (_CONFIG.value, seed)]
        if not found.keys() <= {row["side"] for row in own}:
            rows = [row for row in rows if row not in own] + train(found, seed, stops)
            write_rows(_OUTPUT.value, rows)
    reference, ours = next(iter(found)), found[_SIDES[-1]]
    print_table(rows, [(reference, stop) for stop in stops] + [(_SCHEDULED, ours.train.steps)])
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    app.run(main)
