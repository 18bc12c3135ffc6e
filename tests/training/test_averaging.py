import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import flows, layers, models
from tf_resflow.models import averaging
from tf_resflow.private_api import moving_averages
from tf_resflow.training.optimizer import make_optimizer


def stepped(config):
    """A model after 4 steps of the optimizer of a config, and the optimizer."""
    model = models.FlowModel(flows.vector_flow(2, 1, (8,), seed=1), [2])
    optimizer = make_optimizer(config.train, model.trainable_variables)
    for i in range(4):
        optimizer.apply([tf.random.stateless_normal(v.shape, [0, i]) for v in model.trainable_variables])
    return model, optimizer


def values(weights):
    return [weight.numpy() for weight in weights]


def test_weights_are_averaged_and_come_back(make_config):
    """After an error, too."""
    model, optimizer = stepped(make_config(train__learning_rate=0.1, train__warmup_steps=0))
    before, averages = values(model.weights), values(moving_averages(optimizer))
    with pytest.raises(KeyboardInterrupt):
        with averaging.AveragedWeights(model, optimizer):
            inside = values(model.weights)
            np.testing.assert_equal(values(model.trainable_variables), averages)
            for layer in layers.norm_updates.lipschitz_layers(model.flow):
                largest = np.linalg.svd(layer.kernel.numpy(), compute_uv=False)[0]
                np.testing.assert_allclose(layer.norm_estimate().numpy(), largest, rtol=1e-4)
            raise KeyboardInterrupt
    assert max(np.abs(a - b).max() for a, b in zip(before, inside, strict=True)) > 1e-2
    np.testing.assert_equal(values(model.weights), before)


def test_without_an_average_the_weights_stay(make_config):
    model, optimizer = stepped(make_config(train__ema_momentum=0.0))
    before = values(model.trainable_variables)
    averaging.AveragedWeights(model, optimizer).apply()
    np.testing.assert_equal(values(model.trainable_variables), before)
    assert not optimizer.use_ema
