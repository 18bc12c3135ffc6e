"""AutoGraph, which is on by default in `tf.function`, converts the user's code but not this package."""

import dataclasses
import inspect

import numpy as np
import tensorflow as tf

import tf_resflow as resflow

GENERATED = set()  # the files of an estimator's callers that AutoGraph generated


@dataclasses.dataclass(frozen=True)
class Watched(resflow.logdet.PowerSeries):
    """An estimator that records its callers' files."""

    def __call__(self, *args, **kwargs):
        files = [frame.filename for frame in inspect.stack(context=0)]
        GENERATED.update(file for file in files if "__autograph_generated_file" in file)
        return super().__call__(*args, **kwargs)


FLOW = resflow.flows.vector_flow(2, 1, (4,), log_det_estimator=Watched(3), seed=1)
MODEL = resflow.FlowModel(FLOW, event_shape=[2])
X = tf.random.stateless_normal([8, 2], [1, 2])


def every_call(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(MODEL.example_losses(x, seed=1, training=True)[MODEL.objective])
    gradients = tape.gradient(loss, MODEL.trainable_variables)
    log_dets = MODEL.log_prob(x, seed=1), FLOW.forward_log_det_jacobian(x, 1, seed=1)
    return gradients, log_dets, MODEL.sample(8, seed=1) + x, MODEL.decode(x)


def test_calls_of_a_user(caplog, monkeypatch):
    """Calls the library in a branch that AutoGraph creates from an `if`."""
    monkeypatch.setattr(tf.get_logger(), "propagate", True)

    def users(x):
        if tf.reduce_sum(x) > -1e9:
            y = every_call(x)
        else:
            y = every_call(-x)
        return y

    GENERATED.clear()
    found = tf.function(users).get_concrete_function(X)(X)
    assert len(GENERATED) <= 2  # the two functions in this test
    assert caplog.messages == []
    for ours, expected in zip(tf.nest.flatten(found), tf.nest.flatten(every_call(X)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
