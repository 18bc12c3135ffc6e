import keras
import numpy as np
import tensorflow as tf

from tf_resflow import data, layers, models, training
from tf_resflow.private_api import moving_averages
from tf_resflow.training import averaging


def trained(config, steps=4):
    dataset = data.load(config.data)
    model = models.build_model(config, dataset)
    optimizer = training.make_optimizer(config.train, model.trainable_variables)
    model.compile(optimizer=optimizer)
    step = tf.function(lambda x, seed: models.train_step(model, x, seed), autograph=False)
    batches = iter(dataset.train_batches(config.train.batch_size, 0))
    for i in range(steps):
        step(next(batches), tf.constant([0, i]))
    return model, optimizer


def test_weights_are_averaged_and_come_back(make_config):
    model, optimizer = trained(make_config(train__learning_rate=0.1, train__warmup_steps=0))
    before = [weight.numpy() for weight in model.weights]
    averages = [average.numpy() for average in moving_averages(optimizer)]
    with averaging.AveragedWeights(model, optimizer):
        for weight, average in zip(model.trainable_variables, averages, strict=True):
            np.testing.assert_array_equal(weight.numpy(), average)
        for layer in layers.lipschitz_layers(model.flow):
            largest = np.linalg.svd(layer.kernel.numpy(), compute_uv=False)[0]
            np.testing.assert_allclose(layer.norm_estimate().numpy(), largest, rtol=1e-4)
        inside = [weight.numpy() for weight in model.weights]
    assert max(np.abs(a - b).max() for a, b in zip(before, inside, strict=True)) > 1e-2
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_they_come_back_after_an_error(make_config):
    model, optimizer = trained(make_config(train__learning_rate=0.1))
    before = [weight.numpy() for weight in model.weights]
    try:
        with averaging.AveragedWeights(model, optimizer):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_without_an_average_the_weights_stay(make_config):
    model, optimizer = trained(make_config(train__ema_momentum=0.0))
    before = [weight.numpy() for weight in model.trainable_variables]
    averaging.AveragedWeights(model, optimizer).apply()
    for weight, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.use_ema
