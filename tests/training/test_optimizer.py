import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import flows, models
from tf_resflow.models.step import divide_by_replicas
from tf_resflow.training import checkpoints as optimizers

BASE = {"steps": 100, "optimizer": "adam", "learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant"}
BASE |= {"beta_2": 0.99, "weight_decay": 0.0, "global_clipnorm": 0.0}


def train_config(**fields):
    return ml_collections.ConfigDict(BASE | fields)


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
        assert type(again) is type(optimizer) and again.get_config() == optimizer.get_config()
        optimizer.apply([tf.zeros(v.shape) for v in variables])
        for variable in variables:
            decayed = any(variable is kernel for kernel in kernels)
            np.testing.assert_allclose(variable, np.full(variable.shape, 1 - decayed * 0.5 * 1e-2), rtol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_replicas_clip_the_summed_gradient(two_replicas, kind):
    """The gradients 3 and 1 of two replicas sum to 4, which is clipped to 2. One process with 4 does the same."""
    weights = []
    for strategy, gradients in ((two_replicas, [[3.0], [1.0]]), (tf.distribute.get_strategy(), [[4.0]])):
        with strategy.scope():
            weight = keras.Variable([0.0], name="bias")
            fields = train_config(optimizer=kind, global_clipnorm=2.0)
            optimizer = optimizers.make_optimizer(fields, [weight])

        @tf.function
        def step(gradients=gradients, optimizer=optimizer):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            (gradient,) = divide_by_replicas([tf.constant(gradients)[replica]])
            optimizer.apply([gradient])

        strategy.run(step)
        np.testing.assert_allclose(optimizer._momentums[0].numpy(), [0.1 * 2.0], rtol=1e-6)
        weights.append(weight.numpy())
    np.testing.assert_allclose(*weights, rtol=1e-6)
    assert weights[0] != 0.0
