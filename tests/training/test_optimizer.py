import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import flows, layers, models
from tf_resflow.models import averaging
from tf_resflow.models.updates import share_adam_updates
from tf_resflow.private_api import moving_averages
from tf_resflow.training import optimizer as optimizers

BASE = {"steps": 100, "optimizer": "adam", "learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant"}
BASE |= {"beta_2": 0.99, "weight_decay": 0.0, "ema_momentum": 0.999, "global_clipnorm": 0.0}


def train_config(**fields):
    return ml_collections.ConfigDict(BASE | fields)


def test_average_follows_the_warmed_up_recursion():
    weight = keras.Variable([1.0, -2.0])
    optimizer = optimizers.make_optimizer(train_config(ema_momentum=0.4), [weight])
    generator = np.random.default_rng(0)
    expected = None
    for t in range(12):
        optimizer.apply([tf.constant(generator.normal(size=2), tf.float32)])
        momentum = min(0.4, (1 + t) / (10 + t)) if t else 0.0
        expected = weight.numpy() if t == 0 else momentum * expected + (1 - momentum) * weight.numpy()
    average = moving_averages(optimizer)[0].numpy()
    np.testing.assert_allclose(average, expected, rtol=1e-5)
    assert np.abs(average - weight.numpy()).max() > 1e-3


def rates(num, **fields):
    schedule = optimizers.learning_rate_schedule(train_config(**fields))
    return [float(schedule(t)) if callable(schedule) else schedule for t in range(num)]


def test_schedules():
    """After the warm-up, the rate is constant, or falls along half a cosine to 0 at the last step."""
    for warmup in (0, 1, 5):
        expected = [1e-2 * min(1.0, (t + 1) / max(warmup, 1)) for t in range(8)]
        np.testing.assert_allclose(rates(8, warmup_steps=warmup), expected, rtol=1e-5)
    for warmup in (0, 10):
        cosine = rates(51, schedule="cosine", warmup_steps=warmup, steps=50)
        assert np.argmax(cosine) == warmup
        expected = [1e-2, 5e-3, 0.0]
        np.testing.assert_allclose([cosine[t] for t in (warmup, (warmup + 50) // 2, 50)], expected, atol=1e-6)
    for steps in (1, 2, 100):  # the warm-up is at least as long as the run
        cosine = rates(steps + 1, schedule="cosine", warmup_steps=100, steps=steps)
        np.testing.assert_allclose([cosine[steps // 2], cosine[steps]], [1e-2, 0.0], atol=1e-6)


def test_decay_reaches_kernels_only():
    """Checked for flows with all types of variables, and for layers that a user brings."""
    options = {"num_blocks": (1,), "width": 2, "kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 2}
    couplings = {"block": flows.coupling_image_block(), "inv_1x1_conv": True}
    image_flows = [flows.image_flow((4, 4, 1), **options, **more) for more in ({}, couplings)]
    own = [keras.layers.Dense(2), keras.layers.DepthwiseConv1D(1), keras.layers.BatchNormalization()]
    user = resflow.bijectors.AffineCoupling(keras.Sequential([keras.Input([2, 1]), *own]))
    built = [models.FlowModel(flow, [4, 4, 1]) for flow in image_flows] + [models.FlowModel(user, [2, 2])]
    variables = [v for model in built for v in model.trainable_variables]
    found = [getattr(layer, "kernel", None) for model in built for layer in model._flatten_layers()]
    kernels = [kernel for kernel in found if isinstance(kernel, keras.Variable)]
    assert len(kernels) > 8
    for name in ("adamw", "muon"):
        for variable in variables:
            variable.assign(np.ones(variable.shape))
        optimizer = optimizers.make_optimizer(train_config(optimizer=name, weight_decay=0.5), variables)
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(again) is type(optimizer) and again.get_config()["ema_momentum"] == 0.999
        optimizer.apply([tf.zeros(v.shape) for v in variables])
        for variable in variables:
            decayed = any(variable is kernel for kernel in kernels)
            np.testing.assert_allclose(variable, np.full(variable.shape, 1 - decayed * 0.5 * 1e-2), rtol=1e-6)


def test_muon_moves_kernels():
    """A kernel with 60 inputs and 5 outputs changes by a matrix with singular values near 1, times the rate and
    0.2 sqrt(60). A bias changes as in Adam."""
    generator = np.random.default_rng(0)
    kernel = keras.Variable(generator.normal(size=[3, 2, 10, 5]), dtype="float32", name="kernel")
    bias = keras.Variable(np.zeros(5), dtype="float32", name="bias")
    gradients = [generator.normal(size=v.shape).astype(np.float32) for v in (kernel, bias)]
    optimizer = optimizers.Muon(1e-2, weight_decay=0.0)
    before = kernel.numpy()
    optimizer.apply([tf.constant(gradient) for gradient in gradients], [kernel, bias])
    update, gradient = (array.reshape(60, 5) for array in (before - kernel.numpy(), gradients[0]))
    u, s, v = np.linalg.svd(gradient, full_matrices=False)
    in_the_basis = u.T @ update @ v.T / (1e-2 * 0.2 * np.sqrt(60))
    assert np.all((np.diag(in_the_basis) > 0.6) & (np.diag(in_the_basis) < 1.3))
    np.testing.assert_allclose(in_the_basis, np.diag(np.diag(in_the_basis)), atol=1e-4)
    np.testing.assert_allclose(bias.numpy(), -1e-2 * np.sign(gradients[1]), rtol=1e-4)


def test_replicas_clip_the_summed_gradient(two_replicas):
    """The gradients 3 and 1 of two replicas sum to 4, which is clipped to 2."""
    with two_replicas.scope():
        weight = keras.Variable([0.0])
        optimizer = optimizers.make_optimizer(train_config(ema_momentum=0.5, global_clipnorm=2.0), [weight])
        share_adam_updates(optimizer)  # as `FlowModel.compile` does

    @tf.function
    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.constant([[3.0], [1.0]])[replica]
        optimizer.apply([gradient])

    two_replicas.run(step)
    np.testing.assert_allclose(optimizer._momentums[0].numpy(), [0.1 * 2.0], rtol=1e-6)
    averages = two_replicas.experimental_local_results(moving_averages(optimizer)[0].value)
    for average in averages:
        np.testing.assert_allclose(average.numpy(), weight.numpy())
    assert weight.numpy() != 0.0


def stepped(config):
    """Returns a model after 4 steps with the optimizer of a config, and the optimizer."""
    model = models.FlowModel(flows.vector_flow(2, 1, (8,), seed=1), [2])
    optimizer = optimizers.make_optimizer(config.train, model.trainable_variables)
    for i in range(4):
        optimizer.apply([tf.random.stateless_normal(v.shape, [0, i]) for v in model.trainable_variables])
    return model, optimizer


def values(weights):
    return [weight.numpy() for weight in weights]


def test_weights_are_averaged_and_come_back(make_config):
    """The weights are restored even after an error. Without averaging, they do not change."""
    model, optimizer = stepped(make_config(train__ema_momentum=0.0))
    before = values(model.trainable_variables)
    averaging.AveragedWeights(model, optimizer).apply()
    np.testing.assert_equal(values(model.trainable_variables), before)
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
