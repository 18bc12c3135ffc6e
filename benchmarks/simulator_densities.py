"""Compares posteriors of four simulators with `sbi`, by held-out log-densities and coverage.

    pip install torch sbi
    python benchmarks/simulator_densities.py --output=simulator_densities.json

Each method trains once on one thread with its defaults. The scores are the mean log-density of 500 other pairs, the
share of their parameters in the regions of 50 and 90 % with the highest density, and the processor seconds of the
training, which include compilation. The exact log-density is known for three of the simulators. Results are added
to `--output`; existing results are not recomputed. No setting was chosen on these simulators.
"""

import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import torch
from absl import app, flags
from rows_file import add_rows, provenance
from sbi.inference import NPE
from scipy import special, stats

import tf_resflow as resflow

tfd = tfp.distributions

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_NUM = flags.DEFINE_multi_integer("num", [2000, 5000], "Number of simulations. Can be repeated.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the simulations and the trainings.")

_NEW, _DRAWS = 500, 200  # new pairs, and draws of each posterior for the coverage
_RICKER = np.array([[3.8, -1.0, 2.3], [0.4, 0.5, 0.2]])  # mean and standard deviation of the parameters


def survival(num, rng):
    """20 Weibull lifetimes, censored at random times; the parameters are the logarithms of shape and scale."""
    theta = 0.5 * rng.normal(size=[num, 2])
    life = np.exp(theta[:, 1:]) * rng.weibull(np.exp(theta[:, :1]), size=[num, 20])
    end = rng.uniform(0.5, 2.0, size=life.shape)
    order = np.argsort(np.minimum(life, end), axis=1)
    parts = np.minimum(life, end), (life < end).astype(float)
    return theta, np.concatenate([np.take_along_axis(part, order, axis=1) for part in parts], axis=1)


def survival_log_likelihood(theta, x):
    """Returns the logarithm of the density of deaths times the probability to survive the others."""
    shape, scale = np.exp(theta[..., :1]), np.exp(theta[..., 1:])
    t, died = np.split(x, 2, axis=-1)
    return np.sum(died * np.log(shape / scale * (t / scale) ** (shape - 1)) - (t / scale) ** shape, axis=-1)


def mixture(num, rng):
    """20 numbers, each with one of two means with the same prior, in order. Their labels are exchangeable."""
    theta = 2.0 * rng.normal(size=[num, 2])
    chosen = np.take_along_axis(theta, rng.integers(2, size=[num, 20]), axis=1)
    return theta, np.sort(chosen + rng.normal(size=chosen.shape), axis=1)


def mixture_log_likelihood(theta, x):
    """Returns the log-likelihood of the means."""
    parts = [stats.norm.logpdf(x, theta[..., i : i + 1]) for i in (0, 1)]
    return np.sum(np.logaddexp(*parts) - np.log(2), axis=-1)


def ricker(num, rng):
    """50 counts of a population N_t+1 = r N_t exp(-N_t + e_t), log(1 + y); the parameters are logarithms."""
    theta = _RICKER[0] + _RICKER[1] * rng.normal(size=[num, 3])
    rate, sigma, scale = np.exp(theta).T
    size, counts = np.ones(num), []
    for _ in range(100):
        size = rate * size * np.exp(-size + sigma * rng.normal(size=num))
        counts.append(rng.poisson(scale * size))
    return theta, np.log1p(np.stack(counts[50:], axis=1))


def hierarchical(num, rng):
    """Six groups with means N(m, s^2), observed with the error 1/2; the parameters are m, log s and the means."""
    mean, log_scale = rng.normal(size=[num, 1]), 0.5 * rng.normal(size=[num, 1])
    groups = mean + np.exp(log_scale) * rng.normal(size=[num, 6])
    return np.concatenate([mean, log_scale, groups], axis=1), groups + 0.5 * rng.normal(size=groups.shape)


def hierarchical_log_prob(theta, x):
    """Returns the exact log-density of the posterior. The evidence is a Gauss-Hermite sum over log s."""
    log_prob, (mean, log_scale, groups) = stats.norm.logpdf, np.split(theta, [1, 2], axis=1)
    joint = log_prob(groups, mean, np.exp(log_scale)) + log_prob(x, groups, 0.5)
    joint = np.sum(joint, axis=1) + (log_prob(mean) + log_prob(log_scale, scale=0.5))[:, 0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    variance, num = np.exp(nodes) + 0.25, x.shape[1]  # s^2 = exp(2 log s), with log s = nodes / 2
    center, square = x.mean(axis=1)[:, np.newaxis], num * x.var(axis=1)[:, np.newaxis]
    evidence = -0.5 * ((num - 1) * np.log(2 * np.pi * variance) + square / variance + np.log(num))
    evidence += log_prob(center, scale=np.sqrt(1 + variance / num))
    return joint - special.logsumexp(evidence, b=weights / weights.sum(), axis=1)


def on_grid(log_likelihood, scale):
    """Returns the exact log-density for two parameters with normal priors, whose evidence is a sum over a grid."""

    def log_prior(theta):
        return np.sum(stats.norm.logpdf(theta, scale=scale), axis=-1)

    def log_prob(theta, x):
        line = np.linspace(-5 * scale, 5 * scale, 301)
        grid = np.stack(np.meshgrid(line, line), axis=-1)
        prior, cell = log_prior(grid), 2 * np.log(line[1] - line[0])
        evidence = [special.logsumexp(log_likelihood(grid, each) + prior) + cell for each in x]
        return log_likelihood(theta, x) + log_prior(theta) - np.array(evidence)

    return log_prob


PROBLEMS = {  # simulators, means and standard deviations of normal priors, exact log-densities
    "survival": (survival, np.array([[0.0] * 2, [0.5] * 2]), on_grid(survival_log_likelihood, 0.5)),
    "ricker": (ricker, _RICKER, None),
    "hierarchical": (hierarchical, None, hierarchical_log_prob),
    "mixture": (mixture, np.array([[0.0] * 2, [2.0] * 2]), on_grid(mixture_log_likelihood, 2.0)),
}


def hierarchical_prior():
    """Returns the prior of `hierarchical`."""
    parts = {"mean": tfd.Normal(0.0, 1.0), "log_scale": tfd.Normal(0.0, 0.5)}
    parts["groups"] = _groups
    return tfd.JointDistributionNamed(parts)


def _groups(mean, log_scale):
    return tfd.Sample(tfd.Normal(mean, tf.exp(log_scale)), 6)


def tf_resflow(problem, theta, x, new, seed):
    """Returns the log-densities of new pairs, those of draws `[draws, num]`, and the seconds of the training."""
    moments = PROBLEMS[problem][1]
    if moments is None:
        prior, theta, new = hierarchical_prior(), _named(theta), (_named(new[0]), new[1])
    else:
        prior = tfd.MultivariateNormalDiag(*moments.astype(np.float32))
    start = time.process_time()
    estimator = resflow.PosteriorEstimator(prior, x.shape[1:], seed=seed)
    estimator.fit(theta, x, verbose=0)
    seconds = time.process_time() - start
    posterior = estimator.posterior(new[1])
    drawn = posterior.log_prob(posterior.sample(_DRAWS, seed=seed))
    return posterior.log_prob(new[0]).numpy(), drawn.numpy(), seconds


def _named(theta):
    return {"mean": theta[:, 0], "log_scale": theta[:, 1], "groups": theta[:, 2:]}


def sbi(problem, theta, x, new, seed, kind):
    """Does the same with `sbi`."""
    torch.manual_seed(seed)
    start = time.process_time()
    trainer = NPE(density_estimator=kind, show_progress_bars=False)
    estimator = trainer.append_simulations(*map(torch.as_tensor, (theta, x))).train()
    seconds, given = time.process_time() - start, torch.as_tensor(new[1])
    with torch.no_grad():
        draws = estimator.sample((_DRAWS,), condition=given)
        drawn = estimator.log_prob(draws, condition=given)
        return estimator.log_prob(torch.as_tensor(new[0])[None], condition=given)[0].numpy(), drawn.numpy(), seconds


METHODS = {
    "tf_resflow": tf_resflow,
    "sbi_nsf": lambda *arguments: sbi(*arguments, "nsf"),
    "sbi_maf": lambda *arguments: sbi(*arguments, "maf"),
}


def run(seed, num, problem, method):
    """Returns the other fields of a row."""
    simulate, _, exact = PROBLEMS[problem]
    rngs = map(np.random.default_rng, ([seed, num], [seed, 0]))
    (theta, x), new = (
        tuple(np.float32(part) for part in simulate(n, rng)) for n, rng in zip((num, _NEW), rngs, strict=True)
    )
    log_probs, drawn, seconds = METHODS[method](problem, theta, x, new, seed)
    share = np.mean(drawn > log_probs, axis=0)  # of the draws with a higher density
    row = {"log_prob": log_probs.mean(), "standard_error": log_probs.std() / np.sqrt(_NEW)}
    row["exact"] = np.nan if exact is None else exact(*map(np.float64, new)).mean()
    row |= {f"coverage_{level}": np.mean(share < level / 100) for level in (50, 90)} | {"seconds": seconds}
    return {key: None if np.isnan(value) else round(float(value), 4) for key, value in row.items()} | provenance()


def main(_):
    """Computes the missing results."""
    torch.set_num_threads(1)
    cases = itertools.product([_SEED.value], _NUM.value, PROBLEMS, METHODS)
    add_rows(_OUTPUT.value, ("seed", "num", "problem", "method"), cases, run)


if __name__ == "__main__":
    app.run(main)
