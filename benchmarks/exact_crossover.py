"""Measures the event size at which an exact log-determinant becomes much more expensive than an estimate.

    python benchmarks/exact_crossover.py --output=benchmarks/results/exact_crossover.json

Each row of the JSON file compares `tf_resflow.logdet.Exact` with the estimator that
`tf_resflow.logdet.default_estimator` returns for large events, at one event size:

- "training": a training step of a `FlowModel` of a vector flow, on 256 rows;
- "evaluation": `FlowModel.log_prob(evaluation=True)` of the same flow, on 256 rows, and of an image flow, on 16;
- "inference": a step of `tfp.vi.fit_surrogate_posterior` with 16 draws, compiled by XLA.

The two sides take turns on one thread. "ratio" is the processor time of Exact divided by the processor time of the
estimator, as the median over the quieter half of the pairs. "others" is the largest fraction of the machine that
other programs used during these pairs. All settings except the number of blocks have their defaults.

For training, "variance" is the variance of the estimate's gradient over batches of 256 rows, divided by that of
Exact, after 600 steps on vectors of sines of normal variables. At equal variance of the mean gradient, Exact is the
cheaper choice if "ratio" is below "variance".
"""

import os
import time

THREADS = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", **THREADS})

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags
from rows_file import provenance, read_rows, write_rows

import tf_resflow as resflow
from tf_resflow.models import train_step
from tf_resflow.models.step import loss_and_gradients

_OUTPUT = flags.DEFINE_string("output", None, "JSON file, to which missing rows are added.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["2", "4", "6", "8", "10", "16", "32", "64"], "Event sizes of vectors.")
_SIDES = flags.DEFINE_list("sides", ["2", "4", "8"], "Heights and widths of images with one channel.")
_NUM_BLOCKS = flags.DEFINE_integer("num_blocks", 4, "Number of residual blocks in a flow.", lower_bound=1)
_PAIRS = flags.DEFINE_integer("pairs", 12, "Number of pairs of timings. The quieter half is used.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 600, "Training steps before variances are measured.", lower_bound=0)
_SECONDS = flags.DEFINE_float("seconds", 0.2, "Processor seconds of each side of a pair.", lower_bound=0.0)

_ESTIMATES = {  # that Exact is compared with
    "training": resflow.logdet.default_estimator(1000, "training"),
    "evaluation": resflow.logdet.AdaptiveRoulette(per_example=True),
    "inference": resflow.logdet.default_estimator(1000, "inference"),
}


def _model(shape, log_det_estimator):
    """Returns a compiled `FlowModel` with this estimator in evaluation and, for vectors, in training."""
    if len(shape) == 3:
        flow = resflow.flows.image_flow(shape, (_NUM_BLOCKS.value,), num_fc_blocks=0)
        model = resflow.FlowModel(flow, shape, evaluation_log_det_estimator=log_det_estimator, levels=256)
    else:
        flow = resflow.flows.vector_flow(
            shape, _NUM_BLOCKS.value, coefficient=0.9, log_det_estimator=log_det_estimator
        )
        model = resflow.FlowModel(flow, shape, evaluation_log_det_estimator=log_det_estimator)
    model.compile(keras.optimizers.AdamW(1e-4))
    return model


def _data(shape):
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(16, *shape)) if len(shape) == 3 else rng.normal(size=(256, *shape)).astype("f")


def _training(shape, log_det_estimator):
    model, x = _model(shape, log_det_estimator), tf.constant(_data(shape))
    model.initialize(x)
    return tf.function(lambda seed: train_step(model, x, seed)[model.objective], autograph=False)


def _evaluation(shape, log_det_estimator):
    model, x = _model(shape, log_det_estimator), tf.constant(_data(shape))
    model.initialize(x)
    return tf.function(lambda seed: model.log_prob(x, seed, evaluation=True), autograph=False)


def _inference(shape, log_det_estimator):
    surrogate = resflow.vi.flow_surrogate_posterior(
        shape, num_blocks=_NUM_BLOCKS.value, log_det_estimator=log_det_estimator
    )
    optimizer, variables = keras.optimizers.Adam(1e-4), surrogate.trainable_variables
    optimizer.build(variables)

    def target(x):
        return -0.5 * tf.reduce_sum(x**2, axis=-1)

    def step(seed):
        with tf.GradientTape() as tape:
            loss = tfp.vi.monte_carlo_variational_loss(target, surrogate, sample_size=16, seed=seed)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return tf.function(step, autograph=False, jit_compile=True)


def _busy():
    """Returns the processor seconds that all programs have used since the machine started."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _timed(step, num):
    start = time.process_time()
    for i in range(num):
        step(tf.constant([0, i]))
    return (time.process_time() - start) / num


def _compared(make, shape, estimate):
    """Returns the median ratio and the median times of both sides, and the fraction that other programs used."""
    steps = [make(shape, log_det) for log_det in (resflow.logdet.Exact(), estimate)]
    for step in steps:
        _timed(step, 3)
    nums = [max(3, round(_SECONDS.value / _timed(step, 3))) for step in steps]
    pairs = []
    for _ in range(_PAIRS.value):
        busy, own, start = _busy(), time.process_time(), time.perf_counter()
        exact, other = (_timed(step, num) for step, num in zip(steps, nums, strict=True))
        others = _busy() - busy - (time.process_time() - own)
        pairs.append((max(0.0, others / (time.perf_counter() - start) / os.cpu_count()), exact, other))
    quiet = np.array(sorted(pairs)[: -(-len(pairs) // 2)])
    return {
        "ratio": round(float(np.median(quiet[:, 1] / quiet[:, 2])), 3),
        "exact_ms": round(1e3 * float(np.median(quiet[:, 1])), 3),
        "estimate_ms": round(1e3 * float(np.median(quiet[:, 2])), 3),
        "others": round(float(quiet[-1, 0]), 3),
    }


def _gradient_variance(size, estimate):
    """Returns the ratio of the variances of gradients of the estimate and of Exact, over 60 batches."""
    rng = np.random.default_rng(size)
    z = rng.normal(size=(20_000, size))
    x = z @ rng.normal(size=(size, size)) / size**0.5 + np.sin(2 * z[:, ::-1])
    x = ((x - x.mean(0)) / x.std(0)).astype("f")
    flow = resflow.flows.vector_flow(size, _NUM_BLOCKS.value, seed=0)
    flows = [resflow.bijectors.with_log_det_estimator(flow, e) for e in (resflow.logdet.Exact(), estimate)]
    models = [resflow.FlowModel(one, [size]) for one in flows]
    models[0].initialize(x[:1000])
    models[0].compile(keras.optimizers.AdamW(3e-3, global_clipnorm=1.0), steps_per_execution=20)
    batches = tf.data.Dataset.from_tensor_slices(x).repeat().shuffle(20_000, seed=0).batch(256)
    models[0].fit(batches, steps_per_epoch=_STEPS.value, verbose=0)
    gradients = []
    for model in models:
        gradient = tf.function(lambda x, seed, m=model: loss_and_gradients(m, x, seed)[1], autograph=False)
        parts = [gradient(batch, tf.constant([0, i])) for i, batch in enumerate(batches.take(60))]
        gradients.append([np.concatenate([np.ravel(part) for part in whole]) for whole in parts])
    exact, estimated = (np.var(part, axis=0, ddof=1).sum() for part in gradients)
    return round(float(estimated / exact), 3)


def main(_):
    """Adds the missing rows to the file."""
    about = provenance()
    vectors = [(int(size),) for size in _SIZES.value]
    images = [(int(side), int(side), 1) for side in _SIDES.value]
    makers = {"training": _training, "evaluation": _evaluation, "inference": _inference}
    cases = [(purpose, make, shape) for shape in vectors for purpose, make in makers.items()]
    cases += [("evaluation", _evaluation, shape) for shape in images]
    rows = read_rows(_OUTPUT.value)
    for purpose, make, shape in cases:
        case = {"purpose": purpose, "flow": "image" if len(shape) == 3 else "vector", "size": int(np.prod(shape))}
        if any(case.items() <= row.items() for row in rows):
            continue
        row = {**case, **_compared(make, shape, _ESTIMATES[purpose]), "blocks": _NUM_BLOCKS.value, **about}
        if purpose == "training":
            row["variance"] = _gradient_variance(shape[0], _ESTIMATES[purpose])
        print(row, flush=True)
        rows.append(row)
        write_rows(_OUTPUT.value, rows)
        keras.backend.clear_session()


if __name__ == "__main__":
    app.run(main)
