"""Variational dequantization: its density, its bounds by enumeration, and its use in a model."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_resflow as resflow
from tf_resflow import evaluation
from tf_resflow.evaluation import LogLikelihood
from tf_resflow.evaluation.log_likelihood import LogProbSamples
from tf_resflow.models import FlowDequantizer, dequantizer

EXACT = resflow.logdet.Exact()
ONE, LEVELS = (1, 1, 1), 3


def perturbed(module, scale, seed=0):
    """Perturbs the parameters of a module, and converges its norms."""
    generator = np.random.default_rng(seed)
    for variable in module.trainable_variables:
        variable.assign_add(tf.cast(generator.normal(scale=scale, size=variable.shape), variable.dtype))
    resflow.layers.converge_norms(module)
    return module


def make_dequantizer(shape, width=4, num_blocks=2, **kwargs):
    return perturbed(FlowDequantizer(shape, num_blocks, width, log_det_estimator=EXACT, **kwargs), 0.4)


def make_model(shape=(2, 2, 1), levels=LEVELS, **kwargs):
    options = {"num_fc_blocks": 0, "logit_alpha": 0.05, "kernels": (3, 1), "seed": 3}
    block = resflow.flows.residual_image_block(log_det_estimator=EXACT)
    flow = resflow.flows.image_flow(shape, (1,), 4, block=block, **options)
    return resflow.FlowModel(flow, shape, levels=levels, evaluation_log_det_estimator=EXACT, **kwargs)


@pytest.mark.parametrize("block", ["residual", "affine_coupling"])
def test_the_estimator_of_an_evaluation_suits_the_noise(block):
    """Couplings are exact, but variational noise has residual blocks."""
    config = resflow.training.default_config()
    config.data.name = "digits"
    config.model.update(block=block, coefficient=0.5, num_blocks=(1,), width=4, num_fc_blocks=0)
    config.model.update(dequantization="variational", dequantization_blocks=1, dequantization_width=4)
    model = resflow.models.build_model(config, resflow.data.load(config.data))
    assert isinstance(model.evaluation_log_det_estimator, resflow.logdet.AdaptiveRoulette)
    name, _ = resflow.models.evaluation_estimator(config, model.flow, (8, 8, 1))
    assert name == ("adaptive_roulette" if block == "residual" else "exact")


def images(num, levels=LEVELS):
    return np.random.default_rng(0).integers(0, levels, [num, 2, 2, 1]).astype(np.uint8)


@pytest.mark.parametrize("shape", [(2, 1, 2), (2,)])
def test_the_density_of_the_noise(shape, monkeypatch):
    """Compares with a dense Jacobian for fixed noise. Each copy of an example gives one row of the Jacobian."""
    network = make_dequantizer(shape, dtype="float64")
    x, uniform = tf.constant(np.random.default_rng(1).uniform(size=[2, 5, *shape]))
    monkeypatch.setattr(dequantizer, "random_uniform", lambda *_: uniform)

    noise, size = tf.math.log(uniform / (1 - uniform)), math.prod(shape)
    copies, context = (tf.repeat(rows, size, 0) for rows in (noise, network.context(2 * x - 1)))
    with tf.GradientTape() as tape:
        tape.watch(copies)
        values = copies
        for member in network.flow.bijectors:
            is_block = isinstance(member, resflow.bijectors.ResidualBlock)
            values = values + member.branch([values, context]) if is_block else member.forward(values)
        values = tf.sigmoid(values)
    units = tf.tile(tf.eye(size, dtype=x.dtype), [5, 1])
    jacobians = tape.gradient(values, copies, tf.reshape(units, copies.shape))
    draw = tf.function(network.sample_and_log_prob, autograph=False)
    (u, log_q), (other, _) = draw(x), draw(x[::-1])
    density = stats.logistic.logpdf(noise).reshape(5, size).sum(1)
    density -= np.linalg.slogdet(np.reshape(jacobians, [5, size, size]))[1]
    np.testing.assert_allclose(u, values[::size], atol=1e-12)
    np.testing.assert_allclose(log_q, density, atol=1e-7)
    assert np.std(log_q) > 0.1 and np.all(np.delete(other != u, 2, 0))  # the noise depends on x


class Uniform:
    """A dequantizer with the noise of `tf_resflow.models.dequantize`."""

    def sample_and_log_prob(self, x, seed, *, log_det_estimator=None, sets=None):
        u = 256 * resflow.models.dequantize(tf.zeros(x.shape, tf.int32), 256, seed, sets=sets)
        return u, tf.zeros(x.shape[:1])


def test_uniform_noise_gives_the_score_of_uniform_noise():
    x = images(20, levels=256)
    expected = make_model(levels=256).log_prob(x, 5)
    found = make_model(levels=256, dequantizer=Uniform()).log_prob(x, 5)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # 4 margins of 2^-14, times the slope of log p


@pytest.fixture(scope="module")
def pixel():
    """Returns a model of one-pixel images, and their exact log-probabilities from the increasing flow."""
    model = make_model(ONE, dequantizer=make_dequantizer(ONE, num_blocks=1))
    model.data_space.dequantizer.flow.bijectors[-1].shift.assign_add([1.0])  # far from the best noise
    perturbed(model.flow, 0.4, seed=2)
    edges = np.reshape(np.arange(LEVELS + 1) / LEVELS, [-1, *ONE]).astype(np.float32)
    cdf = stats.norm.cdf(np.ravel(model.flow.forward(edges)))
    return model, np.log(np.diff(cdf))


def test_the_bound_and_its_limit_by_enumeration(pixel):
    """Checks 8,000 bounds, and 200 with K = 400, where the bias var(weight) / (2 K mean^2) is below 3e-3."""
    model, exact = pixel
    total, nats = 0.0, math.log(2)
    once = LogLikelihood(model).score
    many = LogLikelihood(model, num_samples=400, importance_weighted=True).score
    for value in range(LEVELS):
        x = np.full([8000, *ONE], value, np.uint8)
        bound, tight = once([x], seed=0), many([x[:200]], seed=1)
        assert -bound.mean * nats < exact[value] - 4 * bound.stderr * nats
        assert -tight.mean * nats == pytest.approx(exact[value], abs=4 * tight.stderr * nats + 3e-3)
        assert tight.stderr < 3e-3
        total += math.exp(-bound.mean * nats)
    assert 0.3 < total < np.exp(exact).sum() < 1


@pytest.fixture(scope="module")
def model():
    model = make_model(dequantizer=FlowDequantizer((2, 2, 1), 1, 4))
    model.initialize(images(64))
    return model


def test_fit_trains_the_noise(model):
    start = [weight.numpy() for weight in model.trainable_weights]
    model.compile(optimizer=keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(images(16), batch_size=8, verbose=0)
    for weight, value in zip(model.trainable_weights, start, strict=True):
        assert np.any(weight.numpy() != value), weight.path
    found = resflow.layers.norm_updates.lipschitz_layers(model.data_space.dequantizer)
    assert len(found) == 3
    for layer in found:
        np.testing.assert_allclose(layer.norm_estimate(), layer.norm_bound(), rtol=0.1)


def test_estimates_of_an_example_do_not_depend_on_the_others(model):
    """Examples share their random numbers, and both flows have noisy log-determinants."""
    roulette = resflow.logdet.AdaptiveRoulette(0.1, per_example=True)
    x, samples = images(5), LogProbSamples(model, 3, log_det_estimator=roulette, common=True)
    together = samples(x, 3)
    np.testing.assert_allclose(together[:, 2:3], samples(x[2:3], 3), rtol=1e-5)
    assert len(np.unique(together[:, 0])) == 3


def test_estimators_of_both_flows(model):
    """Both flows use a given estimator. With estimators by block, the dequantizer uses the evaluation estimator."""
    x = images(16)
    evaluated = model.log_prob(x, 1, evaluation=True)
    np.testing.assert_allclose(model.log_prob(x, 1, log_det_estimator=EXACT), evaluated, rtol=1e-5)
    np.testing.assert_allclose(model.log_prob(x, 1, log_det_estimator={}), model.log_prob(x, 1), atol=1.0)
    by_block = dict.fromkeys(resflow.bijectors.views.blocks_by_name(model.flow), EXACT)
    values = LogProbSamples(model, 5, log_det_estimator=EXACT)(x, 2).numpy()
    log_prob, stderr = evaluation.estimate_log_prob(model, x, 2, num_samples=5, log_det_estimator=by_block)
    np.testing.assert_allclose(log_prob, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stderr, values.std(0, ddof=1) / math.sqrt(5), rtol=1e-3)
    assert np.min(stderr) > 0


def test_wrong_arguments(refused):
    flow, stowaway = resflow.flows.vector_flow(2, 1, (4,)), tf.Module()
    stowaway.scale = tf.Variable(1.0)
    refused("Continuous data are not dequantized", resflow.FlowModel, flow, [2], dequantizer=FlowDequantizer([2]))
    refused("Make it a keras.Layer", resflow.FlowModel, flow, [2], levels=3, dequantizer=stowaway)
