"""A SavedModel gives the values of the model that it was saved from."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors


class Server(tf.Module):
    def __init__(self, density):
        super().__init__()
        self.density = density

    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([2], tf.int32)], autograph=False)
    def log_prob(self, x, seed):
        return {"log_prob": self.density.log_prob(x, bijector_kwargs={"seed": seed})}

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.int32), tf.TensorSpec([2], tf.int32)],
        autograph=False,
    )
    def sample(self, num, seed):
        return {"x": self.density.sample(num, seed=seed)}


@pytest.fixture(scope="module")
def served(tmp_path_factory, make_block, make_coupling, density):
    members = [resflow.bijectors.ActNorm([2]), make_block("a"), tfb.Scale(2.0)]
    members += [resflow.bijectors.InvertibleConv1x1(2), make_coupling("affine"), make_coupling("additive")]
    flow = resflow.bijectors.Flow(members)
    members[0].shift.assign([0.5, -0.5])
    server = Server(density(flow))
    path = str(tmp_path_factory.mktemp("saved") / "1")
    signatures = {"log_prob": server.log_prob, "sample": server.sample}
    tf.saved_model.save(server, path, signatures=signatures)
    return server, tf.saved_model.load(path)


@pytest.mark.parametrize("count", [1, 5])
def test_log_prob(served, count):
    server, loaded = served
    x = tf.random.stateless_normal([count, 2], [0, 1])
    seeds = [tf.constant([1, i]) for i in range(2)]
    values = [loaded.log_prob(x, seed)["log_prob"] for seed in seeds]
    for seed, value in zip(seeds, values, strict=True):
        np.testing.assert_array_equal(value, server.log_prob(x, seed)["log_prob"])
        signature = loaded.signatures["log_prob"](x=x, seed=seed)
        np.testing.assert_array_equal(value, signature["log_prob"])
    assert np.any(values[0] != values[1])  # an example may draw the same probes twice
    eager = server.density.log_prob(x, bijector_kwargs={"seed": seeds[0]})
    np.testing.assert_allclose(values[0], eager, rtol=1e-5)


def test_sample(served):
    server, loaded = served
    num, seed = tf.constant(4), tf.constant([1, 2])
    x = loaded.signatures["sample"](num=num, seed=seed)["x"]
    assert x.shape == [4, 2]
    np.testing.assert_array_equal(x, server.sample(num, seed)["x"])
    assert np.all(x != loaded.sample(num, tf.constant([1, 3]))["x"])
