"""The training step: learned orders have their own objective, which affects nothing else."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import layers, models
from tf_resflow.layers.operations import Operation
from tf_resflow.models.step import loss_and_gradients

RATE = 0.1


def make_model(norms, log_det_estimator=None, converged=True):
    log_det_estimator = log_det_estimator or resflow.logdet.Exact()
    flow = resflow.flows.vector_flow(2, 1, (6,), norms=norms, log_det_estimator=log_det_estimator, seed=1)
    model = resflow.FlowModel(flow, [2], evaluation_log_det_estimator=resflow.logdet.Exact())
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    for layer in layers.norm_updates.lipschitz_layers(flow):
        layer.kernel.assign(4 * layer.kernel)
    for i, order in enumerate(layers.norm_updates.learned_orders(flow)):
        order.theta.assign(i / 2 - 1.5)
    if converged:
        layers.update_norms(flow, 1e-7, 1000)
    return model


@pytest.fixture
def data():
    return tf.constant(np.random.default_rng(0).normal(size=[16, 2]), tf.float32)


def test_orders_descend_their_mean_norm_and_kernels_the_loss(data):
    """Orders follow the gradient of the mean norm, here by central differences of converged norms. The gradients
    of kernels and biases come only from the loss."""
    model = make_model("learned")
    orders, before = layers.norm_updates.learned_orders(model.flow), [w.numpy() for w in model.trainable_weights]
    slopes = []
    for order in orders:
        theta, values = order.theta.numpy(), []
        for shifted in (theta - 1e-2, theta + 1e-2, theta):
            order.theta.assign(shifted)
            layers.update_norms(model.flow, 1e-7, 1000)
            values.append(float(layers.mean_norm(model.flow)))
        slopes.append((values[1] - values[0]) / 2e-2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.example_losses(data, seed=[0, 1], training=True)[model.objective])
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    metrics = models.train_step(model, data, tf.constant([0, 1]))
    values = 1 + 4 / (1 + np.exp([1.5, 1.0]))
    expected = {"nats": loss, "order_min": min(values), "order_mean": np.mean(values), "order_max": max(values)}
    np.testing.assert_allclose([metrics[name] for name in expected], [*expected.values()], rtol=1e-6)
    slopes = dict(zip([id(order.theta) for order in orders], slopes, strict=True))
    moved = 0
    for weight, value, gradient in zip(model.trainable_weights, before, gradients, strict=True):
        change = (weight.numpy() - value) / -RATE
        if id(weight) in slopes:
            assert gradient is None
            np.testing.assert_allclose(change, slopes[id(weight)], rtol=0.05, atol=2e-3)
            moved += abs(change) > 0.02
        else:
            np.testing.assert_allclose(change, gradient, rtol=1e-3, atol=1e-4)
    assert moved >= 1


def test_orders_over_replicas(data, two_replicas, stored_norms):
    """All replicas have the same kernels, so the gradients of the orders are the same as on one device."""
    stored_norms()

    def order_gradients(model):
        thetas = {id(order.theta) for order in layers.norm_updates.learned_orders(model.flow)}
        _, gradients = loss_and_gradients(model, data, tf.constant([0, 1]))
        pairs = zip(model.trainable_weights, gradients, strict=True)
        return tf.stack([gradient for weight, gradient in pairs if id(weight) in thetas])

    with two_replicas.scope():
        model = make_model("learned", converged=False)
    found = two_replicas.reduce("SUM", two_replicas.run(order_gradients, (model,)), axis=None)
    expected = order_gradients(make_model("learned", converged=False))
    assert expected.shape == [2] and np.max(np.abs(expected)) > 1e-2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("coupling", [resflow.bijectors.AffineCoupling, resflow.bijectors.SplineCoupling])
def test_networks_in_bfloat16_train(coupling, monkeypatch, data, dtype_policy):
    """The global policy applies to all networks in training. Evaluation is in float32."""
    affine = {"affine_layers": (0, 1), "affine": coupling}
    with dtype_policy("mixed_bfloat16"):
        model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (8,), activation="lipschitz_cube", **affine), [2])
        model.compile(optimizer=keras.optimizers.Adam(0.03))
    calls, cast = [], Operation.cast
    monkeypatch.setattr(Operation, "cast", lambda self, x: calls.append(self.dtype) or cast(self, x))
    x = data * [3.0, 0.5] + 1.0
    model.initialize(x / 2)
    step = tf.function(models.train_step, autograph=False)
    losses = [float(step(model, x, tf.constant([0, i]))["nats"]) for i in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert set(calls) == {"bfloat16", "float32"}
    calls.clear()
    model.evaluate(x, verbose=0)
    assert model.log_prob(model.sample(2, seed=0), seed=0).dtype == tf.float32
    assert set(calls) == {"float32"}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_with_nan_changes_nothing(data, compiled, refused):
    model = make_model(None, resflow.logdet.RussianRoulette())
    model.compile(optimizer=keras.optimizers.Adam(RATE))
    step = tf.function(models.train_step, autograph=False) if compiled else models.train_step
    assert set(step(model, data, tf.constant([0, 1]))) == {"nats", "gradient_norm"}
    variables = model.weights + model.optimizer.variables
    before = [v.numpy() for v in variables]
    message, x = "loss or its gradient is NaN.*Lower the", tf.where(data > 1.0, math.nan, data)
    refused(message, step, model, x, tf.constant([0, 2]), error=tf.errors.InvalidArgumentError)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def test_old_values_are_selected_on_all_replicas(monkeypatch, data, two_replicas, stored_norms):
    """One replica has a NaN. Simulates XLA, which cannot compile for replicas on CPUs."""
    monkeypatch.setattr("tf_resflow.models.step.is_xla", lambda: True)
    stored_norms()
    with two_replicas.scope():
        model = make_model(None, resflow.logdet.RussianRoulette(), converged=False)

    @tf.function(autograph=False)
    def step(bad):
        def on_replica():
            second = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 1)
            return models.train_step(model, data + tf.where(second, bad, 0.0), tf.constant([0, 1]))["nats"]

        return two_replicas.reduce("MEAN", two_replicas.run(on_replica), axis=None)

    values = [[v.numpy() for v in model.trainable_variables]]
    for bad in (0.0, math.nan):
        assert math.isnan(step(tf.constant(bad))) == math.isnan(bad)
        values.append([v.numpy() for v in model.trainable_variables])
    for start, moved, kept in zip(*values, strict=True):
        assert np.any(start != moved)
        np.testing.assert_array_equal(moved, kept)
