"""Times small flows beside TFP's RealNVP and MAF of the same depth and width, in one run, and scores them.

    python benchmarks/compare_small_flows.py --dimensions=2,10 --seconds=25

All are trained by maximum likelihood with Keras' Adam on batches of 256 vectors, in turns. The first table has the
seconds until the first step is done, traced and compiled, and the median milliseconds of a step, for residual flows
with the norms of their layers brought up to date. The second has the mean log-likelihood of 10,000 fresh samples of
the moons after `--seconds` of training beyond the first step, with the learning rate that is best on a validation
sample: mean and standard deviation over the seeds. Close other programs first.
"""

import os
import statistics
import time

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
_RATES = flags.DEFINE_list("learning_rates", ["0.001", "0.003", "0.01"], "Learning rates to choose from.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each flow on the moons.", lower_bound=1)
flags.register_validator(
    "dimensions", lambda sizes: all(s.isdigit() and int(s) > 1 for s in sizes), "integers >= 2"
)

_HELD_OUT = 10_000
_SLICE = 0.5  # seconds of training before the next flow has its turn


def _residual(log_det):
    def build(x, learning_rate, seed):
        size, hidden = x.shape[1], (_WIDTH.value, _WIDTH.value)
        flow = resflow.flows.vector_flow(
            size, num_blocks=_DEPTH.value, hidden=hidden, coefficient=0.97, log_det=log_det, seed=seed
        )
        model = resflow.FlowModel(flow, event_shape=[size])
        model.initialize(x)
        model.compile(optimizer=keras.optimizers.Adam(learning_rate))
        return (
            lambda x, seed: train_step(model, x, seed)[model.objective],
            lambda x: model.log_prob(x, log_det=resflow.logdet.Exact()),
        )

    return build


def _real_nvp(x, learning_rate, seed):
    """Coupling layers, which change a half of the coordinates."""
    size = x.shape[1]
    kept = size // 2
    networks = [_network(kept, 2 * (size - kept), seed + i) for i in range(_DEPTH.value)]

    def layer(network):
        return tfb.RealNVP(kept, shift_and_log_scale_fn=lambda x, num: tf.split(network(x), 2, axis=-1))

    return _density(size, networks, layer, learning_rate)


def _maf(x, learning_rate, seed):
    """Autoregressive layers, by the masks of MADE."""
    size = x.shape[1]
    networks = [_network(size, 2 * size, seed + i, masked=True) for i in range(_DEPTH.value)]

    def layer(network):
        return tfb.MaskedAutoregressiveFlow(lambda x: tf.split(network(x), 2, axis=-1))

    return _density(size, networks, layer, learning_rate)


def _density(size, networks, layer, learning_rate):
    """A normal distribution through layers with these networks, the coordinates reversed between them."""
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

    return step, density.log_prob


class _MaskedDense(keras.layers.Dense):
    """A dense layer whose output j depends on the inputs i of degrees below that of j, or equal to it."""

    def __init__(self, before, after, **kwargs):
        super().__init__(len(after), **kwargs)
        self._mask = (before[:, np.newaxis] <= after).astype(np.float32)

    def call(self, inputs):
        return self.activation(tf.matmul(inputs, self.kernel * self._mask) + self.bias)


def _network(inputs, outputs, seed, masked=False):
    """Two hidden layers; if masked, with pairs of outputs of which each depends on the inputs before it."""
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
    "residual, exact": _residual(resflow.logdet.Exact()),
    "residual, series": _residual(resflow.logdet.RussianRoulette()),
    "RealNVP": _real_nvp,
    "MAF": _maf,
}


def _first_call(build, x, learning_rate=1e-3, seed=0):
    """The compiled step, the seconds until it was done once, and the log-likelihood."""
    step, log_prob = build(x, learning_rate, seed)
    step = tf.function(step, autograph=False)
    start = time.perf_counter()
    step(x[: _BATCH.value], tf.constant([0, 0])).numpy()
    return step, time.perf_counter() - start, tf.function(log_prob, autograph=False)


def _times():
    """Prints the first table."""
    print(f"{'flow':<20}{'dimensions':>12}{'first step, s':>16}{'step, ms':>12}{'of RealNVP':>12}")
    for size in map(int, _DIMENSIONS.value):
        x = tf.random.stateless_normal([_BATCH.value, size], [0, 0])
        steps = {name: _first_call(build, x) for name, build in FLOWS.items()}
        times = {name: [] for name in FLOWS}
        for i in range(_STEPS.value):
            for name, (step, *_) in steps.items():
                start = time.perf_counter()
                step(x, tf.constant([0, i])).numpy()
                times[name].append(time.perf_counter() - start)
        medians = {name: 1e3 * statistics.median(found) for name, found in times.items()}
        for name, (_, first, _) in steps.items():
            ratio = medians[name] / medians["RealNVP"]
            print(f"{name:<20}{size:>12}{first:>16.1f}{medians[name]:>12.2f}{ratio:>12.1f}", flush=True)


def _moons(num, *seed):
    return tf.constant(resflow.data.sample("moons", num, seed), tf.float32)


def _train(steps, seed):
    """Trains each flow for equal seconds, in turns, on fresh samples; returns the numbers of steps."""
    spent, done = dict.fromkeys(steps, 0.0), dict.fromkeys(steps, 0)
    data = _moons(2**20, 2, seed)
    while min(spent.values()) < _SECONDS.value:
        for name, step in steps.items():
            start, end = time.perf_counter(), min(_SLICE, _SECONDS.value - spent[name])
            while time.perf_counter() - start < end:
                first = done[name] * _BATCH.value % (2**20 - _BATCH.value)
                step(data[first : first + _BATCH.value], tf.constant([seed, done[name]])).numpy()
                done[name] += 1
            spent[name] += time.perf_counter() - start
    return done


def _scores():
    """Prints the second table."""
    validation, held_out = _moons(_HELD_OUT, 3), _moons(_HELD_OUT, 1)
    found = {name: [] for name in FLOWS}
    for seed in range(_SEEDS.value):
        cases = [(name, float(rate)) for name in FLOWS for rate in _RATES.value]
        calls = {(name, rate): _first_call(FLOWS[name], _moons(1000, 4, seed), rate, seed) for name, rate in cases}
        done = _train({case: step for case, (step, *_) in calls.items()}, seed)
        for name in FLOWS:
            scored = [
                (float(tf.reduce_mean(log_prob(validation))), case)
                for case, (*_, log_prob) in calls.items()
                if case[0] == name
            ]
            case = max(scored)[1]
            score = float(tf.reduce_mean(calls[case][2](held_out)))
            found[name].append((score, case[1], done[case]))
    print(f"\n{'flow':<20}{'nats':>10}{'deviation':>12}{'steps':>10}  learning rates")
    for name, results in found.items():
        scores, rates, steps = zip(*results, strict=True)
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        mean, count = statistics.mean(scores), statistics.median(steps)
        print(f"{name:<20}{mean:>10.3f}{deviation:>12.3f}{count:>10.0f}  {', '.join(map(str, rates))}", flush=True)
    print(f"{'the density itself':<20}{-resflow.data.entropy('moons'):>10.3f}")


def main(_):
    """Prints the tables."""
    _times()
    if _SECONDS.value:
        _scores()


if __name__ == "__main__":
    app.run(main)
