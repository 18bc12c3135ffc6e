"""The tasks of `inference.py`: densities to approximate, simulators to invert, and tables to model.

Densities and simulators are implemented from their papers and need no download. Each has a ground truth: exact
samples or, for the last three densities, samples of Hamiltonian Monte Carlo.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Density(NamedTuple):
    """An unnormalized density on all of R^size.

    Attributes:
      size: number of coordinates.
      log_prob: TensorFlow function of `[batch, size]`.
      sample: function of a number and a NumPy generator that returns samples `[num, size]`.
      log_evidence: logarithm of the integral of the density, if known. No ELBO is larger.
    """

    size: int
    log_prob: Callable
    sample: Callable
    log_evidence: float | None = None


class Data(NamedTuple):
    """Examples of a density p(x) or p(parameters | observation).

    Attributes:
      train: pair of rows `[rows, size]` and conditions `[rows, condition_size]` or None.
      validation: the same for choosing the learning rate and the step to keep.
      test: the same for the score.
      posteriors: pairs of an observation `[condition_size]` and samples `[num, size]` of its posterior.
    """

    train: tuple
    validation: tuple
    test: tuple
    posteriors: Sequence = ()


# Densities


def banana() -> Density:
    """x0 ~ N(0, 10^2), x1 ~ N(0.03 (x0^2 - 100), 1) (Haario et al., 1999)."""

    def log_prob(x):
        first = tfd.Normal(0.0, 10.0).log_prob(x[:, 0])
        return first + tfd.Normal(0.03 * (x[:, 0] ** 2 - 100), 1.0).log_prob(x[:, 1])

    def sample(num, generator):
        x, noise = generator.normal(size=[2, num])
        return np.stack([10 * x, 3 * (x**2 - 1) + noise], axis=1)

    return Density(2, log_prob, sample, 0.0)


def funnel() -> Density:
    """x0 ~ N(0, 3^2), nine x_i ~ N(0, exp(x0)) (Neal, "Slice sampling", 2003)."""

    def log_prob(x):
        first = x[:, :1]
        rest = tfd.Normal(0.0, tf.exp(first / 2)).log_prob(x[:, 1:])
        return tfd.Normal(0.0, 3.0).log_prob(x[:, 0]) + tf.reduce_sum(rest, axis=1)

    def sample(num, generator):
        x = generator.normal(size=[num, 10])
        first = 3 * x[:, :1]
        return np.concatenate([first, np.exp(first / 2) * x[:, 1:]], axis=1)

    return Density(10, log_prob, sample, 0.0)


def gaussian() -> Density:
    """A randomly rotated Gaussian in 10 dimensions, with precisions from Gamma(1/2)."""
    generator = np.random.default_rng(10)
    rotation = np.linalg.qr(generator.normal(size=[10, 10]))[0]
    scale = rotation / np.sqrt(np.sort(generator.gamma(0.5, size=10)))  # x = scale z
    density = tfd.MultivariateNormalTriL(scale_tril=tf.constant(np.linalg.cholesky(scale @ scale.T), tf.float32))

    def sample(num, generator):
        return generator.normal(size=[num, 10]) @ scale.T

    return Density(10, density.log_prob, sample, 0.0)


_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> Density:
    """The effects of coaching in eight schools (Rubin, 1981), in the noncentered parametrization.

    mu ~ N(0, 10^2), log tau ~ N(5, 1), z_i ~ N(0, 1), y_i ~ N(mu + tau z_i, s_i^2). Given tau, the other variables
    are Gaussian, so the evidence and the samples are computed on a grid over log tau.
    """

    def log_prob(x):
        mu, log_tau, z = x[:, :1], x[:, 1:2], x[:, 2:]
        prior = tfd.Normal(0.0, 10.0).log_prob(mu) + tfd.Normal(5.0, 1.0).log_prob(log_tau)
        y = tfd.Normal(mu + tf.exp(log_tau) * z, tf.constant(_ERRORS, x.dtype))
        terms = tfd.Normal(0.0, 1.0).log_prob(z) + y.log_prob(tf.constant(_EFFECTS, x.dtype))
        return prior[:, 0] + tf.reduce_sum(terms, axis=1)

    grid = np.linspace(-4, 12, 4001)
    variance = _ERRORS**2 + np.exp(2 * grid)[:, np.newaxis]  # of y_i given mu
    precision = 1 / 100 + np.sum(1 / variance, axis=1)  # of mu given y
    mean = np.sum(_EFFECTS / variance, axis=1) / precision
    log_likelihood = -0.5 * np.sum(np.log(2 * np.pi * variance) + _EFFECTS**2 / variance, axis=1)
    log_likelihood += 0.5 * precision * mean**2 - 0.5 * np.log(100 * precision)
    log_weights = log_likelihood - 0.5 * (grid - 5) ** 2 - 0.5 * np.log(2 * np.pi)
    log_weights += np.log(grid[1] - grid[0])
    log_evidence = float(np.logaddexp.reduce(log_weights))

    def sample(num, generator):
        i = generator.choice(len(grid), size=num, p=np.exp(log_weights - log_evidence))
        log_tau = grid[i] + (grid[1] - grid[0]) * generator.uniform(-0.5, 0.5, size=num)
        mu = mean[i] + generator.normal(size=num) / np.sqrt(precision[i])
        tau = np.exp(log_tau)[:, np.newaxis]
        z_precision = 1 + tau**2 / _ERRORS**2
        z_mean = tau * (_EFFECTS - mu[:, np.newaxis]) / _ERRORS**2 / z_precision
        z = z_mean + generator.normal(size=[num, 8]) / np.sqrt(z_precision)
        return np.concatenate([mu[:, np.newaxis], log_tau[:, np.newaxis], z], axis=1)

    return Density(10, log_prob, sample, log_evidence)


def item_response() -> Density:
    """The abilities of 12 students and the difficulties of 8 questions, given all answers (Rasch, 1960).

    mean ~ N(3/4, 1), a_i ~ N(0, 1), b_j ~ N(0, 1), P(answer ij is right) = sigmoid(mean + a_i - b_j).
    """
    answers = simulated_answers()

    def log_prob(x):
        logits = x[:, :1, tf.newaxis] + x[:, 1:13, tf.newaxis] - x[:, tf.newaxis, 13:]
        likelihood = tf.reduce_sum(tfd.Bernoulli(logits=logits).log_prob(answers), axis=[1, 2])
        return likelihood + tf.reduce_sum(tfd.Normal([0.75] + 20 * [0.0], 1.0).log_prob(x), axis=1)

    return Density(21, log_prob, _hamiltonian_samples(log_prob, 21))


def simulated_answers() -> np.ndarray:
    """Returns 1 for each right answer and 0 for each wrong answer, `[students, questions]`."""
    generator = np.random.default_rng(1)
    ability, difficulty = 0.75 + generator.normal(size=[12, 1]), generator.normal(size=8)
    return (generator.uniform(size=[12, 8]) < 1 / (1 + np.exp(difficulty - ability))).astype(np.float32)


def stochastic_volatility() -> Density:
    """The volatility of 20 returns, an autoregressive process (Kim, Shephard and Chib, 1998), noncentered.

    (phi + 1) / 2 ~ Beta(20, 1.5), mu ~ Cauchy(0, 5), s ~ HalfCauchy(0, 2), h_0 = s z_0 / sqrt(1 - phi^2),
    h_t = phi h_(t-1) + s z_t, z_t ~ N(0, 1), y_t ~ N(0, exp(mu + h_t)). The coordinates are logit((phi + 1) / 2),
    mu, log s and z.
    """
    returns = simulated_returns()

    def log_prob(x):
        logit, mu, log_s, z = x[:, 0], x[:, 1], x[:, 2], x[:, 3:]
        # Beta(20, 1.5) of the sigmoid of the logit, times the derivative of the sigmoid.
        prior = -20 * tf.nn.softplus(-logit) - 1.5 * tf.nn.softplus(logit)
        prior -= math.lgamma(20) + math.lgamma(1.5) - math.lgamma(21.5)
        prior += tfd.Cauchy(0.0, 5.0).log_prob(mu) + tfd.HalfCauchy(0.0, 2.0).log_prob(tf.exp(log_s)) + log_s
        phi, s = tf.tanh(logit / 2), tf.exp(log_s)
        h = [s * z[:, 0] * tf.cosh(logit / 2)]  # 1 / sqrt(1 - phi^2)
        for t in range(1, 20):
            h.append(phi * h[-1] + s * z[:, t])
        log_scale = (mu[:, tf.newaxis] + tf.stack(h, axis=1)) / 2
        likelihood = -0.5 * (returns * tf.exp(-log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)
        return prior + tf.reduce_sum(likelihood + tfd.Normal(0.0, 1.0).log_prob(z), axis=1)

    return Density(23, log_prob, _hamiltonian_samples(log_prob, 23))


def simulated_returns() -> np.ndarray:
    """Returns the returns at 20 times, simulated with phi = 0.95, mu = -1 and s = 0.3."""
    generator = np.random.default_rng(2)
    h = [generator.normal() * 0.3 / math.sqrt(1 - 0.95**2)]
    for _ in range(19):
        h.append(0.95 * h[-1] + 0.3 * generator.normal())
    return (np.exp((np.array(h) - 1) / 2) * generator.normal(size=20)).astype(np.float32)


def hierarchical_regression() -> Density:
    """Logistic regressions of 8 groups of 500, with a shared slope and an intercept per group, noncentered.

    mu ~ N(0, 1), log tau ~ N(0, 1), slope ~ N(0, 1), z_j ~ N(0, 1),
    P(y_ij = 1) = sigmoid(mu + tau z_j + slope x_ij). With this much data, mu, tau and z depend on each other.
    """
    x, y = map(tf.constant, simulated_groups())

    def log_prob(parameters):
        mu, log_tau, slope, z = tf.split(parameters, [1, 1, 1, 8], axis=1)
        intercepts = (mu + tf.exp(log_tau) * z)[..., tf.newaxis]
        logits = intercepts + slope[..., tf.newaxis] * x
        likelihood = tf.reduce_sum(y * logits - tf.nn.softplus(logits), axis=[1, 2])
        return likelihood + tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(parameters), axis=1)

    return Density(11, log_prob, _hamiltonian_samples(log_prob, 11))


def simulated_groups() -> tuple[np.ndarray, np.ndarray]:
    """Returns covariates and binary responses `[8, 500]`, simulated with mu = 0.5, tau = 1 and a slope of -0.7."""
    generator = np.random.default_rng(3)
    intercepts, x = 0.5 + generator.normal(size=[8, 1]), generator.normal(size=[8, 500])
    chances = 1 / (1 + np.exp(-(intercepts - 0.7 * x)))
    return x.astype(np.float32), (generator.uniform(size=x.shape) < chances).astype(np.float32)


def _hamiltonian_samples(log_prob, size, chains=100, burn_in=1000, kept=2000, thinned=20):
    """Returns a function that draws from the states of many chains, which run at its first call."""
    states = []

    @tf.function(jit_compile=True, autograph=False)
    def run():
        kernel = tfp.mcmc.HamiltonianMonteCarlo(log_prob, step_size=0.1, num_leapfrog_steps=16)
        kernel = tfp.mcmc.SimpleStepSizeAdaptation(kernel, burn_in * 4 // 5, target_accept_prob=0.95)
        start = 0.1 * tf.random.stateless_normal([chains, size], [0, 0])
        return tfp.mcmc.sample_chain(
            kept // thinned, start, None, kernel, burn_in, thinned - 1, trace_fn=None, seed=[0, 1]
        )

    def sample(num, generator):
        if not states:
            states.append(run().numpy().reshape(-1, size))
        return states[0][generator.permutation(len(states[0]))[:num]]

    return sample


# Simulators, from "Benchmarking simulation-based inference" (Lueckmann et al., 2021), Appendix T


def _simulated(simulate, prior, posterior, num=100_000, held_out=5_000, num_posteriors=2):
    """Returns parameters and observations of a simulator, and posteriors of the first test observations."""
    generator = np.random.default_rng(0)
    parameters = prior(num + 2 * held_out, generator)
    observations = simulate(parameters, generator)
    ends = (0, num, num + held_out, num + 2 * held_out)
    train, validation, test = (
        (parameters[i:j].astype(np.float32), observations[i:j].astype(np.float32))
        for i, j in zip(ends[:-1], ends[1:], strict=True)
    )
    posteriors = [(x, posterior(x, 1000, generator)) for x in test[1][:num_posteriors].astype(np.float64)]
    return Data(train, validation, test, posteriors)


def gaussian_linear() -> Data:
    """T.1: theta ~ N(0, I / 10) in 10 dimensions, x ~ N(theta, I / 10)."""
    return _simulated(simulate_gaussian_linear, gaussian_prior, gaussian_linear_posterior)


def gaussian_prior(num, generator):
    """Draws parameters of `gaussian_linear`."""
    return generator.normal(size=[num, 10]) * math.sqrt(0.1)


def simulate_gaussian_linear(parameters, generator):
    """Draws an observation for each row of parameters."""
    return parameters + math.sqrt(0.1) * generator.normal(size=parameters.shape)


def gaussian_linear_posterior(x, num, generator):
    """Draws from the posterior N(x / 2, I / 20)."""
    return x / 2 + math.sqrt(0.05) * generator.normal(size=[num, 10])


def two_moons() -> Data:
    """T.8: theta ~ U([-1, 1]^2), x is a crescent shifted by (-|theta_1 + theta_2|, theta_2 - theta_1) / √2."""
    return _simulated(simulate_two_moons, two_moons_prior, two_moons_posterior)


def two_moons_prior(num, generator):
    """Draws parameters of `two_moons`."""
    return generator.uniform(-1, 1, size=[num, 2])


def simulate_two_moons(parameters, generator):
    """Draws an observation for each row of parameters."""
    total, difference = parameters.sum(axis=1), parameters[:, 1] - parameters[:, 0]
    return _crescent(len(parameters), generator) + np.stack([-np.abs(total), difference], axis=1) / math.sqrt(2)


def _crescent(num, generator):
    angle = generator.uniform(-np.pi / 2, np.pi / 2, size=num)
    radius = 0.1 + 0.01 * generator.normal(size=num)
    return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def two_moons_posterior(x, num, generator):
    """Draws from the posterior: x minus a crescent is the shift, unless theta is outside of the flat prior."""
    found, accepted = [], 0
    while accepted < num:
        shift = math.sqrt(2) * (x - _crescent(2 * num, generator))
        total = -shift[:, 0] * generator.choice([-1, 1], size=2 * num)
        theta = np.stack([total - shift[:, 1], total + shift[:, 1]], axis=1) / 2
        found.append(theta[(shift[:, 0] <= 0) & np.all(np.abs(theta) <= 1, axis=1)])
        accepted += len(found[-1])
    return np.concatenate(found)[:num]


def slcp() -> Data:
    """T.3, simple likelihood, complex posterior: four points of a Gaussian parametrized by theta."""
    return _simulated(simulate_slcp, slcp_prior, slcp_posterior)


def slcp_prior(num, generator):
    """Draws parameters of `slcp`."""
    return generator.uniform(-3, 3, size=[num, 5])


def simulate_slcp(parameters, generator):
    """Draws an observation for each row of parameters."""
    mean, (a, b, correlation) = parameters[:, :2], _slcp_scales(parameters)
    z = generator.normal(size=[len(parameters), 4, 2])
    first = a[:, np.newaxis] * z[..., 0]
    rest = np.sqrt(1 - correlation**2)[:, np.newaxis]
    second = b[:, np.newaxis] * (correlation[:, np.newaxis] * z[..., 0] + rest * z[..., 1])
    return (mean[:, np.newaxis] + np.stack([first, second], axis=2)).reshape(-1, 8)


def _slcp_scales(parameters):
    return parameters[:, 2] ** 2, parameters[:, 3] ** 2, np.tanh(parameters[:, 4])


def slcp_posterior(x, num, generator):
    """Draws the covariance by rejection from the prior, and the mean, which is Gaussian given the covariance."""
    points = x.reshape(4, 2)
    mean, scatter = points.mean(axis=0), 4 * np.cov(points.T, bias=True)
    bound = -1.5 * math.log(np.linalg.det(scatter / 3)) - 3  # the largest likelihood of any covariance
    found, accepted = [], 0
    while accepted < num:
        theta = slcp_prior(200_000, generator)
        a, b, correlation = _slcp_scales(theta)
        determinant = (a * b) ** 2 * (1 - correlation**2)
        squares = b**2 * scatter[0, 0] - 2 * a * b * correlation * scatter[0, 1] + a**2 * scatter[1, 1]
        log_likelihood = -1.5 * np.log(determinant) - 0.5 * squares / determinant
        theta = theta[np.log(generator.uniform(size=len(theta))) < log_likelihood - bound]
        a, b, correlation = _slcp_scales(theta)
        z = generator.normal(size=[2, len(theta)]) / 2
        theta[:, 0] = mean[0] + a * z[0]
        theta[:, 1] = mean[1] + b * (correlation * z[0] + np.sqrt(1 - correlation**2) * z[1])
        found.append(theta[np.all(np.abs(theta[:, :2]) <= 3, axis=1)])
        accepted += len(found[-1])
    return np.concatenate(found)[:num]


# Tables


def _splits(*rows):
    return Data(*((part.astype(np.float32), None) for part in rows))


def _table(load, kept=slice(None)):
    """Returns random 60, 20 and 20 % of the rows of a scikit-learn table, standardized by the first part."""
    rows = load().data[:, kept]
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    train, validation, test = np.split(rows, [int(0.6 * len(rows)), int(0.8 * len(rows))])
    return _splits(*((part - train.mean(axis=0)) / train.std(axis=0) for part in (train, validation, test)))


def wine() -> Data:
    """178 wines with 13 columns."""
    from sklearn import datasets

    return _table(datasets.load_wine)


def breast_cancer() -> Data:
    """569 tumors with 30 columns."""
    from sklearn import datasets

    return _table(datasets.load_breast_cancer)


def diabetes() -> Data:
    """442 patients with 9 columns. The sex is left out, because it has two values and no density."""
    from sklearn import datasets

    return _table(datasets.load_diabetes, [0, *range(2, 10)])


def patches(data_dir: str, num: int = 100_000, held_out: int = 10_000) -> Data:
    """Gray 8 x 8 patches minus their mean, without the last pixel, as in BSDS300 (Zoran and Weiss, 2011).

    The patches are from images [32, 32, 3] of a TFDS data set "bsds32". Levels get uniform noise of one level and
    are divided by 256. The last tenth of the training images is the validation split.
    """
    import tensorflow_datasets as tfds

    generator = np.random.default_rng(0)

    def draw(split, num):
        images = tfds.load("bsds32", data_dir=data_dir, split=split, batch_size=-1)["image"].numpy()
        row, column = generator.integers(0, 25, size=[2, num, 1, 1])
        image = generator.integers(len(images), size=[num, 1, 1])
        pixels = images[image, row + np.arange(8)[:, np.newaxis], column + np.arange(8)].astype(np.float64)
        gray = (pixels @ [0.299, 0.587, 0.114] + generator.uniform(size=pixels.shape[:3])).reshape(num, 64) / 256
        return (gray - gray.mean(axis=1, keepdims=True))[:, :63]

    return _splits(draw("train[:90%]", num), draw("train[90%:]", held_out), draw("test", held_out))


DENSITIES = {
    "banana": banana,
    "funnel": funnel,
    "gaussian": gaussian,
    "eight_schools": eight_schools,
    "item_response": item_response,
    "stochastic_volatility": stochastic_volatility,
    "hierarchical_regression": hierarchical_regression,
}
SIMULATORS = {"two_moons": two_moons, "slcp": slcp, "gaussian_linear": gaussian_linear}
TABLES = {"wine": wine, "breast_cancer": breast_cancer, "diabetes": diabetes}
