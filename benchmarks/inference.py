"""Compares flows as surrogate posteriors at equal processor time: a residual flow, and TFP's RealNVP and IAF.

    python benchmarks/inference.py --output=inference.json --seconds=15

All flows have about the same number of parameters and end with a trainable triangular map. After its first step,
each flow trains for `--seconds` of processor time on one thread, with 64 samples per step, path derivatives, and
Adam with a learning rate that decays to zero. The learning rate is the one of `--learning_rates` with the best ELBO
in another training of the same length. Steps are graphs, without XLA. The score is the ELBO in nats of 10,000
samples. Results are added to `--output`; existing results are not recomputed.
"""

import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import keras
import numpy as np
import pandas
import peers
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags
from rows_file import add_rows

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_SECONDS = flags.DEFINE_float("seconds", 15.0, "Processor seconds of a training.", lower_bound=0.01)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of scored trainings.", lower_bound=1)
_RATES = flags.DEFINE_list("learning_rates", ["0.003", "0.01"], "Learning rates to choose from.")

_DRAWS = 64  # samples per step
_CHUNK, _NUM_CHUNKS = 1000, 10  # samples of an ELBO
_MOST_NORM = 100.0  # gradients with a larger norm are clipped; those that are not finite count as zero
_TUNING_SEED = 1000
_EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
_ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


class Density(NamedTuple):
    """An unnormalized density on R^size, as a function of `[batch, size]`."""

    size: int
    log_prob: Callable[[tf.Tensor], tf.Tensor]


def funnel() -> Density:
    """x0 ~ N(0, 3^2), nine x_i ~ N(0, exp(x0)) (Neal, "Slice sampling", 2003)."""

    def log_prob(x):
        rest = tfd.Normal(0.0, tf.exp(x[:, :1] / 2)).log_prob(x[:, 1:])
        return tfd.Normal(0.0, 3.0).log_prob(x[:, 0]) + tf.reduce_sum(rest, axis=1)

    return Density(10, log_prob)


def eight_schools() -> Density:
    """The effects of coaching in eight schools (Rubin, 1981), in the noncentered parametrization.

    mu ~ N(0, 10^2), log tau ~ N(5, 1), z_i ~ N(0, 1), y_i ~ N(mu + tau z_i, s_i^2).
    """

    def log_prob(x):
        mu, log_tau, z = x[:, :1], x[:, 1:2], x[:, 2:]
        prior = tfd.Normal(0.0, 10.0).log_prob(mu) + tfd.Normal(5.0, 1.0).log_prob(log_tau)
        terms = tfd.Normal(0.0, 1.0).log_prob(z) + tfd.Normal(mu + tf.exp(log_tau) * z, _ERRORS).log_prob(_EFFECTS)
        return prior[:, 0] + tf.reduce_sum(terms, axis=1)

    return Density(10, log_prob)


def item_response() -> Density:
    """The abilities of 12 students and the difficulties of 8 questions, given all answers (Rasch, 1960).

    mean ~ N(3/4, 1), a_i ~ N(0, 1), b_j ~ N(0, 1), P(answer ij is right) = sigmoid(mean + a_i - b_j).
    """
    generator = np.random.default_rng(1)
    ability, difficulty = 0.75 + generator.normal(size=[12, 1]), generator.normal(size=8)
    answers = (generator.uniform(size=[12, 8]) < 1 / (1 + np.exp(difficulty - ability))).astype(np.float32)

    def log_prob(x):
        logits = x[:, :1, tf.newaxis] + x[:, 1:13, tf.newaxis] - x[:, tf.newaxis, 13:]
        likelihood = tf.reduce_sum(tfd.Bernoulli(logits=logits).log_prob(answers), axis=[1, 2])
        return likelihood + tf.reduce_sum(tfd.Normal([0.75] + 20 * [0.0], 1.0).log_prob(x), axis=1)

    return Density(21, log_prob)


def stochastic_volatility() -> Density:
    """The volatility of 20 returns, an autoregressive process (Kim, Shephard and Chib, 1998), noncentered.

    (phi + 1) / 2 ~ Beta(20, 1.5), mu ~ Cauchy(0, 5), s ~ HalfCauchy(0, 2), h_0 = s z_0 / sqrt(1 - phi^2),
    h_t = phi h_(t-1) + s z_t, z_t ~ N(0, 1), y_t ~ N(0, exp(mu + h_t)). The coordinates are logit((phi + 1) / 2),
    mu, log s and z. The returns are simulated with phi = 0.95, mu = -1 and s = 0.3.
    """
    generator = np.random.default_rng(2)
    states = [generator.normal() * 0.3 / math.sqrt(1 - 0.95**2)]
    for _ in range(19):
        states.append(0.95 * states[-1] + 0.3 * generator.normal())
    returns = (np.exp((np.array(states) - 1) / 2) * generator.normal(size=20)).astype(np.float32)

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

    return Density(23, log_prob)


def _residual(size, seed):
    """Returns the flow of `flow_surrogate_posterior`, its weights, and a function to call after each step."""

    def count(width):
        block = width * (size + 1) + width * (2 * width + 1 + 2 * size) + size
        return block + 3 * (width * (size + 1) + width * (width + 1 + 2 * size) + 2 * size)

    width = _width(count, size)
    flow = resflow.vi.flow_surrogate_posterior([size], hidden=(width, width), seed=seed).bijector
    return flow, list(flow.trainable_variables), functools.partial(resflow.layers.update_norms, flow)


def _real_nvp(size, seed):
    """Returns six coupling layers."""
    kept, outputs = size // 2, 2 * (size - size // 2)
    width = _width(lambda w: 6 * (w * (w + kept + outputs + 2) + outputs), size)
    return *peers.real_nvp(size, 6, width, seed), lambda: None


def _iaf(size, seed):
    """Returns four autoregressive layers, which sample cheaply."""
    width = _width(lambda w: 4 * (w * (w + 3 * size + 2) + 2 * size), size)
    bijector, weights = peers.autoregressive(size, 4, width, seed)
    return tfb.Invert(bijector), weights, lambda: None


def _width(count, size):
    """Returns the width of hidden layers, at least 4, for 400 parameters per coordinate and at least 4,000."""
    return next(width for width in itertools.count(4) if count(width + 0.5) >= 400 * max(10, size))


DENSITIES = {f.__name__: f for f in (funnel, eight_schools, item_response, stochastic_volatility)}
FLOWS = {"residual": _residual, "real_nvp": _real_nvp, "autoregressive": _iaf}
_ONLY = flags.DEFINE_multi_enum("task", list(DENSITIES), list(DENSITIES), "Density. Can be repeated.")
_FLOWS = flags.DEFINE_multi_enum("flow", list(FLOWS), list(FLOWS), "Flow. Can be repeated.")


def _trained(density, flow, seed, learning_rate):
    """Returns a surrogate posterior, and what its row has."""
    bijector, weights, update = FLOWS[flow](density.size, seed)
    triangle = tfp.util.TransformedVariable(tf.eye(density.size), tfb.FillScaleTriL(tfb.Exp(), diag_shift=None))
    shift = tf.Variable(tf.zeros(density.size))
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [density.size])
    chain = resflow.bijectors.Flow([bijector, tfb.ScaleMatvecTriL(triangle), tfb.Shift(shift)])
    surrogate = tfd.TransformedDistribution(base, chain)
    view = resflow.vi.with_path_derivative(surrogate)
    weights = [*weights, *triangle.trainable_variables, shift]
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step(seed):
        with tf.GradientTape() as tape:
            loss = tfp.vi.monte_carlo_variational_loss(density.log_prob, view, sample_size=_DRAWS, seed=seed)
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, weights), _MOST_NORM)
        optimizer.apply([tf.where(tf.math.is_finite(norm), part, 0.0) for part in gradients], weights)
        update()
        return loss

    start = time.process_time()
    step(tf.constant([seed, 0])).numpy()
    first, steps = time.process_time() - start, 1
    start = time.process_time()
    while (spent := (time.process_time() - start) / _SECONDS.value) < 1:
        optimizer.learning_rate = learning_rate * np.cos(np.pi / 2 * spent) ** 2
        step(tf.constant([seed, steps])).numpy()
        steps += 1
    size = sum(weight.shape.num_elements() for weight in weights)
    return surrogate, {"parameters": size, "first_step": first, "steps": steps}


def _elbo(density, surrogate, seed):
    """Returns the ELBO and its standard error."""

    @tf.function(autograph=False)
    def terms(seed):
        x, log_prob = surrogate.experimental_sample_and_log_prob(_CHUNK, seed=seed)
        return density.log_prob(x) - log_prob

    values = np.concatenate([terms(tf.constant([seed, -i])) for i in range(1, 1 + _NUM_CHUNKS)])
    return {"score": float(np.mean(values)), "stderr": float(np.std(values, ddof=1) / np.sqrt(len(values)))}


@functools.cache
def _best_rate(task, flow):
    """Returns the learning rate with the best ELBO."""
    density, rates = DENSITIES[task](), [float(rate) for rate in _RATES.value]
    if len(rates) == 1:
        return rates[0]
    found = [_elbo(density, _trained(density, flow, _TUNING_SEED, rate)[0], 0)["score"] for rate in rates]
    return rates[int(np.argmax(np.nan_to_num(found, nan=-np.inf)))]


def _result(task, flow, seed):
    keras.backend.clear_session()
    density, rate = DENSITIES[task](), _best_rate(task, flow)
    surrogate, row = _trained(density, flow, seed, rate)
    return row | {"learning_rate": rate, "seconds": _SECONDS.value} | _elbo(density, surrogate, seed + 1)


def main(_):
    """Computes the missing results, and prints means over seeds and their standard errors."""
    cases = itertools.product(_ONLY.value, _FLOWS.value, range(_SEEDS.value))
    rows = pandas.DataFrame(add_rows(_OUTPUT.value, ("task", "flow", "seed"), cases, _result))
    print(rows.groupby(["task", "flow"])["score"].agg(["mean", "sem"]).round(3).to_string())


if __name__ == "__main__":
    app.run(main)
