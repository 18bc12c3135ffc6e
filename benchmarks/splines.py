"""Compares residual, affine, spline and mixed flows at equal training time, by held-out log-densities.

    python benchmarks/splines.py --output=splines.json

The tasks are 2-D densities, tables of scikit-learn in standardized columns, and the posterior of two moons as a
conditional flow. After its first step, each flow trains for `--seconds` of processor time on one thread, or half of
it for a table, on batches of up to 256 rows. Adam's learning rate decays to zero with the share of time spent. The
weights with the best of 20 log-densities of validation rows are kept; these evaluations are not counted. The score
is the mean log-density of test rows in nats, with exact log-determinants. A seed also chooses the rows of a task.

The learning rate of a flow is the one of `--learning_rates` with the best mean log-density of validation rows of
two other tasks, the density `2spirals` and ten principal components of the table `digits`. Nothing else was tuned:
all networks have the default three layers of 64 units, and the numbers of layers were chosen once, before any run.
Results are added to `--output`; existing results are not recomputed.
"""

import functools
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import keras
import numpy as np
import pandas
import tensorflow as tf
from absl import app, flags
from rows_file import add_rows, provenance
from sklearn import datasets, decomposition

import tf_resflow as resflow

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_SECONDS = flags.DEFINE_float("seconds", 15.0, "Processor seconds of a training.", lower_bound=0.01)
_SEEDS = flags.DEFINE_integer("seeds", 2, "Number of scored trainings.", lower_bound=1)
_RATES = flags.DEFINE_list("learning_rates", ["0.001", "0.003"], "Learning rates to choose from.")

_BATCH, _NUM_EVALUATIONS, _TUNING_SEED = 256, 20, 1000
SPLINE = {"affine": resflow.bijectors.SplineCoupling}
FLOWS = {  # arguments of `vector_flow`
    "residual": {},
    "affine": {"num_blocks": 0, "affine_layers": (6, 0)},
    "spline": {"num_blocks": 0, "affine_layers": (6, 0)} | SPLINE,
    "mixed": {"num_blocks": 4, "affine_layers": (4, 0)} | SPLINE,
}
TABLES = {
    "iris": lambda: datasets.load_iris().data,
    "wine": lambda: datasets.load_wine().data,
    "breast cancer": lambda: datasets.load_breast_cancer().data,
    "diabetes": lambda: datasets.load_diabetes().data,
    "digits": lambda: decomposition.PCA(10, random_state=0).fit_transform(datasets.load_digits().data),
}
TASKS = ("pinwheel", "checkerboard", "rings", "iris", "wine", "breast cancer", "diabetes", "two moons")
_TUNING_TASKS = ("2spirals", "digits")
_TASKS = flags.DEFINE_multi_enum("task", TASKS, TASKS, "Task. Can be repeated.")
_FLOWS = flags.DEFINE_multi_enum("flow", list(FLOWS), list(FLOWS), "Flow. Can be repeated.")


def _two_moons(num, rng):
    """Parameters and observations of the benchmark sbibm (Lueckmann et al., 2021), `[num, 4]`."""
    theta, angle = rng.uniform(-1, 1, size=[num, 2]), rng.uniform(-np.pi / 2, np.pi / 2, size=num)
    radius, (first, second) = rng.normal(0.1, 0.01, size=num), theta.T
    x = radius * np.cos(angle) + 0.25 - abs(first + second) / np.sqrt(2)
    return np.stack([first, second, x, radius * np.sin(angle) + (second - first) / np.sqrt(2)], axis=1)


def _rows(task, seed):
    """Returns training, validation and test rows. The last two columns of `two moons` are the condition."""
    rng = np.random.default_rng(seed)
    if task in TABLES:
        rows = rng.permutation(TABLES[task]())
        sizes = [int(share * len(rows)) for share in (0.6, 0.8)]
    else:
        num, sizes = 60_000, [54_000, 55_000]
        rows = _two_moons(num, rng) if task == "two moons" else resflow.data.DENSITIES[task].sample(num, seed)
    if task in TABLES:
        rows = (rows - rows[: sizes[0]].mean(axis=0)) / rows[: sizes[0]].std(axis=0)
    return np.split(rows.astype(np.float32), sizes)


def _trained(task, flow, seed, rate):
    """Returns the best mean log-density of validation rows, the log-densities of test rows, and the steps."""
    keras.backend.clear_session()
    train, validation, test = _rows(task, seed)
    is_pair, rng = task == "two moons", np.random.default_rng(seed)
    size, condition_size = (2, 2) if is_pair else (train.shape[1], None)
    network = resflow.flows.vector_flow(size, condition_size=condition_size, seed=seed, **FLOWS[flow])
    model = resflow.FlowModel(network, [size], condition_shape=[2] if is_pair else None)
    model.initialize(train[:2000, :size], condition=train[:2000, 2:] if is_pair else None)
    model.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=10.0))
    step = tf.function(functools.partial(resflow.models.train_step, model), autograph=False)

    @tf.function(input_signature=[tf.TensorSpec([None, train.shape[1]])], autograph=False)
    def log_prob(rows):
        condition = rows[:, size:] if is_pair else None
        return model.log_prob(rows[:, :size], condition=condition, log_det_estimator=resflow.logdet.Exact())

    def take():
        rows = train[rng.integers(len(train), size=min(_BATCH, len(train)))]
        return (rows[:, :2], rows[:, 2:]) if is_pair else rows

    step(take(), tf.constant([seed, 0]))
    seconds = _SECONDS.value / (2 if task in TABLES else 1)
    best, weights, steps, spent = -np.inf, model.get_weights(), 1, 0.0
    for i in range(1, 1 + _NUM_EVALUATIONS):
        start = time.process_time() - spent
        while (spent := time.process_time() - start) < seconds * i / _NUM_EVALUATIONS:
            model.optimizer.learning_rate = rate * np.cos(np.pi / 2 * min(1.0, spent / seconds)) ** 2
            step(take(), tf.constant([seed, steps]))
            steps += 1
        if (score := float(np.mean(log_prob(validation)))) > best:
            best, weights = score, model.get_weights()
    model.set_weights(weights)
    return best, np.concatenate([log_prob(part) for part in np.array_split(test, 1 + len(test) // 1000)]), steps


@functools.cache
def _best_rate(flow):
    """Returns the learning rate with the best mean log-density of validation rows of the tuning tasks."""
    rates = [float(rate) for rate in _RATES.value]
    if len(rates) == 1:
        return rates[0]
    found = [sum(_trained(task, flow, _TUNING_SEED, rate)[0] for task in _TUNING_TASKS) for rate in rates]
    print(flow, dict(zip(rates, found, strict=True)), flush=True)
    return rates[int(np.argmax(found))]


def _result(seed, task, flow):
    rate = _best_rate(flow)
    _, values, steps = _trained(task, flow, seed, rate)
    row = {"score": float(np.mean(values)), "standard_error": float(np.std(values, ddof=1) / np.sqrt(len(values)))}
    return row | {"learning_rate": rate, "seconds": _SECONDS.value, "steps": steps} | provenance()


def main(_):
    """Computes the missing results, and prints means over seeds."""
    cases = itertools.product(range(_SEEDS.value), _TASKS.value, _FLOWS.value)
    rows = pandas.DataFrame(add_rows(_OUTPUT.value, ("seed", "task", "flow"), cases, _result))
    print(rows.pivot_table("score", "task", "flow", sort=False).round(3).to_string())


if __name__ == "__main__":
    app.run(main)
