"""Times small flows beside TFP's RealNVP and MAF of the same depth and width, in one run.

    python benchmarks/compare_small_flows.py --dimensions=2,10 --output=small_flows.json

All flows are trained by maximum likelihood with Keras's Adam on batches of 256 vectors, in turns. The table has the
seconds until the first step is done, including tracing and compilation, and the median milliseconds of a step. A
step of a residual flow includes the update of its operator norms. Close other programs first.
"""

import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import peers
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags

import tf_resflow as resflow
from tf_resflow.models.step import train_step

tfd = tfp.distributions

_DIMENSIONS = flags.DEFINE_list("dimensions", ["2", "6", "10", "20"], "Dimensions of the vectors.")
_DEPTH = flags.DEFINE_integer("depth", 6, "Residual blocks, coupling or autoregressive layers.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Units of each of two hidden layers.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 256, "Vectors in a batch.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 100, "Timed steps of each flow.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")
flags.register_validator(
    "dimensions", lambda sizes: all(s.isdigit() and int(s) > 1 for s in sizes), "integers >= 2"
)


def _residual(log_det_estimator):
    def build(x):
        options = {"num_blocks": _DEPTH.value, "hidden": (_WIDTH.value, _WIDTH.value), "coefficient": 0.99}
        flow = resflow.flows.vector_flow(x.shape[1], log_det_estimator=log_det_estimator, **options)
        model = resflow.FlowModel(flow, event_shape=[x.shape[1]])
        model.initialize(x)
        model.compile(optimizer=keras.optimizers.Adam(1e-3))
        return lambda x, seed: train_step(model, x, seed)[model.objective]

    return build


def _peer(make):
    def build(x):
        size = x.shape[1]
        bijector, weights = make(size, _DEPTH.value, _WIDTH.value)
        density = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(size)), bijector)
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(weights)

        def step(x, seed):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(density.log_prob(tf.identity(x)))
            optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        return step

    return build


FLOWS = {  # functions of a batch that return a training step, a function of a batch and a seed
    "residual": _residual(None),  # the estimator of `default_estimator`
    "residual, exact": _residual(resflow.logdet.Exact()),
    "residual, series": _residual(resflow.logdet.RussianRoulette()),
    "RealNVP": _peer(peers.real_nvp),
    "MAF": _peer(peers.autoregressive),
}


def _seconds(step, x, i):
    start = time.perf_counter()
    step(x, tf.constant([0, i])).numpy()
    return time.perf_counter() - start


def main(_):
    """Prints the table, and writes it."""
    rows = []
    print(f"{'flow':<20}{'dimensions':>12}{'first step, s':>16}{'step, ms':>12}{'of RealNVP':>12}")
    for size in map(int, _DIMENSIONS.value):
        x = tf.random.stateless_normal([_BATCH.value, size], [0, 0])
        steps = {name: tf.function(build(x), autograph=False) for name, build in FLOWS.items()}
        first = {name: _seconds(step, x, 0) for name, step in steps.items()}
        rounds = [{name: _seconds(step, x, i) for name, step in steps.items()} for i in range(_STEPS.value)]
        medians = {name: 1e3 * statistics.median(times[name] for times in rounds) for name in FLOWS}
        for name, median in medians.items():
            row = {"flow": name, "dimensions": size, "first_step_seconds": first[name], "step_ms": median}
            row["of_real_nvp"] = median / medians["RealNVP"]
            print("{:<20}{:>12}{:>16.1f}{:>12.2f}{:>12.1f}".format(*row.values()), flush=True)
            rows.append(row)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps({"times": rows}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
