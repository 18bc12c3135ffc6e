"""Times small flows beside TFP's RealNVP of the same depth and width, in one run.

    python benchmarks/compare_small_flows.py --dimensions=2,10

All are trained by maximum likelihood with Keras' Adam on batches of 256 normal vectors, in turns. The table has the
seconds until the first step is done, traced and compiled, and the median milliseconds of a step, for residual flows
with the norms of their layers brought up to date. Close other programs first.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags

import tf_resflow as resflow
from tf_resflow.models.step import train_step

tfb, tfd = tfp.bijectors, tfp.distributions

_DIMENSIONS = flags.DEFINE_list("dimensions", ["2", "6", "10", "20"], "Dimensions of the vectors.")
_DEPTH = flags.DEFINE_integer("depth", 6, "Residual blocks or coupling layers.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Units of each of two hidden layers.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 256, "Vectors in a batch.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 100, "Timed steps of each flow.", lower_bound=1)
flags.register_validator(
    "dimensions", lambda sizes: all(s.isdigit() and int(s) > 1 for s in sizes), "integers >= 2"
)


def _residual(log_det):
    def build(size, x):
        hidden = (_WIDTH.value, _WIDTH.value)
        flow = resflow.flows.vector_flow(size, num_blocks=_DEPTH.value, hidden=hidden, log_det=log_det)
        model = resflow.FlowModel(flow, event_shape=[size])
        model.initialize(x)
        model.compile(optimizer="adam")
        return lambda x, seed: train_step(model, x, seed)[model.objective]

    return build


def _real_nvp(size, x):
    """Coupling layers with the coordinates reversed between them."""
    kept, reversal = size // 2, list(range(size))[::-1]
    networks = [_network(kept, 2 * (size - kept)) for _ in range(_DEPTH.value)]
    bijectors = []
    for network in networks:
        split = lambda x, num, network=network: tf.split(network(x), 2, axis=-1)  # noqa: E731
        bijectors += [tfb.RealNVP(kept, shift_and_log_scale_fn=split), tfb.Permute(reversal)]
    density = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(size)), tfb.Chain(bijectors))
    weights = [weight for network in networks for weight in network.trainable_variables]
    optimizer = keras.optimizers.Adam()
    optimizer.build(weights)

    def step(x, seed):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(tf.identity(x)))
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)
        return loss

    return step


def _network(inputs, outputs):
    hidden = [keras.layers.Dense(_WIDTH.value, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input([inputs]), *hidden, keras.layers.Dense(outputs)])


FLOWS = {
    "residual, exact": _residual(resflow.logdet.Exact()),
    "residual, series": _residual(resflow.logdet.RussianRoulette()),
    "RealNVP": _real_nvp,
}


def _first_call(build, size, x):
    """The compiled step, and the seconds until it was done once."""
    step = tf.function(build(size, x), autograph=False)
    start = time.perf_counter()
    step(x, tf.constant([0, 0])).numpy()
    return step, time.perf_counter() - start


def main(_):
    """Prints the table."""
    print(f"{'flow':<20}{'dimensions':>12}{'first step, s':>16}{'step, ms':>12}{'of RealNVP':>12}")
    for size in map(int, _DIMENSIONS.value):
        x = tf.random.stateless_normal([_BATCH.value, size], [0, 0])
        steps = {name: _first_call(build, size, x) for name, build in FLOWS.items()}
        times = {name: [] for name in FLOWS}
        for i in range(_STEPS.value):
            for name, (step, _) in steps.items():
                start = time.perf_counter()
                step(x, tf.constant([0, i])).numpy()
                times[name].append(time.perf_counter() - start)
        medians = {name: 1e3 * statistics.median(found) for name, found in times.items()}
        for name, (_, first) in steps.items():
            ratio = medians[name] / medians["RealNVP"]
            print(f"{name:<20}{size:>12}{first:>16.1f}{medians[name]:>12.2f}{ratio:>12.1f}", flush=True)


if __name__ == "__main__":
    app.run(main)
