"""Models, trainers and likelihood estimates pass explicit seeds to all draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

NOISY = resflow.logdet.RussianRoulette()


def flow(size=2):
    return resflow.flows.vector_flow(size, 1, (4,), log_det_estimator=NOISY)


def models():
    x, labels, feature = np.random.default_rng(0).normal(size=[16, 2]), np.arange(16) % 2, keras.Input([2])
    options = {"evaluation_log_det_estimator": NOISY}
    noise = resflow.models.FlowDequantizer([2], num_blocks=1, width=4, log_det_estimator=NOISY)
    of_integers = resflow.FlowModel(flow(), [2], levels=4, dequantizer=noise, **options)
    model = resflow.FlowModel(flow(), [2], **options)
    classifier = keras.Model([feature], keras.layers.Dense(2)(feature))
    hybrid = resflow.HybridModel(flow(), classifier, [2], **options)
    for each, data in ((model, [x]), (of_integers, [np.zeros([16, 2], int)]), (hybrid, [x, labels])):
        each.initialize(data[0])
        each.compile("adamw")
        each.fit(*data, batch_size=8, validation_data=tuple(data), verbose=0)
    for each, data in ((model, x), (of_integers, np.zeros([4, 2], int))):
        each.log_prob(data)
        each.log_prob(data, evaluation=True)
        each.decode(each.encode(each.sample(2)))
    resflow.evaluation.estimate_log_prob(model, x, num_samples=2)
    resflow.evaluation.LogLikelihood(model, stderr=5.0).required_samples(x)


def surrogate_posterior():
    for view in (lambda surrogate: surrogate, resflow.vi.with_path_derivative):
        surrogate = resflow.vi.flow_surrogate_posterior([2], hidden=(4,), affine_layers=1, log_det_estimator=NOISY)
        target = tfp.distributions.MultivariateNormalDiag(tf.zeros(2)).log_prob
        tfp.vi.fit_surrogate_posterior(target, view(surrogate), keras.optimizers.Adam(), num_steps=1, sample_size=4)
        resflow.vi.neutra_bijector(surrogate).forward_log_det_jacobian(tf.zeros([1, 2]), 1)


@pytest.mark.filterwarnings("error::tf_resflow.logdet.UnseededEstimateWarning")
@pytest.mark.parametrize("use", [models, surrogate_posterior])
def test_the_library_passes_seeds_to_all_estimates(use, monkeypatch):
    """This includes calls without a seed, where a FlowModel or a trainer draws a new one."""
    monkeypatch.setattr(resflow.logdet.estimators, "_has_warned", False)
    use()
    assert not resflow.logdet.estimators._has_warned
