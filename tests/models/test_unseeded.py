"""Nothing in the library loses a seed: models, trainers and estimates of likelihoods draw with explicit ones."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

NOISY = resflow.logdet.RussianRoulette()


def flow(size=2):
    return resflow.flows.vector_flow(size, 1, (4,), log_det_estimator=NOISY)


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def flow_model():
    model, x = resflow.FlowModel(flow(), [2], evaluation_log_det_estimator=NOISY), draws(16, 2)
    model.initialize(x)
    model.compile("adamw")
    model.fit(x, batch_size=8, validation_data=(x,), verbose=0)
    model.evaluate(x, verbose=0)
    model.log_prob(x)
    model.log_prob(x, evaluation=True)
    model.decode(model.encode(model.sample(2)))
    resflow.evaluation.estimate_log_prob(model, x, plan=resflow.evaluation.LikelihoodPlan(num_samples=2))
    resflow.evaluation.plan_likelihood(model, x, stderr=0.5)


def hybrid_model():
    x, labels, feature = draws(16, 2), np.arange(16) % 2, keras.Input([2])
    classifier = keras.Model([feature], keras.layers.Dense(2)(feature))
    model = resflow.HybridModel(flow(), classifier, [2], evaluation_log_det_estimator=NOISY)
    model.initialize(x)
    model.compile("adamw")
    model.fit(x, labels, batch_size=8, verbose=0)
    model.evaluate(x, labels, verbose=0)


def dequantizer():
    noise = resflow.models.FlowDequantizer([2], num_blocks=1, width=4, log_det_estimator=NOISY)
    model = resflow.FlowModel(flow(), [2], levels=4, dequantizer=noise, evaluation_log_det_estimator=NOISY)
    model.log_prob(np.zeros([4, 2], int))
    model.sample(2)


def surrogate_posterior():
    for view in (lambda surrogate: surrogate, resflow.vi.with_path_derivative):
        surrogate = resflow.vi.flow_surrogate_posterior([2], hidden=(4,), affine_layers=1, log_det_estimator=NOISY)
        target = tfp.distributions.MultivariateNormalDiag(tf.zeros(2)).log_prob
        tfp.vi.fit_surrogate_posterior(target, view(surrogate), keras.optimizers.Adam(), num_steps=1, sample_size=4)
        resflow.vi.neutra_bijector(surrogate).forward_log_det_jacobian(tf.zeros([1, 2]), 1)


@pytest.mark.parametrize("use", [flow_model, hybrid_model, dequantizer, surrogate_posterior])
def test_the_library_passes_seeds_to_all_estimates(use, monkeypatch):
    """Also where a user gives none: a FlowModel and a trainer then draw anew, as documented."""
    monkeypatch.setattr(resflow.logdet.estimators, "_has_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", resflow.logdet.UnseededEstimateWarning)
        use()
    assert not resflow.logdet.estimators._has_warned
