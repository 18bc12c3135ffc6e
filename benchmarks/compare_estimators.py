r"""Compares estimators of the log-determinants of a trained model by the error and time of log p(x).

    python benchmarks/compare_estimators.py --workdir=runs/digits --published_dir=CHECKOUT --output=estimators.json

CHECKOUT is a clone of github.com/rtqichen/residual-flows. The Python that runs it (--published_python, by default
this one) needs torch. The published model gets the weights of this package's model, and its latents must agree.
Without --published_dir, only this package is measured. A figure is saved next to the JSON file, with the suffix
.png.

Close other programs first. PyTorch's threads wait for each other, so they become many times slower if other
programs use their cores. With --threads=1, both sides slow down alike.

The images are dequantized once. All estimators take turns in --repeats rounds with different seeds, after one round
that is not counted. The table lists for each estimator:

- the seconds per image (median over the rounds), and the mean of log p(x) in nats, which is the same for all
  unbiased estimators;
- the error: the standard deviation of log p(x) over the rounds, as a root mean square over the images;
- error x sqrt(seconds), which does not change when independent estimates are averaged;
- the speedup: how many times less time than the first row an estimator needs for the same error. This is the
  quotient of the squares of error x sqrt(seconds).
"""

import functools
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from absl import app, flags
from workers import published_worker

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS directory of the data, if it has moved.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "Checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "Python executable with torch.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 64, "Evaluation images, in one batch.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 16, "Number of timed rounds.", lower_bound=2)
_PROBES = flags.DEFINE_list("probes", ["1", "4", "9", "16", "36"], "Numbers of colored probes.")
_MAX_EXACT = flags.DEFINE_integer("max_exact", 256, "Largest number of dimensions for Exact.", lower_bound=0)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Number of threads per side.", lower_bound=1)
flags.mark_flags_as_required(["workdir", "output"])
flags.register_validator("probes", lambda nums: all(n.isdigit() and int(n) for n in nums), "integers >= 1")

_PUBLISHED, _BEFORE, _NOW = "published code", "20 terms, then roulette", "adaptive roulette, colored probes"
_CERTIFIED, _EXACT = "adaptive series, certified", "exact"


def _estimators(run):
    """Returns a dict from (method, number of probes) to an estimator."""
    from tf_resflow import logdet, models

    model, space = run.model, run.model.data_space
    _, certified = models.evaluation_estimator(
        run.config,
        model.flow,
        space.event_shape,
        dequantizer=space.dequantizer,
        name="adaptive_series",
    )
    before = {(_BEFORE, n): logdet.RussianRoulette(20, per_example=True, num_probes=n) for n in (1, 4)}
    now = {(_NOW, n): logdet.AdaptiveRoulette(num_probes=n) for n in map(int, _PROBES.value)}
    exact = (
        {(_EXACT, model.data_space.num_dimensions): logdet.Exact()}
        if model.data_space.num_dimensions <= _MAX_EXACT.value
        else {}
    )
    return {**before, **now, (_CERTIFIED, 1): certified, **exact}


def _ours(model, x, log_det_estimator):
    """Returns a function that estimates log p(x) once, and answers like a worker."""
    import tensorflow as tf

    from tf_resflow import bijectors

    density = bijectors.with_log_det_estimator(model.distribution, log_det_estimator)

    @tf.function(autograph=False)
    def log_prob(seed):
        return density.log_prob(tf.identity(x), bijector_kwargs={"seed": seed})

    rng = np.random.default_rng(0)

    def run():
        seed = tf.constant(rng.integers(2**31, size=2), tf.int32)
        start = time.perf_counter()
        values = log_prob(seed).numpy().tolist()
        return {"seconds": time.perf_counter() - start, "log_prob": values}

    return run


def _published(run, x):
    """Returns the same function for the published code, in its own process, with the weights of the run."""
    import einops

    from tf_resflow import bijectors, layers
    from tf_resflow.interop.published_variables import published_tensors

    flow = run.model.flow
    for layer in layers.norm_updates.lipschitz_layers(flow):
        layer.kernel.assign(layer.scaled_kernel())  # the effective kernels, so that both models are the same
    tensors = {}
    for tensor in published_tensors(flow):
        theirs, ours = tensor.axes.split("->")
        tensors[tensor.name] = einops.rearrange(np.asarray(tensor.variable), f"{ours}->{theirs}", **tensor.sizes)
    z = bijectors.forward_features(flow, x, compute_log_det=False).latent.numpy()
    z = np.moveaxis(z, -1, 1).reshape(len(z), -1)  # channels first
    options = {"threads": _THREADS.value, "keep_memory": True}
    worker = published_worker(_PUBLISHED_DIR.value, _PUBLISHED_PYTHON.value, **options)
    with tempfile.TemporaryDirectory() as folder:
        arrays = str(pathlib.Path(folder) / "arrays.npz")
        np.savez(arrays, x=x, z=z, **tensors)
        settings = {"arrays": arrays, "tensors": list(tensors), "model": run.config.model.to_dict()}
        worker.ask(f"prepare estimate {json.dumps(settings)}")
    return functools.partial(worker.ask, "run")


def _row(method, num_probes, rounds, scale):
    """Returns a row of the results, from the answers of all rounds."""
    draws = np.array([answer["log_prob"] for answer in rounds])
    seconds = np.median([answer["seconds"] for answer in rounds]) / draws.shape[1]
    error = np.sqrt(np.mean(np.var(draws, axis=0, ddof=1)))
    row = {"method": method, "probes": num_probes, "seconds": seconds, "mean": draws.mean() - scale, "error": error}
    return {key: value if isinstance(value, (str, int)) else float(value) for key, value in row.items()}


def _measure():
    """Returns the rows of the table."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    os.environ.update(dict.fromkeys(names, str(_THREADS.value)))  # before TensorFlow starts
    import tensorflow as tf

    import tf_resflow as resflow

    tf.get_logger().setLevel("ERROR")  # hides warnings, because each estimator is traced
    run = resflow.load(_WORKDIR.value)
    if _DATA_DIR.value:
        run.config.data.data_dir = _DATA_DIR.value
    dataset, num = resflow.data.load(run.config.data), _NUM_EXAMPLES.value
    model, images = run.model, next(iter(dataset.eval_batches(run.config.eval.split, num, num)))
    x = model.prepare(images, tf.constant([0, 0]))
    draw = {(_PUBLISHED, 1): _published(run, x)} if _PUBLISHED_DIR.value else {}
    draw |= {key: _ours(model, x, log_det) for key, log_det in _estimators(run).items()}
    rounds = [{key: function() for key, function in draw.items()} for _ in range(1 + _REPEATS.value)][1:]
    log_num_cells = model.data_space.num_dimensions * np.log(model.data_space.levels or 1)
    return [_row(*key, [answers[key] for answers in rounds], log_num_cells) for key in draw]


def _print(rows):
    print(f"{'method':34}{'probes':>7}{'seconds':>11}{'mean':>11}{'error':>11}{'x sqrt(s)':>11}{'speedup':>10}")
    first = rows[0]["error"] ** 2 * rows[0]["seconds"]
    for row in rows:
        square = row["error"] ** 2 * row["seconds"]
        speedup = first / square if square else np.inf
        cells = f"{row['seconds']:11.5f}{row['mean']:11.3f}{row['error']:11.5f}{square**0.5:11.5f}{speedup:10.1f}"
        print(f"{row['method']:34}{row['probes']:>7}{cells}")


def _draw(rows, name, path):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        points = [row for row in rows if row["method"] == method]
        seconds, errors = ([point[key] for point in points] for key in ("seconds", "error"))
        if method == _EXACT:
            axis.axvline(seconds[0], color="gray", linestyle=":", label=method)
            continue
        (line,) = axis.plot(seconds, errors, "o-", label=method)
        more = np.array([1.0, 100.0])  # averages of this many independent estimates
        axis.plot(seconds[0] * more, errors[0] / np.sqrt(more), "--", color=line.get_color(), linewidth=0.8)
    axis.set(xscale="log", yscale="log", title=name)
    axis.set(xlabel="seconds per image", ylabel="standard deviation of log p(x), nats")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        set_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(_):
    """Measures the estimators, prints and writes the table, and draws the figure."""
    output = pathlib.Path(_OUTPUT.value)
    if not output.absolute().parent.is_dir():
        sys.exit(f"Error: the directory of --output={output} does not exist. Create it first.")
    rows = _measure()
    _print(rows)
    output.write_text(json.dumps(rows, indent=2) + "\n")
    _draw(rows, pathlib.Path(_WORKDIR.value).name, output.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
