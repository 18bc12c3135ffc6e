"""Tests two replicas on one machine: equal variables, different random draws, and the gradients of one device."""

import functools

import keras
import numpy as np
import tensorflow as tf

import tf_resflow as resflow

DETERMINISTIC = resflow.logdet.PowerSeries(3, probes="basis")
DATA = np.random.default_rng(0).normal(size=[16, 2]) * [2.0, 0.5] + 1.0


def make_model(optimizer, log_det_estimator=None):
    flow = resflow.flows.vector_flow(2, 1, (6,), log_det_estimator=log_det_estimator, seed=1)
    model = resflow.FlowModel(flow, [2], evaluation_log_det_estimator=DETERMINISTIC)
    model.compile(optimizer=optimizer())
    model.optimizer.build(model.trainable_variables)
    return model


def test_replicas_stay_equal_and_draw_differently(two_replicas):
    with two_replicas.scope():
        optimizer = functools.partial(keras.optimizers.AdamW, 1e-2, global_clipnorm=1.0)
        model = make_model(optimizer, resflow.logdet.RussianRoulette())
        start = [v.numpy() for v in model.trainable_variables]

    @tf.function(autograph=False)
    def step(seed):
        return two_replicas.run(resflow.models.train_step, args=(model, tf.constant(DATA, tf.float32), seed))

    # Both replicas get the same examples, so their losses differ only because of their random draws.
    for i in range(3):
        metrics = step(tf.constant([0, i]))
    for key in ("nats", "gradient_norm"):
        first, second = two_replicas.experimental_local_results(metrics[key])
        assert np.isfinite([first, second]).all() and first != second
    for variable in model.weights:
        np.testing.assert_array_equal(*two_replicas.experimental_local_results(variable.value))
    for layer in resflow.layers.norm_updates.lipschitz_layers(model.flow):
        np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(layer.kernel.numpy(), 2), rtol=5e-2)
    for variable, value in zip(model.trainable_variables, start, strict=True):
        assert np.any(variable.numpy() != value)


def test_the_last_batch_of_fit_is_divided_as_it_can_be(two_replicas):
    """With 9 or 7 examples in batches of 4, a replica gets no example or one of three examples of the last batch.

    Each step equals the step on one device: each replica clips its share of the summed gradient. The loss of an
    epoch is the mean over all examples.
    """

    def fitted(strategy, num):
        with strategy.scope():
            clip = 0.5 / strategy.num_replicas_in_sync
            model = make_model(lambda: keras.optimizers.SGD(0.1, global_clipnorm=clip), DETERMINISTIC)
        loss = model.fit(DATA[:num], batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
        return np.concatenate([[*loss], *(np.ravel(variable) for variable in model.trainable_variables)])

    for num in (9, 7):
        expected = fitted(tf.distribute.get_strategy(), num)
        np.testing.assert_allclose(fitted(two_replicas, num), expected, rtol=1e-4, atol=1e-5)
