"""The average of the weights in `fit`: its warm-up, and where it is used."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

pytestmark = pytest.mark.filterwarnings("ignore:The ActNorms of the flow are still the identity")


def affine_model(optimizer, strategy=None):
    with (strategy or tf.distribute.get_strategy()).scope():
        model = resflow.FlowModel(resflow.bijectors.Flow([resflow.bijectors.ActNorm([1])]), [1])
        model.compile(optimizer=optimizer())
    return model


def recorder(model):
    """Returns a callback that records the weights before and after each step, and the list of records."""
    raw = []
    record = lambda *_, **__: raw.append(np.concatenate(model.get_weights()))  # noqa: E731
    return keras.callbacks.LambdaCallback(on_epoch_begin=record, on_train_batch_end=record), raw


SELDOM = {"ema_momentum": 0.9999, "ema_overwrite_frequency": 7}
CASES = [((1, 2, 40, 2), {"ema_momentum": 0.99}, 1), ((40, 2), SELDOM, 1), ((2,), {}, 2)]


@pytest.mark.parametrize("lengths, settings, replicas", CASES)
def test_a_fit_of_any_length_forgets_where_it_began(lengths, settings, replicas, two_replicas):
    """Far from the data, all steps of Adam have the same size and direction, and the average lags behind.

    With momentum m, a lag of l steps becomes m (1 + l). With the momentum (1 + t) / (10 + t), it stays below 0.15
    of the distance. With a constant momentum of 0.99, it is 0.5 of the distance after 2 steps. Validation uses the
    weights that `fit` ends with.
    """
    strategy = two_replicas if replicas == 2 else None
    model = affine_model(lambda: keras.optimizers.Adam(0.01, use_ema=True, **settings), strategy)
    x, (callback, raw) = np.full([4, 1], 1000.0, "float32"), recorder(model)
    for num_steps in lengths:
        first = np.concatenate(model.get_weights())
        options = {"batch_size": 4, "validation_data": (x,), "verbose": 0, "callbacks": [callback]}
        history = model.fit(np.tile(x, [num_steps, 1]), **options).history
        np.testing.assert_array_equal(raw[-num_steps - 1], first)
        distance = np.abs(raw[-1] - first)
        assert np.all(distance > 0.5 * 0.01)
        assert np.all(np.abs(np.concatenate(model.get_weights()) - raw[-1]) <= 0.15 * distance + 1e-6)
        if settings is not SELDOM and len(raw) > num_steps + 1:  # the very first step also changes the average
            average = first
            for t, weights in enumerate(raw[-num_steps:]):
                average += (1 - min(settings["ema_momentum"], (1 + t) / (10 + t))) * (weights - average)
            np.testing.assert_allclose(np.concatenate(model.get_weights()), average, rtol=1e-5)
        np.testing.assert_allclose(history["val_loss"][-1], model.evaluate(x, verbose=0), rtol=1e-5)


def test_an_interrupted_fit_leaves_the_weights():
    """The last weights are restored, although their average is in place at the end of an epoch."""
    model = affine_model(lambda: keras.optimizers.Adam(0.1, use_ema=True))
    callback, raw = recorder(model)
    callback.on_epoch_end = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.full([8, 1], 3.0, "float32"), batch_size=4, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(np.concatenate(model.get_weights()), raw[-1])
    assert len(raw) == 3 and np.all(np.abs(np.subtract(raw[-1], raw[0])) > 0.1)


def test_callbacks_keep_what_was_scored(tmp_path):
    """The loss falls and rises again. The average of the best epoch is restored and saved."""
    model = affine_model(lambda: keras.optimizers.Adam(0.1, use_ema=True))
    path = str(tmp_path / "best.weights.h5")
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    save = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True, save_weights_only=True)
    x, other = np.full([40, 1], 3.0, "float32"), np.full([8, 1], 1.0, "float32")
    options = {"batch_size": 8, "epochs": 30, "validation_data": (other,), "verbose": 0, "callbacks": [stop, save]}
    losses = model.fit(x, **options).history["val_loss"]
    assert 2 < len(losses) < 30 and losses[-1] > min(losses) + 1e-3
    restored = model.evaluate(other, verbose=0)
    model.load_weights(path)
    np.testing.assert_allclose([restored, model.evaluate(other, verbose=0)], min(losses), rtol=1e-5)
