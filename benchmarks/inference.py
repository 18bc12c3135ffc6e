"""Compares flows in variational inference, in simulation-based inference and on tables, at equal processor time.

    python benchmarks/inference.py --output=inference.json --seconds=5 --data_dir=DIR

All flows have about the same number of parameters. After its first step, each flow trains for `--seconds` of
processor time on one thread, with Adam and a learning rate that decays to zero. The learning rate is the one of
`--learning_rates` with the best ELBO or validation score in another training of the same length. Steps are graphs,
without XLA. Results are added to `--output`; existing results are not recomputed. `--data_dir` is the directory of
a TFDS data set "bsds32" of images [32, 32, 3]; without it, patches are left out.

- Densities: variational inference with 64 samples per step, path derivatives (except for FFJORD), and a trainable
  triangular map after each flow. The score is the ELBO in nats.
- Simulators: the density of parameters given observations, from 100,000 simulations. The score is the mean
  log-density of held-out parameters in nats. All flows use the same network, which computes 16 features of the
  observation.
- Tables and patches: density estimation. The score is the mean held-out log-likelihood in nats, with the weights
  that were best on the validation split. For these and for simulators, flows are trained on whitened data.

C2ST is the accuracy of a classifier that distinguishes samples from samples of the ground truth; 0.5 is best.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags
from inference_flows import FLOWS, Network
from inference_targets import DENSITIES, SIMULATORS, TABLES, patches
from rows_file import read_rows, write_rows
from two_samples import c2st

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions

_TASKS = [*DENSITIES, *SIMULATORS, *TABLES, "patches"]
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Processor seconds of a training.", lower_bound=0.01)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of scored trainings.", lower_bound=1)
_RATES = flags.DEFINE_list("learning_rates", ["0.003", "0.01"], "Learning rates to choose from.")
_ONLY = flags.DEFINE_multi_enum("task", _TASKS, _TASKS, "Task. Can be repeated.")
_FLOWS = flags.DEFINE_multi_enum("flow", list(FLOWS), list(FLOWS), "Flow. Can be repeated.")
_PARAMETERS = flags.DEFINE_integer(
    "parameters", None, "Number of parameters of a flow. By default, 400 per coordinate and at least 4,000."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS directory.")
_SAMPLES = flags.DEFINE_integer("samples", 500, "Number of samples for each C2ST, or 0 for no C2ST.", lower_bound=0)

_DRAWS, _ROWS = 64, 256  # samples per step of variational inference; rows per step on data
_HELD_OUT = 10_000  # samples for an ELBO and for moments
_CHUNK = 1000  # samples or rows that are evaluated at once
_CHECKS, _CHECKED = 20, 1000  # checks on the validation split per training, and rows per check
_FEATURES = 16
_MOST_NORM = 100.0  # gradients with a larger norm are clipped
_TUNING_SEED = 1000
_TABLES = {  # by key: title, and 1 if higher is better, -1 if lower is better
    "score": ("nats", 1),
    "c2st": ("C2ST", -1),
    "mean_error": ("error of the means", -1),
    "deviation_error": ("error of the log standard deviations", -1),
    "steps": ("steps", 0),
    "parameters": ("parameters", 0),
    "first_step": ("seconds to the first step", 0),
}


class Model(tf.Module):
    """A flow from latent vectors to data, an affine map after it, and a network for the condition."""

    def __init__(self, candidate, shift, scale_tril, features=None):
        super().__init__()
        self.candidate, self._features = candidate, features
        self._affine = tfb.Chain([tfb.Shift(shift), tfb.ScaleMatvecTriL(scale_tril)])
        self._base = tfd.MultivariateNormalDiag(tf.zeros_like(shift))

    def sample(self, z, seed, condition=None, exact=False, networks=None):
        """Returns the data of latent vectors, and their log-densities. A training step passes its `networks`."""
        bijector, arguments = self._flow(condition, seed, exact, networks)
        z = tf.identity(z)
        x = bijector.forward(z, **arguments)
        log_det = bijector.forward_log_det_jacobian(z, 1, **arguments)
        log_det += self._affine.forward_log_det_jacobian(x, 1)
        return self._affine.forward(x), self._base.log_prob(z) - log_det

    def log_prob(self, x, seed, condition=None, exact=False, networks=None):
        """Returns the log-densities of data."""
        bijector, arguments = self._flow(condition, seed, exact, networks)
        y = tf.identity(self._affine.inverse(x))
        z = bijector.inverse(y, **arguments)
        log_det = bijector.inverse_log_det_jacobian(y, 1, **arguments)
        return self._base.log_prob(z) + log_det + self._affine.inverse_log_det_jacobian(x, 1)

    def path_derivative(self):
        """Returns a distribution whose log-densities of samples have path derivatives."""
        bijector = resflow.bijectors.Flow([self.candidate.bijector, self._affine])
        return resflow.vi.with_path_derivative(tfd.TransformedDistribution(self._base, bijector))

    def initialize(self, x, condition=None):
        """Initializes the variables of the flow that depend on data."""
        features = None if condition is None else self._features(condition)
        self.candidate.initialize(self._affine.inverse(x), features)

    def _flow(self, condition, seed, exact, networks):
        features = None if condition is None else self._features(condition)
        bijector = self.candidate.exact if exact else self.candidate.bijector
        return bijector, self.candidate.arguments(features, seed, networks)


class Adam(tf.Module):
    """Kingma and Ba's optimizer on one vector of all parameters, which needs few operations.

    Gradients that are not finite count as zero.
    """

    def __init__(self, parameters):
        super().__init__()
        self._parameters = lambda: parameters
        self._sizes = [parameter.shape.num_elements() for parameter in parameters]
        self._mean, self._square = (tf.Variable(tf.zeros(sum(self._sizes))) for _ in range(2))
        self._step = tf.Variable(0.0)

    def apply(self, gradients, rate):
        """Takes a step."""
        gradient = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
        norm = tf.norm(gradient)
        gradient = tf.where(tf.math.is_finite(norm), gradient / tf.maximum(1.0, norm / _MOST_NORM), 0.0)
        step = self._step.assign_add(1.0)
        mean = self._mean.assign(0.9 * self._mean + 0.1 * gradient)
        square = self._square.assign(0.999 * self._square + 0.001 * gradient**2)
        change = rate * mean / (1 - 0.9**step) / (tf.sqrt(square / (1 - 0.999**step)) + 1e-7)
        for parameter, part in zip(self._parameters(), tf.split(change, self._sizes), strict=True):
            parameter.assign_sub(tf.reshape(part, parameter.shape))


class Experiment:
    """A flow for a task, built and compiled once. Each training starts from the weights of its seed."""

    def __init__(self, build):
        self._build = build
        self.model = self._new_model(0)
        self._variables = self.model.trainable_variables
        self._adam = Adam(self._variables)
        self._step = tf.function(self._take_step, autograph=False)

    def compile(self):
        """Takes a first step, and returns its processor time."""
        self._reset(0)
        start = time.process_time()
        self._step(tf.constant([0, 0]), tf.constant(0.0)).numpy()
        spent = time.process_time() - start
        self.check()  # compiles the check, too
        return spent

    def train(self, seed, learning_rate):
        """Trains from new weights, restores the weights of the best check, and returns the number of steps."""
        self._reset(seed)
        budget, steps, checks, best, kept = _SECONDS.value, 0, 0, -np.inf, None
        start = time.process_time()
        while (spent := (time.process_time() - start) / budget) < 1:
            rate = learning_rate * np.cos(np.pi / 2 * spent) ** 2
            self._step(tf.constant([seed, steps]), tf.constant(rate, tf.float32)).numpy()
            steps += 1
            if spent * _CHECKS >= checks + 1:
                checks = int(spent * _CHECKS)
                if (score := self.check()) > best:
                    best, kept = score, [variable.numpy() for variable in self.model.variables]
        if kept is not None:
            _assign(self.model.variables, kept)
        return steps

    def check(self):
        """Returns a score on the validation split, or NaN if there is none."""
        return np.nan

    def _reset(self, seed):
        fresh = self._new_model(seed)
        self._initialize(fresh)
        _assign(self.model.variables, fresh.variables)
        _assign(self._adam.variables, map(tf.zeros_like, self._adam.variables))

    def _initialize(self, model):
        """Initializes the variables of the flow that depend on data. A density has no data."""

    def _take_step(self, seed, rate):
        with tf.GradientTape() as tape:
            networks = resflow.bijectors.Networks(self.model.candidate.bijector, training=True)
            loss = self._loss(seed, networks)
        gradients = tape.gradient(loss, self._variables)
        self._adam.apply(gradients, rate)
        self.model.candidate.update()
        return loss


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class Variational(Experiment):
    """Fits a flow, followed by a triangular map, to an unnormalized density."""

    def __init__(self, density, build):
        self._density = density
        self._truth = density.sample(_HELD_OUT, np.random.default_rng(1))
        super().__init__(build)
        self._view = self.model.path_derivative()
        self._evaluate = tf.function(self._terms, autograph=False)

    def _new_model(self, seed):
        size = self._density.size
        candidate = self._build(size, _num_parameters(size), samples=True, condition_size=None, seed=seed)
        triangle = tfp.util.TransformedVariable(tf.eye(size), tfb.FillScaleTriL(tfb.Exp(), diag_shift=None))
        return Model(candidate, tf.Variable(tf.zeros(size)), triangle)

    def _terms(self, seed, num=_CHUNK, exact=True, networks=None):
        """Returns samples and the terms of the ELBO."""
        z = tf.random.stateless_normal([num, self._density.size], seed)
        x, log_prob = self.model.sample(z, seed, exact=exact, networks=networks)
        return x, self._density.log_prob(x) - log_prob

    def _loss(self, seed, networks):
        """Returns the negative ELBO, with the path derivative if the flow supports it."""
        if not self.model.candidate.has_path_derivative:
            return -tf.reduce_mean(self._terms(seed, _DRAWS, exact=False, networks=networks)[1])
        bound = {"networks": networks}
        x, log_prob = self._view.experimental_sample_and_log_prob(_DRAWS, seed=seed, bijector_kwargs=bound)
        return tf.reduce_mean(log_prob - self._density.log_prob(x))

    def scores(self, seed):
        """Returns the ELBO, errors of moments in units of the true standard deviation, and C2ST."""
        parts = [self._evaluate(tf.constant([seed + 1, -i])) for i in range(1, 1 + _HELD_OUT // _CHUNK)]
        x, terms = (np.concatenate(values) for values in zip(*parts, strict=True))
        deviation = self._truth.std(axis=0)
        found = _mean_and_stderr(terms)
        found["mean_error"] = _root_mean_square((x.mean(axis=0) - self._truth.mean(axis=0)) / deviation)
        found["deviation_error"] = _root_mean_square(np.log(x.std(axis=0) / deviation))
        found["c2st"] = _c2st([(x, self._truth)])
        return found

    def tuning_score(self):
        """Returns the ELBO."""
        return _mean_and_stderr(np.concatenate([self._evaluate(tf.constant([0, -i]))[1] for i in (1, 2)]))["score"]


class Estimation(Experiment):
    """Fits a flow, followed by the triangular map of the training split's moments, to data."""

    def __init__(self, data, build):
        self._data = data
        x, condition = data.train
        self._size = x.shape[1]
        self._moments = x.mean(axis=0), np.linalg.cholesky(np.cov(x.T, bias=True)).astype(np.float32)
        self._condition_moments = None if condition is None else (condition.mean(axis=0), condition.std(axis=0))
        self._rows = [None if part is None else tf.Variable(part) for part in self._standardized(data.train)]
        super().__init__(build)
        self._log_prob = tf.function(
            lambda x, condition, exact: self.model.log_prob(x, tf.constant([0, 0]), condition, exact=exact),
            autograph=False,
        )
        self._best = -np.inf

    def _standardized(self, part):
        x, condition = part
        if condition is None:
            return x, None
        mean, deviation = self._condition_moments
        return x, ((condition - mean) / deviation).astype(np.float32)

    def _new_model(self, seed):
        condition = self._rows[1]
        features = None if condition is None else Network([condition.shape[1], 64, 64, _FEATURES], seed, scale=1.0)
        candidate = self._build(
            self._size,
            _num_parameters(self._size),
            samples=False,
            condition_size=None if condition is None else _FEATURES,
            seed=seed,
        )
        return Model(candidate, *map(tf.constant, self._moments), features)

    def _initialize(self, model):
        model.initialize(*(None if part is None else part[:_CHUNK] for part in self._rows))

    def _loss(self, seed, networks):
        i = tf.random.stateless_uniform([_ROWS], seed, 0, self._rows[0].shape[0], tf.int32)
        x, condition = (None if part is None else tf.gather(part, i) for part in self._rows)
        return -tf.reduce_mean(self.model.log_prob(x, seed, condition, networks=networks))

    def _log_probs(self, part, exact):
        x, condition = self._standardized(part)
        chunks = range(0, len(x), _CHUNK)
        return np.concatenate(
            [
                self._log_prob(x[i : i + _CHUNK], None if condition is None else condition[i : i + _CHUNK], exact)
                for i in chunks
            ]
        )

    def check(self):
        """Returns the mean log-density of the first validation rows, with the estimator of the training."""
        first = [None if part is None else part[:_CHECKED] for part in self._data.validation]
        return np.nan_to_num(self._log_probs(first, exact=False).mean(), nan=-np.inf)

    tuning_score = check

    def scores(self, seed):
        """Returns the mean log-density of the test split, and the mean C2ST of the posteriors."""
        found = _mean_and_stderr(self._log_probs(self._data.test, exact=True))
        if self._data.posteriors:
            found["c2st"] = _c2st(
                [(self._samples(x, len(truth), seed), truth) for x, truth in self._data.posteriors]
            )
        return found

    def _samples(self, observation, num, seed):
        _, condition = self._standardized((None, np.repeat(observation[np.newaxis], num, axis=0)))
        z = tf.random.stateless_normal([num, self._size], [seed, -1])
        sample = tf.function(self.model.sample, autograph=False)
        return sample(z, tf.constant([0, 0]), tf.constant(condition))[0].numpy()


def _num_parameters(size):
    return _PARAMETERS.value or 400 * max(10, size)


def _mean_and_stderr(values):
    return {"score": float(np.mean(values)), "stderr": float(np.std(values, ddof=1) / np.sqrt(len(values)))}


def _root_mean_square(values):
    return float(np.sqrt(np.mean(values**2)))


def _c2st(pairs):
    """Returns the mean over pairs of samples and truth; NaN with --samples=0, or if a sample is not finite."""
    num = _SAMPLES.value
    if not num or not all(np.isfinite(x).all() for x, _ in pairs):
        return np.nan
    scores = []
    for x, truth in pairs:
        hidden = (10 * x.shape[1],) * 2  # as in sbibm
        scores.append(c2st(np.float64(x[:num]), np.float64(truth[:num]), hidden, num_folds=5))
    return float(np.mean(scores))


def _problem(task):
    """Returns the `Density` or `Data` of a task."""
    return patches(_DATA_DIR.value) if task == "patches" else {**DENSITIES, **SIMULATORS, **TABLES}[task]()


def _run(task, flow, problem):
    """Yields the results of a flow on a task, one per seed."""
    experiment = (Variational if task in DENSITIES else Estimation)(problem, FLOWS[flow])
    first_step = experiment.compile()
    rates = [float(rate) for rate in _RATES.value]
    found = []
    for rate in rates if len(rates) > 1 else []:
        experiment.train(_TUNING_SEED, rate)
        found.append(np.nan_to_num(experiment.tuning_score(), nan=-np.inf))
    rate = rates[int(np.argmax(found))] if found else rates[0]
    size = sum(variable.shape.num_elements() for variable in experiment.model.trainable_variables)
    for seed in range(_SEEDS.value):
        row = {"task": task, "flow": flow, "seed": seed, "learning_rate": rate, "parameters": size}
        row |= {"seconds": _SECONDS.value, "first_step": first_step, "steps": experiment.train(seed, rate)}
        yield row | experiment.scores(seed)


def main(_):
    """Computes the missing results, and prints the tables."""
    rows = read_rows(_OUTPUT.value)
    done = {(row["task"], row["flow"]) for row in rows}
    tasks = [task for task in _TASKS if task in _ONLY.value and (task != "patches" or _DATA_DIR.value)]
    for task in tasks:
        missing = [flow for flow in FLOWS if flow in _FLOWS.value and (task, flow) not in done]
        problem = _problem(task) if missing else None
        for flow in missing:
            rows += _run(task, flow, problem)
            write_rows(_OUTPUT.value, rows)
            print(task, flow, [f"{row['score']:.3f}" for row in rows[-_SEEDS.value :]], flush=True)
    print_tables(rows)


def print_tables(rows):
    """Prints Markdown tables of means over seeds and their standard errors, with a line per task.

    The best flow is bold, and so are flows within two standard errors of the difference from it.
    """
    tasks, names = (
        [name for name in known if any(name in row.values() for row in rows)] for known in (_TASKS, FLOWS)
    )
    for key, (title, sign) in _TABLES.items():
        print(f"\n| {title} | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
        for task in tasks:
            cells = {name: _over_seeds(rows, task, name, key) for name in names}
            if any(np.isfinite(mean) for mean, _ in cells.values()):
                print(f"| {task} | {' | '.join(_marked(cells, sign))} |")


def _over_seeds(rows, task, flow, key):
    """Returns the mean over seeds and its standard error; NaN without results."""
    values = np.array([row.get(key, np.nan) for row in rows if row["task"] == task and row["flow"] == flow])
    if not np.isfinite(values).all() or len(values) < 2:
        return np.mean(values) if len(values) else np.nan, 0.0
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def _marked(cells, sign):
    """Yields the text of each cell, in bold for the best flows; with a sign of 0, none is bold."""
    best, error = max((cell for cell in cells.values() if np.isfinite(cell[0])), key=lambda cell: sign * cell[0])
    for mean, own in cells.values():
        text = f"{mean:,.3f} ± {own:.3f}" if sign else f"{mean:,.0f}"
        is_best = sign and sign * (best - mean) <= 2 * np.hypot(error, own)
        yield "-" if np.isnan(mean) else f"**{text}**" if is_best else text


if __name__ == "__main__":
    app.run(main)
