"""Scores posteriors of the parameters of raw series, and the time of draws of one posterior.

    python benchmarks/simulator_series.py --output=simulator_series.json

An estimator trains on one thread with its defaults, on 2,000 series of length 50. The scores are the mean
log-density of 500 other pairs, the processor seconds of the training, and the processor seconds of `posterior` and
10,000 draws for one observation: the first time after the fit, and the least of three more. The summary of series
was chosen on the first three simulators. The exact log-density of AR(2) is a sum over a grid. To compare commits,
set PYTHONPATH. Results are added to `--output`; existing results are not recomputed.
"""

import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
import tensorflow_probability as tfp
from absl import app, flags
from rows_file import add_rows, provenance
from scipy import special

import tf_resflow as resflow

tfd = tfp.distributions

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_PROBLEM = flags.DEFINE_multi_string("problem", None, "Simulator. By default, all.")
_SEED = flags.DEFINE_multi_integer("seed", [0], "Seed of the simulations and the trainings. Can be repeated.")

_NUM, _NEW, _LENGTH = 2000, 500, 50
_LOW, _HIGH = np.float32([-0.9, -0.9]), np.float32([0.9, 0.05])  # a box of AR(2), in the triangle of stationarity


def moving_average(num, rng):
    """x_t = e_t + a e_t-1 + b e_t-2."""
    theta = rng.uniform([-1.0, -0.8], [1.0, 0.8], size=[num, 2])
    noise = rng.normal(size=[num, _LENGTH + 2])
    return theta, noise[:, 2:] + theta[:, :1] * noise[:, 1:-1] + theta[:, 1:] * noise[:, :-2]


def ornstein_uhlenbeck(num, rng):
    """A stationary process at times 0.3 apart; the parameters are the log rate, the mean and the log deviation."""
    theta = rng.normal(size=[num, 3]) * [0.7, 0.7, 0.5]
    decay, scale = np.exp(-0.3 * np.exp(theta[:, 0])), np.exp(theta[:, 2])
    states = [scale * rng.normal(size=num)]
    for _ in range(_LENGTH - 1):
        states.append(decay * states[-1] + scale * np.sqrt(1 - decay**2) * rng.normal(size=num))
    return theta, np.stack(states, axis=1) + theta[:, 1:2]


def stochastic_volatility(num, rng):
    """x_t ~ N(0, exp(m + h_t)), h_t = 0.9 h_t-1 + s z_t; the parameters are m and log s."""
    theta = rng.normal(size=[num, 2]) * [0.7, 0.5] + [0.0, -1.0]
    state, x = np.zeros(num), []
    for _ in range(_LENGTH):
        state = 0.9 * state + np.exp(theta[:, 1]) * rng.normal(size=num)
        x.append(np.exp((theta[:, 0] + state) / 2) * rng.normal(size=num))
    return theta, np.stack(x, axis=1)


def autoregressive(num, rng):
    """x_t = a x_t-1 + b x_t-2 + e_t, after 200 steps."""
    theta = rng.uniform(_LOW, _HIGH, size=[num, 2])
    x = [np.zeros(num), np.zeros(num)]
    for _ in range(200 + _LENGTH):
        x.append(theta[:, 0] * x[-1] + theta[:, 1] * x[-2] + rng.normal(size=num))
    return theta, np.stack(x[-_LENGTH:], axis=1)


def _log_likelihood(a, b, x):
    """Returns the exact log-likelihood of AR(2), with the stationary distribution of the first two values."""
    variance = (1 - b) / ((1 + b) * ((1 - b) ** 2 - a**2))
    correlation = a / (1 - b)
    rest = (1 - correlation**2) * variance
    first = -0.5 * (x[0] ** 2 / variance + (x[1] - correlation * x[0]) ** 2 / rest + np.log(variance * rest))
    (aa, ab, bb), (ya, yb), yy = _products(x)
    return first - 0.5 * (yy - 2 * a * ya - 2 * b * yb + a**2 * aa + 2 * a * b * ab + b**2 * bb)


def _products(x):
    y, one, two = x[2:], x[1:-1], x[:-2]
    return (one @ one, one @ two, two @ two), (y @ one, y @ two), y @ y


def autoregressive_log_prob(theta, x):
    """Returns the exact mean log-density of the posterior."""
    lines = [low + (np.arange(600) + 0.5) / 600 * (high - low) for low, high in zip(_LOW, _HIGH, strict=True)]
    a, b = np.meshgrid(*lines)
    cell = np.log(np.prod((_HIGH - _LOW) / 600.0))
    found = []
    for (own_a, own_b), y in zip(theta, x, strict=True):
        evidence = special.logsumexp(_log_likelihood(a, b, y)) + cell
        found.append(_log_likelihood(own_a, own_b, y) - evidence)
    return np.mean(found)


PROBLEMS = {  # simulators and priors
    "moving_average": (moving_average, tfd.Uniform(np.float32([-1.0, -0.8]), np.float32([1.0, 0.8]))),
    "ornstein_uhlenbeck": (ornstein_uhlenbeck, tfd.Normal(np.zeros(3, "float32"), np.float32([0.7, 0.7, 0.5]))),
    "stochastic_volatility": (stochastic_volatility, tfd.Normal(np.float32([0.0, -1.0]), np.float32([0.7, 0.5]))),
    "autoregressive": (autoregressive, tfd.Uniform(_LOW, _HIGH)),
}


def run(seed, problem):
    """Returns the other fields of a row."""
    simulate, prior = PROBLEMS[problem]
    theta, x = simulate(_NUM, np.random.default_rng([seed, 0]))
    new_theta, new_x = simulate(_NEW, np.random.default_rng([seed, 1]))
    estimator = resflow.PosteriorEstimator(tfd.Independent(prior, 1), [_LENGTH], seed=seed)
    start = time.process_time()
    estimator.fit(np.float32(theta), x, verbose=0)
    row = {"seconds": time.process_time() - start}
    draw_seconds = []
    for draw_seed in range(4):
        start = time.process_time()
        estimator.posterior(new_x[0]).sample(10_000, seed=draw_seed).numpy()
        draw_seconds.append(time.process_time() - start)
    row |= {"first_draw_seconds": draw_seconds[0], "draw_seconds": min(draw_seconds[1:])}
    log_probs = estimator.posterior(new_x).log_prob(np.float32(new_theta)).numpy()
    row |= {"log_prob": log_probs.mean(), "standard_error": log_probs.std() / np.sqrt(_NEW)}
    if problem == "autoregressive":
        row["exact"] = autoregressive_log_prob(new_theta, new_x)
    return {key: round(float(value), 4) for key, value in row.items()} | provenance()


def main(_):
    """Computes the missing results."""
    cases = itertools.product(_SEED.value, _PROBLEM.value or PROBLEMS)
    add_rows(_OUTPUT.value, ("seed", "problem"), cases, run)


if __name__ == "__main__":
    app.run(main)
