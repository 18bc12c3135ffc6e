"""The average of the weights in `fit`: its warm-up, and where it is used."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.models.averaging import WeightAverage


def affine_model(rate, strategy=None):
    with (strategy or tf.distribute.get_strategy()).scope():
        model = resflow.FlowModel(resflow.bijectors.Flow([resflow.bijectors.ActNorm([1])]), [1])
        model.flow.bijectors[0].shift.assign([1e-3])  # so that fit does not initialize it, as all rows are equal
        model.compile(optimizer=keras.optimizers.Adam(rate))
    return model


def recorder(model):
    """Returns a callback that records the weights before and after each step, and the list of records."""
    raw = []
    record = lambda *_, **__: raw.append(np.concatenate(model.get_weights()))  # noqa: E731
    return keras.callbacks.LambdaCallback(on_epoch_begin=record, on_train_batch_end=record), raw


CASES = [((1, 2, 40, 2), 0.99, 1), ((40, 2), 0.5, 1), ((2,), 0.99, 2)]


@pytest.mark.parametrize("lengths, momentum, replicas", CASES)
def test_a_fit_of_any_length_forgets_where_it_began(lengths, momentum, replicas, two_replicas):
    """Far from the data, all steps of Adam have the same size and direction, and the average lags behind.

    With momentum m, a lag of l steps becomes m (1 + l). With the momentum (1 + t) / (10 + t), it stays below 0.15
    of the distance. With a constant momentum of 0.99, it is 0.5 of the distance after 2 steps. Validation uses the
    weights that `fit` ends with.
    """
    model = affine_model(0.01, two_replicas if replicas == 2 else None)
    x, (callback, raw) = np.full([4, 1], 1000.0, "float32"), recorder(model)
    average = resflow.models.AverageWeights(momentum)
    for num_steps in lengths:
        first = np.concatenate(model.get_weights())
        options = {"batch_size": 4, "validation_data": (x,), "verbose": 0, "callbacks": [callback, average]}
        history = model.fit(np.tile(x, [num_steps, 1]), **options).history
        np.testing.assert_array_equal(raw[-num_steps - 1], first)
        distance = np.abs(raw[-1] - first)
        assert np.all(distance > 0.5 * 0.01)
        assert np.all(np.abs(np.concatenate(model.get_weights()) - raw[-1]) <= 0.15 * distance + 1e-6)
        expected = first.copy()
        for t, weights in enumerate(raw[-num_steps:]):
            expected += (1 - min(momentum, (1 + t) / (10 + t))) * (weights - expected)
        np.testing.assert_allclose(np.concatenate(model.get_weights()), expected, rtol=1e-5)
        np.testing.assert_allclose(history["val_loss"][-1], model.evaluate(x, verbose=0), rtol=1e-5)


def test_the_average_in_place():
    """It has converged norms. All weights are restored even after an error."""
    model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (8,), seed=1), [2])
    average = WeightAverage(model, 0.4)
    for i in range(4):
        for weight in model.trainable_weights:
            weight.assign_add(0.1 * tf.random.stateless_normal(weight.shape, [0, i]))
        average.update()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(KeyboardInterrupt):
        with average.applied():
            inside = [weight.numpy() for weight in model.weights]
            for weight, value in zip(model.trainable_weights, average.values, strict=True):
                np.testing.assert_array_equal(weight, value)
            for layer in resflow.layers.norm_updates.lipschitz_layers(model.flow):
                largest = np.linalg.svd(layer.kernel.numpy(), compute_uv=False)[0]
                np.testing.assert_allclose(layer.norm_estimate().numpy(), largest, rtol=1e-6)
            raise KeyboardInterrupt
    assert max(np.abs(a - b).max() for a, b in zip(before, inside, strict=True)) > 1e-2
    np.testing.assert_equal([weight.numpy() for weight in model.weights], before)
    with pytest.raises(ValueError, match="momentum is 1.0; it must be at least 0 and below 1"):
        resflow.models.AverageWeights(1.0)


def test_an_interrupted_fit_leaves_the_weights():
    """The last weights are restored, although their average is in place at the end of an epoch."""
    model = affine_model(0.1)
    callback, raw = recorder(model)
    callbacks = [callback, resflow.models.AverageWeights()]
    callback.on_epoch_end = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.full([8, 1], 3.0, "float32"), batch_size=4, verbose=0, callbacks=callbacks)
    np.testing.assert_array_equal(np.concatenate(model.get_weights()), raw[-1])
    assert len(raw) == 3 and np.all(np.abs(np.subtract(raw[-1], raw[0])) > 0.1)


def test_callbacks_keep_what_was_scored(tmp_path):
    """The loss falls and rises again. The average of the best epoch is restored and saved."""
    model = affine_model(0.1)
    path = str(tmp_path / "best.weights.h5")
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    save = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True, save_weights_only=True)
    x, other = np.full([40, 1], 3.0, "float32"), np.full([8, 1], 1.0, "float32")
    options = {"batch_size": 8, "epochs": 30, "validation_data": (other,), "verbose": 0}
    callbacks = [stop, save, resflow.models.AverageWeights()]
    losses = model.fit(x, callbacks=callbacks, **options).history["val_loss"]
    assert 2 < len(losses) < 30 and losses[-1] > min(losses) + 1e-3
    restored = model.evaluate(other, verbose=0)
    model.load_weights(path)
    np.testing.assert_allclose([restored, model.evaluate(other, verbose=0)], min(losses), rtol=1e-5)
