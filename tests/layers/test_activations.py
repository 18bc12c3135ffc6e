"""Slopes of the activations on dense grids, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow.layers as layers
from tf_resflow.layers.program import SLOPES

GRID = np.linspace(-40.0, 40.0, 400_001)[:, None]
BETAS = [-1.0, 0.0, 0.5, 3.0]


def with_beta(layer, beta, features=1):
    layer.build((None, features))
    layer.beta.assign(beta)
    return layer


def slopes(layer):
    return np.diff(layer(tf.constant(GRID)).numpy(), axis=0) / np.diff(GRID, axis=0)


@pytest.mark.parametrize("beta", BETAS)
def test_lipswish_value_and_slope(beta):
    layer = with_beta(layers.LipSwish(dtype="float64"), beta)
    x = np.array([[-3.0], [0.0], [0.7]])
    scale = np.log1p(np.exp(beta))
    np.testing.assert_allclose(layer(x), x / (1 + np.exp(-scale * x)) / 1.1, rtol=1e-6)
    assert slopes(layer).min() > -0.1
    assert 0.9998 < slopes(layer).max() <= layer.lipschitz_constant == 1.0


@pytest.mark.parametrize("beta", BETAS)
def test_clipswish_is_lipschitz_in_the_2_norm_only(beta):
    layer = with_beta(layers.CLipSwish(dtype="float64"), beta)
    x = np.array([[-3.0], [0.7]])
    part = with_beta(layers.LipSwish(dtype="float64"), beta)
    np.testing.assert_allclose(layer(x), np.concatenate([part(x), part(-x)], 1) / 1.004)
    norms = np.linalg.norm(slopes(layer), axis=1)
    assert 0.9999 < norms.max() <= layer.lipschitz_constant == 1.0
    assert layer.lipschitz_order == 2.0
    assert np.abs(slopes(layer)).sum(1).max() > 1.05


def pila(z, k=5.0):
    """Pila as Ahn et al. 2022 define it."""
    return np.where(z > 0, z, (k**2 * z**3 / 2 - k * z**2 + z) * np.exp(k * np.minimum(z, 0)))


def test_cpila_is_lipschitz_in_the_2_norm_only():
    layer = layers.CPila(dtype="float64")
    np.testing.assert_allclose(layer(GRID), np.hstack([pila(GRID - 0.2), pila(-GRID - 0.2)]) / 1.06, atol=1e-14)
    norms = np.linalg.norm(slopes(layer), axis=1)
    np.testing.assert_allclose(norms.max(), np.sqrt(1 + 361 * np.exp(-8)) / 1.06, rtol=1e-8)
    assert 0.94 < norms.min() <= norms.max() <= layer.lipschitz_constant == 1.0
    assert layer.lipschitz_order == 2.0
    assert np.abs(slopes(layer)).sum(1).max() > 1.2


@pytest.mark.parametrize("layer", [layers.CLipSwish(), layers.CPila()])
def test_concatenated_activations_double_the_channels(layer):
    assert layer(tf.zeros([2, 5, 5, 3])).shape == layer.compute_output_shape((2, 5, 5, 3))


def test_lipschitz_cube():
    layer = layers.LipschitzCube(dtype="float64")
    x = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 2.0])
    expected = [-3 + 2 / 3, -1 / 3, -0.125 / 3, 0.0, 0.125 / 3, 2 - 2 / 3]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)
    assert slopes(layer).min() >= -1e-9
    assert 0.999 < slopes(layer).max() <= layer.lipschitz_constant + 1e-9


@pytest.mark.parametrize("order", [1, 2, np.inf])
@pytest.mark.parametrize("layer", [layers.MaxMin(), layers.FullSort()])
def test_sorting_activations_permute_and_do_not_expand(layer, order):
    a, b = np.random.default_rng(0).normal(size=(2, 10_000, 6)).astype("float32")
    b = a + 0.3 * b
    np.testing.assert_array_equal(np.sort(layer(a), -1), np.sort(a, -1))
    change = np.linalg.norm(layer(a) - layer(b), order, axis=1)
    assert (change <= np.linalg.norm(a - b, order, axis=1) * (1 + 1e-5)).all()
    assert layer.lipschitz_constant == 1.0


def test_maxmin_and_fullsort_values():
    x = tf.constant([[3.0, -1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(layers.MaxMin()(x), [[3.0, 5.0, 2.0, -1.0]])
    np.testing.assert_array_equal(layers.FullSort()(x), [[-1.0, 2.0, 3.0, 5.0]])


@pytest.mark.parametrize("make", [tf.identity, tf.function])
@pytest.mark.parametrize("layer", [layers.MaxMin(), layers.FullSort()])
def test_the_jacobian_of_a_sort_is_its_permutation_at_ties_too(layer, make):
    """A permutation matrix that maps the input to the output; the second derivative is zero."""
    rows = [[1, 1, 1, 1], [0, -0.0, 0.0, 0], [3, -1, 3, 5], [2, 7, 2, 2], [1, 2, 3, 4], [4, 3, 2, 1]]

    def derivatives(x):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            jacobian = tape.batch_jacobian(y, x)
        return y, jacobian, outer.gradient(jacobian, x, unconnected_gradients="zero")

    derivatives = tf.function(derivatives) if make is tf.function else derivatives
    x = tf.constant(rows, tf.float32)
    y, jacobian, second = derivatives(x)
    assert set(np.unique(jacobian)) == {0.0, 1.0}
    np.testing.assert_array_equal(tf.reduce_sum(jacobian, 1), np.ones([6, 4]))
    np.testing.assert_array_equal(tf.reduce_sum(jacobian, 2), np.ones([6, 4]))
    np.testing.assert_array_equal(tf.linalg.matvec(jacobian, x), y)
    np.testing.assert_array_equal(second, np.zeros([6, 4]))


KINKS = [-6.0, -3.0, -1.0, 0.0, -0.0, 1.0, 3.0, 6.0]


@pytest.mark.parametrize(
    "layer",
    [
        layers.LipschitzCube(),
        keras.layers.ReLU(),
        keras.layers.ReLU(1.0, 0.3),
        keras.layers.ReLU(6.0),
        keras.layers.LeakyReLU(1.5),
        keras.layers.ELU(2.0),
        *map(keras.layers.Activation, sorted(SLOPES)),
    ],
)
def test_no_derivative_at_a_kink_exceeds_the_constant(layer):
    x = tf.constant(KINKS)[:, None]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    branch = keras.Sequential([keras.Input([1]), layer])
    assert np.abs(tape.gradient(y, x)).max() <= layers.lipschitz_constant(branch) * (1 + 1e-6)


def test_maxmin_rejects_an_odd_number_of_channels():
    with pytest.raises(ValueError, match="must be even"):
        layers.MaxMin()(tf.zeros([2, 3]))


@pytest.mark.parametrize("name", sorted(SLOPES))
def test_constants_of_keras_activations(name):
    slope = np.abs(slopes(keras.activations.get(name))).max()
    assert 0.999 * SLOPES[name] <= slope <= SLOPES[name] * (1 + 1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LipSwish(),
        layers.CLipSwish(),
        layers.CPila(),
        layers.MaxMin(),
        layers.FullSort(),
        layers.LipschitzCube(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_save_and_load(layer, tmp_path):
    model = keras.Sequential([keras.Input([4]), type(layer).from_config(layer.get_config())])
    for weight in model.weights:
        weight.assign(1.3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


def swish(x, beta):
    return x * tf.sigmoid(tf.math.softplus(beta) * x) / 1.1


def smooth_relu(z):
    below = tf.minimum(z, 0.0)
    return tf.where(z > 0, z, (12.5 * below**3 - 5 * below**2 + below) * tf.exp(5 * below))


SMOOTH = {
    "LipSwish": (layers.LipSwish, swish),
    "CLipSwish": (layers.CLipSwish, lambda x, beta: tf.concat([swish(x, beta), swish(-x, beta)], -1) / 1.004),
    "CPila": (
        layers.CPila,
        lambda x, beta: tf.concat([smooth_relu(x - 0.2), smooth_relu(-x - 0.2)], -1) / 1.06 + 0.0 * beta,
    ),
}


def test_save_and_load_a_learnable_concatenation(tmp_path):
    x = keras.Input([4])
    joined = layers.LearnableConcatenation(0.7)
    model = keras.Model(x, joined([x, layers.CLipSwish()(x)]))
    joined.logits.assign([0.5, -1.0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(GRID[:5] * np.ones(4)), model(GRID[:5] * np.ones(4)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_up_to_the_third(name, fused):
    """The derivatives in a gradient of a power series and in its gradient, against autodiff of the formula."""
    kind, formula = SMOOTH[name]
    layer = kind(dtype="float64")
    layer.build((None, 3))
    beta = layer.beta.value if layer.weights else tf.constant(0.0, tf.float64)
    smooth = layer.operation("float64", fused=fused)

    def derivatives(f, x, up):
        with tf.GradientTape(persistent=True) as third:
            third.watch([x, beta])
            with tf.GradientTape(persistent=True) as second:
                second.watch([x, beta])
                with tf.GradientTape() as first:
                    first.watch([x, beta])
                    y = f(x)
                dx, db = first.gradient(y, [x, beta], up, unconnected_gradients="zero")
            dxx, dxb = second.gradient(dx, [x, beta], unconnected_gradients="zero")
            dbx, dbb = second.gradient(db, [x, beta], unconnected_gradients="zero")
        thirds = third.gradient(dxb, x), third.gradient(dxx, beta), third.gradient(dxx, x)
        return y, dx, db, dxx, dxb, dbx, dbb, *(tf.zeros([]) if value is None else value for value in thirds)

    @tf.function
    def compute(x, up):
        actual = derivatives(lambda x: smooth([x], layer.applied_weights("float64")), x, up)
        return actual, derivatives(lambda x: formula(x, beta), x, up)

    x = tf.random.stateless_normal([2, 40, 3], [0, 1], dtype=tf.float64)
    up = tf.random.stateless_normal(layer(x).shape, [0, 2], dtype=tf.float64)
    actual, expected = compute(x, up)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, tf.cast(tf.broadcast_to(e, a.shape), a.dtype), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("beta", [-12.0, -90.0])
def test_lipswish_gradient_of_a_small_slope(beta):
    """db = x^2 t (1 - t) / 1.1 softplus'(beta), computed in float64; nothing cancels as b goes to 0."""
    layer = with_beta(layers.LipSwish(), beta)
    x = np.random.default_rng(0).normal(size=[100, 1])
    b = np.log1p(np.exp(beta))
    t = 1 / (1 + np.exp(-b * x))
    expected = np.sum(x**2 * t * (1 - t)) / 1.1 / (1 + np.exp(-beta))
    with tf.GradientTape() as tape:
        y = layer(tf.constant(x, tf.float32))
    np.testing.assert_allclose(tape.gradient(y, layer.beta.value), expected, rtol=1e-5, atol=1e-35)


def test_fused_activations_are_compiled_by_xla_and_others_are_not():
    layer = with_beta(layers.LipSwish(), 0.7)

    def compiled(training):
        function = layers.bind(keras.Sequential([keras.Input([3]), layer]), training=training)
        graph = tf.function(function).get_concrete_function(tf.TensorSpec([4, 3])).graph.as_graph_def()
        return any(f.attr["_XlaMustCompile"].b for f in graph.library.function)

    assert compiled(True)
    assert not compiled(False)
