"""The comparison of flows at a tiny size, and its targets against their ground truths."""

import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_resflow import evaluation

PATH = pathlib.Path(__file__).parents[2] / "benchmarks/inference_targets.py"
SPECIFICATION = importlib.util.spec_from_file_location("inference_targets", PATH)
targets = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(targets)

CERTAIN = 6e-5  # the probability beyond 4 standard errors


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_results(call, tmp_path):
    """Variational inference and a simulator; a second call computes only what is new."""
    output = tmp_path / "results.json"
    small = ["--seconds=0.05", "--seeds=1", "--learning_rates=0.01", "--samples=20", "--parameters=100"]
    arguments = ["benchmarks/inference.py", f"--output={output}", *small, "--flow=real_nvp", "--task=banana"]
    first = call(*arguments)
    second = call(*arguments, "--task=two_moons")
    assert first.code == second.code == 0, first.output + second.output
    rows = json.loads(output.read_text())
    known = [("banana", "real_nvp"), ("two_moons", "real_nvp")]
    assert [(row["task"], row["flow"]) for row in rows] == known
    assert all(np.isfinite(row["score"]) and row["steps"] > 0 for row in rows)
    assert rows[0]["score"] < 4 * rows[0]["stderr"]  # the log evidence is 0
    lines = [line for line in second.output.splitlines() if line.startswith("| banana")]
    assert len(lines) == 7 and f"{rows[0]['score']:.3f}" in lines[0]


@pytest.mark.parametrize("name", ["banana", "funnel", "gaussian", "eight_schools"])
def test_samples_are_of_the_density(name):
    """Stein's identity, E[d log p / dx_j] = 0 and E[x_i d log p / dx_j] = -(i = j), with 40,000 samples."""
    density = targets.DENSITIES[name]()
    x = tf.constant(density.sample(40_000, np.random.default_rng(0)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = density.log_prob(x)
    gradient = tape.gradient(log_prob, x).numpy().astype(np.float64)
    products = x.numpy()[:, :, np.newaxis] * gradient[:, np.newaxis]
    for values, expected in ((gradient, 0.0), (products, -np.eye(density.size))):
        error = values.std(axis=0) / math.sqrt(len(values))
        assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * error)


def test_densities_are_normalized():
    """The mean of log p over 40,000 samples is minus the entropy, which is known."""
    normal = 0.5 * math.log(2 * math.pi * math.e)
    entropies = {"banana": 2 * normal + math.log(10), "funnel": 10 * normal + math.log(3)}
    for name, entropy in entropies.items():
        density = targets.DENSITIES[name]()
        log_prob = density.log_prob(tf.constant(density.sample(40_000, np.random.default_rng(0)), tf.float32))
        assert abs(np.mean(log_prob) + entropy) < 4 * np.std(log_prob) / 200
        assert density.log_evidence == 0


def test_evidence_of_eight_schools():
    """E[q / p] = 1 / evidence over samples of p, for a Gaussian q that is narrower; 40,000 samples."""
    density = targets.eight_schools()
    x = density.sample(40_000, np.random.default_rng(0))
    q = stats.multivariate_normal(x.mean(axis=0), np.cov(x.T) / 3)
    weights = np.exp(q.logpdf(x) - density.log_prob(tf.constant(x, tf.float32)) + density.log_evidence)
    assert abs(weights.mean() - 1) < 4 * weights.std() / 200
    assert weights.std() < 10


def test_density_of_item_response():
    """At 5 points, from SciPy's distributions."""
    x = np.random.default_rng(0).normal(size=[5, 21]).astype(np.float32)
    probability = 1 / (1 + np.exp(-(x[:, :1, None] + x[:, 1:13, None] - x[:, None, 13:])))
    expected = stats.bernoulli.logpmf(targets.simulated_answers(), probability).sum(axis=(1, 2))
    expected += stats.norm.logpdf(x[:, 0], 0.75) + stats.norm.logpdf(x[:, 1:]).sum(axis=1)
    assert targets.item_response().log_prob(x).numpy() == pytest.approx(expected, rel=1e-5)


def test_density_of_stochastic_volatility():
    """At 5 points, from SciPy's distributions, centered, and the determinants of the changes of variables."""
    x = np.random.default_rng(0).normal(size=[5, 23])
    expected = []
    for logit, mu, log_s, *z in x:
        share, s = 1 / (1 + np.exp(-logit)), np.exp(log_s)
        phi = 2 * share - 1
        h = [s * z[0] / np.sqrt(1 - phi**2)]
        for noise in z[1:]:
            h.append(phi * h[-1] + s * noise)
        total = stats.beta.logpdf(share, 20, 1.5) + np.log(share * (1 - share))
        total += stats.cauchy.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(s, 0, 2) + log_s
        total += stats.norm.logpdf(h[0], 0, s / np.sqrt(1 - phi**2)) + np.log(s / np.sqrt(1 - phi**2))
        total += np.sum(stats.norm.logpdf(h[1:], phi * np.array(h[:-1]), s) + log_s)
        total += np.sum(stats.norm.logpdf(targets.simulated_returns(), 0, np.exp((mu + np.array(h)) / 2)))
        expected.append(total)
    found = targets.stochastic_volatility().log_prob(tf.constant(x, tf.float32)).numpy()
    assert found == pytest.approx(np.array(expected), rel=1e-4)


def test_density_of_hierarchical_regression():
    """At 5 points, from SciPy's distributions."""
    x = np.random.default_rng(0).normal(size=[5, 11])
    covariates, responses = targets.simulated_groups()
    expected = stats.norm.logpdf(x).sum(axis=1)
    for i, (mu, log_tau, slope, *z) in enumerate(x):
        logits = mu + np.exp(log_tau) * np.array(z)[:, np.newaxis] + slope * covariates
        expected[i] += stats.bernoulli.logpmf(responses, 1 / (1 + np.exp(-logits))).sum()
    found = targets.hierarchical_regression().log_prob(tf.constant(x, tf.float32)).numpy()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name, num", [("gaussian", 500), ("two_moons", 500), ("slcp", 30)])
def test_posteriors_are_calibrated(name, num):
    """Ranks of the parameters of `num` simulations among 19 samples of the posterior are uniform."""
    prior, simulate, posterior = {
        "gaussian": (targets.gaussian_prior, targets.simulate_gaussian_linear, targets.gaussian_linear_posterior),
        "two_moons": (targets.two_moons_prior, targets.simulate_two_moons, targets.two_moons_posterior),
        "slcp": (targets.slcp_prior, targets.simulate_slcp, targets.slcp_posterior),
    }[name]
    generator = np.random.default_rng(0)
    parameters = prior(num, generator)
    samples = [posterior(x, 19, generator) for x in simulate(parameters, generator)]
    ranks = evaluation.calibration_ranks(np.stack(samples, axis=1), parameters)
    for column in ranks.T:
        assert stats.chisquare(np.histogram(column, 4, (0, 20))[0]).pvalue > CERTAIN / ranks.shape[1]


def test_likelihood_of_two_moons_and_slcp_simulations():
    """Means and covariances of 50,000 simulations of one parameter."""
    generator = np.random.default_rng(0)
    parameters = np.array([1.0, -0.5, 1.2, -1.1, 0.4])
    x = targets.simulate_slcp(np.tile(parameters, [50_000, 1]), generator).reshape(-1, 4, 2)
    a, b, rho = 1.2**2, 1.1**2, math.tanh(0.4)
    covariance = np.array([[a**2, rho * a * b], [rho * a * b, b**2]])
    for point in (0, 3):
        assert np.allclose(x[:, point].mean(axis=0), [1.0, -0.5], atol=4 * a / math.sqrt(50_000))
        assert np.allclose(np.cov(x[:, point].T), covariance, atol=4 * 1.5 * a**2 / math.sqrt(50_000))
    moons = targets.simulate_two_moons(np.tile([0.3, 0.5], [50_000, 1]), generator)
    centered = moons - [0.25 - 0.8 / math.sqrt(2), 0.2 / math.sqrt(2)]
    radius = np.hypot(*centered.T)
    assert abs(radius.mean() - 0.1) < 4 * 0.01 / math.sqrt(50_000)
    assert centered[:, 0].min() > -0.001
