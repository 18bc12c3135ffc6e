"""The fused operation and its estimators, compared with dense linear algebra in float64."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet import AdaptiveRoulette, Exact, PowerSeries, RussianRoulette
from tf_resflow.logdet.term_distributions import Geometric, Poisson

SIZE, BATCH, CONDITION = 3, 4, 2


@pytest.fixture(scope="module")
def branch():
    """Returns a conditional branch with scaled layers that nearly invert each other, so J is far from 0."""
    x, c = (keras.Input([size], dtype="float64") for size in (SIZE, CONDITION))
    layers = resflow.layers
    first = layers.LipschitzDense(6, coefficient=0.8, dtype="float64")
    h = keras.layers.Add(dtype="float64")([first(x), keras.layers.Dense(6, dtype="float64")(c)])
    h = layers.LipSwish(dtype="float64")(h)
    model = keras.Model([x, c], layers.LipschitzDense(SIZE, coefficient=0.8, dtype="float64")(h))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    rows = np.linalg.qr(rng.normal(size=[6, SIZE]))[0].T
    kernels = [layer.kernel for layer in layers.norm_updates.lipschitz_layers(model)]
    kernels[0].assign(kernels[0] + 4 * rows)
    kernels[1].assign(kernels[1] - 4 * rows.T)
    first.bias.assign(first.bias + 1.5)
    layers.update_norms(model, tolerance=1e-13, max_iterations=2000)
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return {name: tf.constant(rng.normal(size=[BATCH, size])) for name, size in (("x", SIZE), ("c", CONDITION))}


def value_and_gradients(estimator, x, c, weights):
    """Returns the log-determinant, and the gradients of its weighted sum in x and c."""
    with tf.GradientTape() as tape:
        tape.watch([x, c])
        log_det = estimator(x, c)
        loss = tf.reduce_sum(weights * log_det)
    return log_det, *tape.gradient(loss, [x, c])


@pytest.mark.parametrize(
    "estimator",
    [
        RussianRoulette(1, Geometric(0.4), per_example=True),
        AdaptiveRoulette(1e-9, max_exact_terms=1, per_example=True, num_probes=2, chance=0.2),
    ],
)
def test_roulette_is_unbiased(branch, data, estimator):
    """For 10,000 copies of an example, values and gradients are within 4.5 standard errors of slogdet.

    Half of the copies have the weight 1, the others -2. One of the 12 means is outside in one of 10,000 seeds.
    """

    def dense(x, c):
        with tf.GradientTape() as tape:
            tape.watch(x)
            g = branch([x, c])
        return tf.linalg.slogdet(tf.eye(SIZE, dtype=tf.float64) + tape.batch_jacobian(g, x))[1]

    x, c = data["x"][:1], data["c"][:1]
    weights = tf.tile(tf.constant([1.0, -2.0], tf.float64), [5000])
    copies = [tf.repeat(part, len(weights), 0) for part in (x, c)]
    drawn = value_and_gradients(lambda x, c: estimator(branch, x, c, seed=[0, 0])[1], *copies, weights)
    samples = np.column_stack([drawn[0], *(part / weights[:, None] for part in drawn[1:])])
    exact = np.concatenate(list(map(np.ravel, value_and_gradients(dense, x, c, 1.0))))
    for part in (samples[::2], samples[1::2]):
        errors = (part.mean(0) - exact) / (part.std(0, ddof=1) / np.sqrt(len(part)))
        assert np.max(np.abs(errors)) < 4.5


def test_per_example_draws_are_masked(branch, data):
    """Each row stops at its own N, so it equals the row of a call where all rows have this N."""

    @dataclasses.dataclass(frozen=True)
    class Given(Poisson):
        counts: Any = 0

        def sample(self, shape, seed):
            return tf.broadcast_to(self.counts, shape)

    def log_det(counts, **settings):
        roulette = RussianRoulette(1, Given(counts=counts), **settings)
        return roulette(branch, data["x"], data["c"], seed=[0, 0])[1]

    counts = (0, 4, 2, 3)
    alone = [log_det(n)[i] for i, n in enumerate(counts)]
    np.testing.assert_allclose(log_det(counts, per_example=True), alone, rtol=1e-12)


def test_a_second_derivative_of_a_series_raises(branch, data):
    def second(x):
        return tf.gradients(tf.gradients(RussianRoulette()(branch, x, data["c"], seed=0)[1], x), x)

    with pytest.raises(ValueError, match="second derivative.*Exact"):
        tf.function(second)(data["x"])


def test_scalar_events_and_second_derivatives():
    """Compares d2/dx2 log(1 + g'(x)) with its formula for the scalar function g = a sin x."""
    a, x = 0.5, tf.constant([0.3, 1.2], tf.float64)

    @tf.function
    def compute(x):
        y, log_det = Exact()(lambda x: a * tf.sin(x), x)
        (first,) = tf.gradients(log_det, x)
        return y, log_det, first, *tf.gradients(first, x)

    s, c, results = np.sin(x), np.cos(x), compute(x)
    expected = x + a * s, np.log1p(a * c), -a * s / (1 + a * c), (-a * c - a**2) / (1 + a * c) ** 2
    np.testing.assert_allclose(results, expected, rtol=1e-12)
    np.testing.assert_allclose(PowerSeries(40)(lambda x: a * tf.sin(x), x), expected[:2], rtol=1e-10)


@pytest.mark.parametrize("kind, probes", [(RussianRoulette, "colored"), (PowerSeries, "gaussian")])
def test_shared_numbers_make_an_estimate_independent_of_its_batch(branch, data, kind, probes):
    """Equal examples in different parts of a batch have different estimates."""
    shared = kind(probes=probes, num_probes=3).with_sets(2)
    inputs = [tf.concat([data[name], data[name]], 0) for name in ("x", "c")]
    value = shared(branch, *inputs, seed=7)[1]
    alone = shared(branch, *(tf.tile(data[name][2:3], [2, 1]) for name in ("x", "c")), seed=7)[1]
    num = len(value) // 2
    np.testing.assert_allclose([value[2], value[num + 2]], alone, rtol=1e-10)
    assert not np.isclose(*alone, rtol=1e-10)


@pytest.mark.parametrize("estimator", [Exact(), RussianRoulette(per_example=True, num_probes=2, probe_sets=1)])
@pytest.mark.parametrize("shape", [[4, 4, 1], [2]])
def test_an_empty_batch_has_empty_results(estimator, shape):
    """The gradient in the parameters is 0. The branch is a network, or a function without a known shape."""
    conv = resflow.flows.conv_branch(shape, 2, kernels=(3, 1)) if len(shape) == 3 else None
    weights = [v.value for v in conv.trainable_variables] if conv else []
    convolved = tf.nn.conv2d(tf.zeros([0, 4, 4, 1]), tf.zeros([3, 3, 1, 2]), 1, "SAME")
    if conv and not isinstance(estimator, Exact) and convolved.shape[-1] != 2:
        pytest.skip("TensorFlow's convolution of an empty batch has a wrong shape with oneDNN on this CPU.")

    @tf.function(input_signature=[tf.TensorSpec([None, *shape])], autograph=False)
    def run(x):
        y, log_det = estimator(conv or (lambda x: tf.sin(x) / 2), x)
        return y, log_det, *tf.gradients(tf.reduce_sum(log_det) + tf.reduce_sum(y), [x, *weights])

    y, log_det, dx, *rest = run(tf.zeros([0, *shape]))
    assert log_det.shape == [0] and y.shape == dx.shape == [0, *shape]
    assert not any(np.any(gradient) for gradient in rest)


def test_events_in_half_precision():
    """g = sin(x) / 2 has the log-determinant sum log(1 + cos(x) / 2), up to 3 rounding errors of its terms."""
    for estimator, dtype, epsilon in [
        (Exact(), "bfloat16", 2.0**-7),
        (PowerSeries(20, probes="basis"), "bfloat16", 2.0**-7),
        (RussianRoulette(20, Poisson(), probes="basis"), "float16", 2.0**-10),
    ]:
        x = tf.constant([[0.25, 1.5, -2.0], [0.0, 3.0, 0.5]], dtype)
        y, log_det = estimator(lambda x: tf.sin(x) / 2, x)
        exact = np.float64(x)
        assert y.dtype == log_det.dtype == dtype
        np.testing.assert_allclose(np.float64(y), exact + np.sin(exact) / 2, atol=3 * epsilon)
        expected = np.sum(np.log1p(np.cos(exact) / 2), 1)
        np.testing.assert_allclose(np.float64(log_det), expected, atol=6 * epsilon)


@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(20, probes="basis")])
def test_a_condition_that_is_the_same_tensor_is_held_constant(estimator):
    """g = x / 2 + sin(c): the Jacobian in x is I / 2, whatever c is."""

    def log_det(x):
        return estimator(lambda inputs: inputs[0] / 2 + tf.sin(inputs[1]), x, x)[1]

    for function in (log_det, tf.function(log_det, autograph=False)):
        np.testing.assert_allclose(function(tf.zeros([2, 3])), [3 * np.log(1.5)] * 2, rtol=1e-5)


def test_settings_out_of_range(refused):
    for make, message in (
        (lambda: PowerSeries(probes="uniform"), "probes='uniform'; in PowerSeries it must be .*rademacher"),
        (lambda: RussianRoulette(-1), "num_exact_terms"),
        (lambda: AdaptiveRoulette(max_exact_terms=0), "max_exact_terms"),
        (lambda: AdaptiveRoulette(chance=1.0), "chance"),
        (lambda: Geometric(0.0), "probability"),
    ):
        refused(message, make)
