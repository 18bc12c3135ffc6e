"""Times small flows beside TFP's RealNVP and MAF of the same depth and width, in one run, and scores them.

    python benchmarks/compare_small_flows.py --dimensions=2,10 --seconds=25 --output=small_flows.json

All flows are trained by maximum likelihood with Keras's Adam on batches of 256 vectors, in turns. The first table
has the seconds until the first step is done, including tracing and compilation, and the median milliseconds of a
step. A step of a residual flow includes the update of its operator norms. The second table has the mean
log-likelihood of 10,000 fresh samples of the moons after `--seconds` of training, not counting the first step, with
the learning rate that is best on a validation sample: mean and standard deviation over the seeds. Close other
programs first.
"""

import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags

import tf_resflow as resflow
from tf_resflow.models.step import train_step

tfb, tfd = tfp.bijectors, tfp.distributions

_DIMENSIONS = flags.DEFINE_list("dimensions", ["2", "6", "10", "20"], "Dimensions of the vectors.")
_DEPTH = flags.DEFINE_integer("depth", 6, "Residual blocks, coupling or autoregressive layers.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Units of each of two hidden layers.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 256, "Vectors in a batch.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 100, "Timed steps of each flow.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 25.0, "Training of each flow on the moons; 0 for none.", lower_bound=0.0)
_RATES = flags.DEFINE_list("learning_rates", ["0.003", "0.01", "0.03"], "Learning rates to choose from.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each flow on the moons.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the two tables.")
flags.register_validator(
    "dimensions", lambda sizes: all(s.isdigit() and int(s) > 1 for s in sizes), "integers >= 2"
)

_HELD_OUT = 10_000
_SLICE = 0.5  # seconds of training before the next flow has its turn


class Trained(NamedTuple):
    """A flow in training: its step and log-density as functions of a batch, and its optimizer."""

    step: Callable
    log_prob: Callable
    optimizer: keras.optimizers.Optimizer


def _residual(log_det_estimator):
    def build(x, learning_rate, seed):
        size, hidden = x.shape[1], (_WIDTH.value, _WIDTH.value)
        flow = resflow.flows.vector_flow(
            size,
            num_blocks=_DEPTH.value,
            hidden=hidden,
            coefficient=0.99,
            log_det_estimator=log_det_estimator,
            seed=seed,
        )
        model = resflow.FlowModel(flow, event_shape=[size])
        model.initialize(x)
        model.compile(optimizer=keras.optimizers.Adam(learning_rate))
        return Trained(
            lambda x, seed: train_step(model, x, seed)[model.objective],
            lambda x: model.log_prob(x, log_det_estimator=resflow.logdet.Exact()),
            model.optimizer,
        )

    return build


def _real_nvp(x, learning_rate, seed):
    """Coupling layers. Each layer changes half of the coordinates."""
    size = x.shape[1]
    kept = size // 2
    networks = [_network(kept, 2 * (size - kept), seed + i) for i in range(_DEPTH.value)]

    def layer(network):
        return tfb.RealNVP(kept, shift_and_log_scale_fn=lambda x, num: tf.split(network(x), 2, axis=-1))

    return _density(size, networks, layer, learning_rate)


def _maf(x, learning_rate, seed):
    """Autoregressive layers with the masks of MADE."""
    size = x.shape[1]
    networks = [_network(size, 2 * size, seed + i, masked=True) for i in range(_DEPTH.value)]

    def layer(network):
        return tfb.MaskedAutoregressiveFlow(lambda x: tf.split(network(x), 2, axis=-1))

    return _density(size, networks, layer, learning_rate)


def _density(size, networks, layer, learning_rate):
    """A standard normal transformed by one layer per network, with the coordinates reversed between layers."""
    reversal = list(range(size))[::-1]
    bijector = tfb.Chain([part for network in networks for part in (layer(network), tfb.Permute(reversal))])
    density = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(size)), bijector)
    weights = [weight for network in networks for weight in network.trainable_variables]
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(weights)

    def step(x, seed):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(tf.identity(x)))
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)
        return loss

    return Trained(step, density.log_prob, optimizer)


class _MaskedDense(keras.layers.Dense):
    """A dense layer whose output j depends only on inputs whose degree is at most the degree of j."""

    def __init__(self, before, after, **kwargs):
        super().__init__(len(after), **kwargs)
        self._mask = (before[:, np.newaxis] <= after).astype(np.float32)

    def call(self, inputs):
        return self.activation(tf.matmul(inputs, self.kernel * self._mask) + self.bias)


def _network(inputs, outputs, seed, masked=False):
    """Two hidden layers. If masked, the shift and log scale of a coordinate depend only on earlier coordinates."""
    sizes, activations = (inputs, _WIDTH.value, _WIDTH.value, outputs), ("relu", "relu", None)
    hidden = np.arange(_WIDTH.value) % max(1, inputs - 1)
    degrees = np.arange(inputs), hidden, hidden, np.tile(np.arange(inputs) - 1, 2)
    layers = []
    for i, activation in enumerate(activations):
        options = {"activation": activation, "kernel_initializer": keras.initializers.GlorotUniform(seed + 100 * i)}
        layers.append(
            _MaskedDense(degrees[i], degrees[i + 1], **options)
            if masked
            else keras.layers.Dense(sizes[i + 1], **options)
        )
    return keras.Sequential([keras.Input([inputs]), *layers])


FLOWS = {
    "residual": _residual(None),  # the estimator of `default_estimator`
    "residual, exact": _residual(resflow.logdet.Exact()),
    "residual, series": _residual(resflow.logdet.RussianRoulette()),
    "RealNVP": _real_nvp,
    "MAF": _maf,
}


def _first_call(build, x, learning_rate=1e-3, seed=0):
    """Returns the flow with its functions compiled, and the seconds until its first step was done."""
    flow = build(x, learning_rate, seed)
    flow = flow._replace(
        step=tf.function(flow.step, autograph=False), log_prob=tf.function(flow.log_prob, autograph=False)
    )
    start = time.perf_counter()
    flow.step(x[: _BATCH.value], tf.constant([0, 0])).numpy()
    return flow, time.perf_counter() - start


def _times():
    """Prints the first table, and returns its rows."""
    rows = []
    print(f"{'flow':<20}{'dimensions':>12}{'first step, s':>16}{'step, ms':>12}{'of RealNVP':>12}")
    for size in map(int, _DIMENSIONS.value):
        x = tf.random.stateless_normal([_BATCH.value, size], [0, 0])
        flows = {name: _first_call(build, x) for name, build in FLOWS.items()}
        times = {name: [] for name in FLOWS}
        for i in range(_STEPS.value):
            for name, (flow, _) in flows.items():
                start = time.perf_counter()
                flow.step(x, tf.constant([0, i])).numpy()
                times[name].append(time.perf_counter() - start)
        medians = {name: 1e3 * statistics.median(found) for name, found in times.items()}
        for name, (_, first) in flows.items():
            row = {"flow": name, "dimensions": size, "first_step_seconds": first, "step_ms": medians[name]}
            row["of_real_nvp"] = medians[name] / medians["RealNVP"]
            print("{:<20}{:>12}{:>16.1f}{:>12.2f}{:>12.1f}".format(*row.values()), flush=True)
            rows.append(row)
    return rows


def _moons(num, *seed):
    return tf.constant(resflow.data.DENSITIES["moons"].sample(num, seed), tf.float32)


def _train(flows, seed):
    """Trains flows for equal seconds each, in turns, and returns their numbers of steps.

    The learning rate of each falls to zero on half a cosine.
    """
    data, batch = _moons(2**20, 2, seed), _BATCH.value
    spent, done = [0.0] * len(flows), [0] * len(flows)
    rates = [float(flow.optimizer.learning_rate) for flow in flows]
    while min(spent) < _SECONDS.value:
        for i, flow in enumerate(flows):
            flow.optimizer.learning_rate = rates[i] * np.cos(np.pi / 2 * min(1.0, spent[i] / _SECONDS.value)) ** 2
            start, end = time.perf_counter(), min(_SLICE, _SECONDS.value - spent[i])
            while time.perf_counter() - start < end:
                first = done[i] * batch % (len(data) - batch)
                flow.step(data[first : first + batch], tf.constant([seed, done[i]])).numpy()
                done[i] += 1
            spent[i] += time.perf_counter() - start
    return done


def _scores():
    """Prints the second table, and returns its rows."""
    rows = []
    validation, held_out = _moons(_HELD_OUT, 3), _moons(_HELD_OUT, 1)
    found = {name: [] for name in FLOWS}
    cases = [(name, rate) for name in FLOWS for rate in _RATES.value]
    for seed in range(_SEEDS.value):
        flows = [_first_call(FLOWS[name], _moons(1000, 4, seed), float(rate), seed)[0] for name, rate in cases]
        done = _train(flows, seed)
        for name, results in found.items():
            own = [i for i, case in enumerate(cases) if case[0] == name]
            best = max(own, key=lambda i: _mean_log_prob(flows[i], validation))
            results.append((_mean_log_prob(flows[best], held_out), done[best], cases[best][1]))
    print(f"\n{'flow':<20}{'nats':>10}{'deviation':>12}{'steps':>10}  learning rates")
    for name, results in found.items():
        scores, steps, rates = zip(*results, strict=True)
        mean, deviation = np.mean(scores), np.std(scores, ddof=1) if len(scores) > 1 else np.nan
        print(f"{name:<20}{mean:>10.3f}{deviation:>12.3f}{np.median(steps):>10.0f}  {', '.join(rates)}")
        rows.append({"flow": name, "nats": mean, "deviation": deviation if len(scores) > 1 else None})
    print(f"{'the density itself':<20}{-resflow.data.DENSITIES['moons'].entropy():>10.3f}")
    return rows


def _mean_log_prob(flow, x):
    return float(tf.reduce_mean(flow.log_prob(x)))


def main(_):
    """Prints the tables, and writes them."""
    results = {"times": _times(), "scores": _scores() if _SECONDS.value else []}
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
