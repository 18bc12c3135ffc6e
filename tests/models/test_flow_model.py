"""FlowModel: losses compared with closed forms, data and latents, estimators, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tf_resflow as resflow
from tf_resflow.models.flow_model import sample_latent

tfb = tfp.bijectors
tfd = tfp.distributions
pytestmark = pytest.mark.quick

BASIS = resflow.logdet.PowerSeries(5, probes="basis")


def small_flow():
    return resflow.flows.vector_flow(2, 1, (4,), log_det_estimator=resflow.logdet.RussianRoulette())


def affine_flow(dtype="float32"):
    return resflow.bijectors.Flow([resflow.bijectors.ActNorm([2], dtype=dtype)])


def identity_model(levels=None, base=None):
    """Builds a model of Normalize([0.5, 0.5], [0.25, 0.25]) and a block that is the identity."""
    branch = resflow.flows.dense_branch([2], (4,))
    for variable in branch.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    block = resflow.bijectors.ResidualBlock(branch, BASIS, name="block")
    flow = resflow.bijectors.Flow([resflow.bijectors.Normalize([0.5] * 2, [0.25] * 2), block])
    return resflow.FlowModel(flow, [2], levels=levels, base=base, evaluation_log_det_estimator=BASIS)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(1.0, 2.0, size=[64, 2]).astype("float32")


@pytest.fixture(scope="module")
def model():
    return resflow.FlowModel(small_flow(), [2])


def test_nats_of_continuous_data(data):
    model = identity_model()
    expected = stats.norm(0.5, 0.25).logpdf(data).sum(-1)
    losses = model.example_losses(data, seed=1, training=True)[model.objective]
    for found in (-losses, model.log_prob(data, evaluation=True), model(data)):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    x = data[:4].astype("float16").astype("float32")
    for dtype in ("float64", "float16"):  # are cast
        np.testing.assert_allclose(model.log_prob(x.astype(dtype)), model.log_prob(x), rtol=1e-6)


def test_bits_per_dimension_of_a_uniform_density():
    # The density of each coordinate is 1/2 on [-0.5, 1.5], so the loss is log2(2 L) bits.
    edges = tf.fill([2], 4.0)
    model = identity_model(levels=8, base=tfd.Independent(tfd.Uniform(-edges, edges), 1))
    x = np.random.default_rng(0).integers(8, size=[16, 2]).astype("uint8")
    for flag in (False, True):
        np.testing.assert_allclose(model.log_prob(x, 1, evaluation=flag), -2 * np.log(16), rtol=1e-5)
        np.testing.assert_allclose(model.example_losses(x, 1, training=flag)["bits_per_dim"], 4.0, rtol=1e-5)


@pytest.mark.parametrize("levels", [None, 3])
def test_data_and_latents(levels):
    """The flow is z = 4 x - 2. `encode` maps integers to the centers of their cells."""
    model = identity_model(levels)
    x = np.array([[0, 1], [2, 2]], "float32" if levels is None else "uint8")
    centers = x if levels is None else (x + 0.5) / levels
    np.testing.assert_allclose(model.encode(x), 4 * centers - 2, rtol=1e-6)
    again = model.decode(4 * centers - 2)
    np.testing.assert_allclose(again, x, atol=1e-6)
    assert again.dtype == x.dtype
    prepared = model.prepare(x, resflow.stateless_seed(1)).numpy()
    np.testing.assert_array_equal(prepared if levels is None else np.floor(prepared * levels), x)
    np.testing.assert_allclose(model.data_space.to_data(prepared), x, atol=1e-6)


@pytest.mark.parametrize("policy, dtype", [("mixed_bfloat16", "float32"), ("float32", "float64")])
def test_a_call_does_not_round_the_data(policy, dtype, data, dtype_policy):
    with dtype_policy(policy):
        model = resflow.FlowModel(affine_flow(dtype), [2])
        x = data.astype(dtype) / 3
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(model(x), stats.norm.logpdf(x).sum(-1), rtol=tolerance)


def scaling_model(levels, **solver):
    """Builds a model of two blocks x + S x, where S is diagonal and |S| is at most 1/2."""
    blocks = []
    for name in "ab":
        branch = keras.Sequential([keras.Input([6]), resflow.layers.LipschitzDense(6, 0.9)])
        branch.layers[0].kernel.assign(np.diag(np.linspace(-0.5, 0.5, 6)))
        blocks.append(resflow.bijectors.ResidualBlock(branch, BASIS, name=name, **solver))
    return resflow.FlowModel(resflow.bijectors.Flow(blocks), [6], levels=levels)


def test_decode_stops_at_the_resolution_of_integers():
    """A residual of 1/32 of a level gives an error of at most 1/32 per block, and of 3/32 for the data."""
    model = scaling_model(levels=8)
    x = tf.constant(np.random.default_rng(0).uniform(0.1, 0.9, size=[200, 6]), tf.float32)
    z = model.flow.forward(x)
    atols, invert = (model.data_space.inverse_atol, 0.0), resflow.bijectors.inverse_with_solutions
    loose, tight = (invert(model.flow, z, atol=atol) for atol in atols)
    for one, other in zip(loose[1], tight[1], strict=True):
        assert np.all(one.converged) and np.all(one.residual <= 1 / 256 + 1e-6)
        assert np.mean(one.num_iterations) < np.mean(other.num_iterations) - 1
    error = np.max(np.abs(loose[0] - x)) * 8
    assert 1e-4 < error <= 3 / 32
    np.testing.assert_array_equal(model.decode(z), model.data_space.to_data(loose[0]))
    np.testing.assert_array_equal(model.decode(z, precise=True), model.data_space.to_data(tight[0]))
    z = sample_latent(model.distribution.distribution, 50, seed=3)
    np.testing.assert_array_equal(model.sample(50, seed=3, precise=True), model.decode(z, precise=True))

    # Continuous data and custom solvers keep their tolerance.
    z = tf.constant(np.random.default_rng(0).normal(size=[20, 6]), tf.float32)
    for model in (scaling_model(None), scaling_model(8, inverse_solver=resflow.solvers.FixedPoint())):
        precise, (*_, first) = invert(model.flow, z)
        np.testing.assert_array_equal(model.decode(z), model.data_space.to_data(precise))
        _, (*_, other) = invert(model.flow, z, atol=model.data_space.inverse_atol)
        np.testing.assert_array_equal(other.num_iterations, first.num_iterations)


def test_temperature():
    """The flow is z = 4 x - 2."""
    model = identity_model()
    cold, warm = (model.sample(2000, seed=1, temperature=t) for t in (0.5, 1.0))
    np.testing.assert_allclose(np.mean(model.sample(3, seed=1, temperature=0), 0), 0.5)
    # 4 standard errors of a standard deviation: 4 / sqrt(2 * 2000).
    np.testing.assert_allclose(np.std(warm, 0), 0.25, rtol=0.065)
    np.testing.assert_allclose(cold - 0.5, 0.5 * (warm - 0.5), atol=1e-5)
    np.testing.assert_allclose(sample_latent(model.distribution.distribution, 2000, 1), 4 * warm - 2, atol=1e-5)


BASES = {
    "student_t": lambda: tfd.Independent(tfd.StudentT(tf.ones(2), 1.0, 2.0), 1),
    "no_formula": lambda: tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.ones(2)), tfb.Exp()),
    "with_a_mean": lambda: tfd.Independent(tfd.StudentT(3.0, [1.0, 2.0], 2.0), 1),
}


@pytest.mark.parametrize("kind", BASES)
def test_a_base_without_a_mean_is_sampled_at_temperature_1(kind, refused):
    model = resflow.FlowModel(affine_flow(), [2], base=BASES[kind]())
    latent = model.distribution.distribution
    z = latent.sample(6, seed=resflow.stateless_seed(5))
    sample = tf.function(lambda temperature: sample_latent(latent, 6, 5, temperature), autograph=False)
    for found in (model.sample(6, seed=5), sample(tf.constant(1.0))):
        np.testing.assert_allclose(found, z, rtol=1e-5)
    for cool in (lambda: model.sample(6, 5, 0.5), lambda: sample(tf.constant(0.5))):
        if kind != "with_a_mean":
            refused("Sample at temperature 1", cool, error=tf.errors.InvalidArgumentError)
        else:
            np.testing.assert_allclose(cool(), [1.0, 2.0] + 0.5 * (z - [1.0, 2.0]), rtol=1e-4)


def test_estimators_and_seeds_of_a_call(model, data):
    """`log_det_estimator` replaces both estimators of the model, for one call only."""
    x, exact = tf.constant(data[:16]), resflow.logdet.Exact()
    log_det = resflow.bijectors.with_log_det_estimator(model.flow, exact).forward_log_det_jacobian(x, 1)
    expected = stats.norm.logpdf(model.flow.forward(x)).sum(-1) + log_det
    before = model.log_prob(x, seed=1)
    for evaluation in (False, True):
        found = model.log_prob(x, evaluation=evaluation, log_det_estimator=exact)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(model.log_prob(x, seed=1), before)
    assert np.any(model.log_prob(x, seed=2) != before)
    assert np.any(model.log_prob(x) != model.log_prob(x))


def test_wrong_numbers_and_containers(model, data, refused):
    for num in (2.5, -1, [[2]], "two"):
        refused("num is .*. Give the number of samples", model.sample, num)
    refused("temperature is -1.0. Give a number of at least 0", model.sample, 2, temperature=-1.0)
    assert model.sample(0).shape == [0, 2] and model.sample([2, 3], 1).shape == [2, 3, 2]
    for levels in (0, -1, 1, 1.5, 257):
        refused(
            f"levels is {levels}, but must be an integer from 2", resflow.FlowModel, small_flow(), 2, levels=levels
        )
    for call in (model.log_prob, model.encode, model.initialize):
        refused(r"a dict.* Give one array \[batch, 2\]", call, {"x": data})
    for flow in (tfb.Invert(small_flow()), tfb.Chain([tfb.Exp(), tfb.Invert(small_flow())])):
        refused("applies the inverse of .*Pass the flow itself", resflow.FlowModel, flow, 2)
    resflow.FlowModel(resflow.bijectors.Flow([tfb.Invert(small_flow())]), 2)


def test_wrong_arguments(model, refused):
    """Covers flows that drop seeds, other event shapes, and other data."""
    refused("silently drops seeds. Put it in a", resflow.FlowModel, tfb.Chain(small_flow().bijectors), [2])
    refused(r"Got an input of shape \(3,\).*events of shape \(2,\)", resflow.FlowModel, model.flow, [3])
    refused(r"\(5, 3\). Give batches of examples of shape \(2,\)", model.log_prob, tf.zeros([5, 3]))
    refused("are uint8, but the model needs floats", model.log_prob, tf.zeros([5, 2], tf.uint8))
    of_integers, error = identity_model(levels=17), tf.errors.InvalidArgumentError
    refused("are float32, but the model needs integers 0, ..., 16", of_integers.log_prob, tf.zeros([5, 2]))
    refused("integers 0, ..., 16", of_integers.log_prob, tf.fill([5, 2], tf.constant(17, tf.uint8)), error=error)
