"""Slopes of activations on dense grids in float64, and derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from tf_resflow import layers
from tf_resflow.layers.keras_rules import SLOPES
from tf_resflow.layers.rules import Site, rule_of

GRID = np.linspace(-40.0, 40.0, 400_001)[:, None]


def slopes(layer):
    return np.diff(layer(tf.constant(GRID)).numpy(), axis=0) / np.diff(GRID, axis=0)


def test_slopes():
    """CPila is 1-Lipschitz only in the 2-norm."""
    layer, cube = layers.CPila(dtype="float64"), layers.LipschitzCube(dtype="float64")
    norms = np.linalg.norm(slopes(layer), axis=1)
    np.testing.assert_allclose(norms.max(), np.sqrt(1 + 361 * np.exp(-8)) / 1.06, rtol=1e-8)
    assert 0.94 < norms.min() <= norms.max() <= layer.lipschitz_constant == 1.0
    assert layer.lipschitz_order == 2.0 and np.abs(slopes(layer)).sum(1).max() > 1.2
    assert slopes(cube).min() >= -1e-9 and 0.999 < slopes(cube).max() <= cube.lipschitz_constant + 1e-9
    for name, constant in SLOPES.items():
        slope = np.abs(slopes(keras.activations.get(name))).max()
        assert 0.999 * constant <= slope <= constant * (1 + 1e-9), name


@pytest.mark.parametrize("layer", [layers.MaxMin(), layers.FullSort()])
def test_the_jacobian_of_a_sort_is_its_permutation_at_ties_too(layer):
    rows = [[1, 1, 1, 1], [0, -0.0, 0.0, 0], [3, -1, 3, 5], [2, 7, 2, 2], [1, 2, 3, 4], [4, 3, 2, 1]]
    x = tf.constant(rows, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    jacobian = tape.batch_jacobian(y, x)
    a, b = np.split(x, 2, -1)
    max_min = np.concatenate([np.maximum(a, b), np.minimum(a, b)], -1)
    np.testing.assert_array_equal(y, np.sort(x, -1) if isinstance(layer, layers.FullSort) else max_min)
    assert set(np.unique(jacobian)) == {0.0, 1.0}
    for axis in (1, 2):
        np.testing.assert_array_equal(tf.reduce_sum(jacobian, axis), np.ones([6, 4]))
    np.testing.assert_array_equal(tf.linalg.matvec(jacobian, x), y)


def test_no_derivative_at_a_kink_exceeds_the_constant():
    x = tf.constant([-6.0, -3.0, -1.0, 0.0, -0.0, 1.0, 3.0, 6.0])[:, None]
    relu, elu = keras.layers.ReLU, keras.layers.ELU
    others = [layers.LipschitzCube(), relu(), relu(1.0, 0.3), relu(6.0), keras.layers.LeakyReLU(1.5), elu(2.0)]
    for layer in [*others, *map(keras.layers.Activation, SLOPES)]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        branch = keras.Sequential([keras.Input([1]), layer])
        assert np.abs(tape.gradient(y, x)).max() <= layers.lipschitz_constant(branch) * (1 + 1e-6), layer


def swish(x, beta):
    return x * tf.sigmoid(tf.math.softplus(beta) * x) / 1.1


def smooth_relu(z):
    below = tf.minimum(z, 0.0)
    return tf.where(z > 0, z, (12.5 * below**3 - 5 * below**2 + below) * tf.exp(5 * below))


FORMULAS = {
    "LipSwish": swish,
    "CLipSwish": lambda x, beta: tf.concat([swish(x, beta), swish(-x, beta)], -1) / 1.004,
    "CPila": lambda x, beta: tf.concat([smooth_relu(x - 0.2), smooth_relu(-x - 0.2)], -1) / 1.06,
}


def first_and_second_derivatives(f, x, up, w, *parameters):
    """Returns y, the gradients of <up, y> in x and the parameters, and the gradients of <w, d<up, y>/dx>."""
    targets = [x, *parameters]
    with tf.GradientTape() as outer:
        outer.watch(targets)
        with tf.GradientTape() as inner:
            inner.watch(targets)
            y = f(x)
        first = inner.gradient(y, targets, up, unconnected_gradients="zero")
    return y, *first, *outer.gradient(first[0], targets, w, unconnected_gradients="zero")


@pytest.mark.parametrize(
    ("name", "fused"), [("LipSwish", True), ("LipSwish", False), ("CLipSwish", False), ("CPila", False)]
)
def test_derivatives_up_to_the_third(name, fused):
    """Compares the derivatives that the gradient of a power series and its own gradient need with autodiff."""
    layer = getattr(layers, name)(dtype="float64")
    layer.build((None, 3))
    beta = layer.beta.value if layer.weights else tf.constant(0.0, tf.float64)
    smooth = rule_of(layer).operation(layer, Site("float64", fused=fused))

    def derivatives(f, x, up):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, beta])
            y, dx, db, dxx, dxb = first_and_second_derivatives(f, x, up, tf.cos(x), beta)
        others = [tape.gradient(of, [x, beta], unconnected_gradients="zero") for of in (db, dxx, dxb)]
        return y, dx, db, dxx, dxb, *sum(others, [])

    @tf.function
    def compute(x, up):
        actual = derivatives(lambda x: smooth([x], rule_of(layer).weights(layer, "float64")), x, up)
        return actual, derivatives(lambda x: FORMULAS[name](x, beta), x, up)

    x = tf.random.stateless_normal([2, 40, 3], [0, 1], dtype=tf.float64)
    shape = layer.compute_output_shape(x.shape)
    actual, expected = compute(x, tf.random.stateless_normal(shape, [0, 2], dtype=tf.float64))
    assert actual[0].shape == shape
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-11)


def units_of(name, x, beta):
    """Returns the largest possible size of y, dx, dbeta, dxdx and dxdbeta near x."""
    size, ones, b = np.abs(x), np.ones_like(x), np.log1p(np.exp(beta))
    if name == "CPila":
        return size + 0.2, ones, 0 * x, 10 * ones, 0 * x
    near, chain = np.minimum(size, 20 / b), expit(beta)  # db / dbeta
    return size, ones, chain * near**2, b * ones, chain * near


@pytest.mark.parametrize(
    ("name", "jit"), [("LipSwish", False), ("LipSwish", True), ("CLipSwish", True), ("CPila", True)]
)
def test_float32_at_all_scales(name, jit):
    """Values and two derivatives match float64 up to 1e-5 of the largest possible term near x."""
    rng, layer = np.random.default_rng(0), getattr(layers, name)()
    layer.build((None, 4))
    parameters = [weight.value for weight in layer.weights]

    @tf.function(jit_compile=jit, autograph=False)
    def compute(x, up, w):
        return first_and_second_derivatives(layer, x, up, w, *parameters)

    for scale in [1e-30, 1e-12, 1e-3, 0.3, 1.0, 10.0, 1e3, 1e6, 1e13, 1e20, 1e30]:
        for beta in [-40.0, -12.0, 0.5, 9.0] if parameters else [0.0]:
            x = (scale * rng.normal(size=(200, 4))).astype("float32")
            for weight in layer.weights:
                weight.assign(beta)
            up = rng.uniform(0.5, 1.5, layer.compute_output_shape(x.shape)).astype("float32")
            w = rng.uniform(0.5, 1.5, x.shape).astype("float32")
            found = [np.asarray(result, "float64") for result in compute(x, up, w)]
            assert all(np.isfinite(result).all() for result in found), (scale, beta)
            wide = [tf.constant(array, tf.float64) for array in (x, up, w, beta)]
            exact = first_and_second_derivatives(lambda x, b=wide[3]: FORMULAS[name](x, b), *wide)
            units = units_of(name, x.astype("float64"), beta)
            chosen = range(5) if parameters else (0, 1, 3)
            for result, i in zip(found, chosen, strict=True):
                unit = np.sum(units[i]) if i in (2, 4) else np.tile(units[i], result.shape[-1] // 4)
                assert (np.abs(result - exact[i]) <= 1e-5 * unit + 1e-35).all(), (i, beta, scale)


def test_xla_compiles_activations_of_large_batches_in_training():
    layer = layers.LipSwish()

    def compiled(training, rows):
        function = layers.program.bind(keras.Sequential([keras.Input([1024]), layer]), training=training)
        graph = tf.function(function).get_concrete_function(tf.TensorSpec([rows, 1024])).graph.as_graph_def()
        return any(f.attr["_XlaMustCompile"].b for f in graph.library.function)

    assert compiled(True, 1024) and not compiled(True, 64)
    assert not compiled(False, 1024)
