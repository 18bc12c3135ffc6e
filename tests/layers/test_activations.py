"""Slopes of the activations on dense grids, in float64."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

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
def test_lipswish_slope(beta):
    layer = with_beta(layers.LipSwish(dtype="float64"), beta)
    assert slopes(layer).min() > -0.1
    assert 0.9998 < slopes(layer).max() <= layer.lipschitz_constant == 1.0


@pytest.mark.parametrize("beta", BETAS)
def test_clipswish_is_lipschitz_in_the_2_norm_only(beta):
    layer = with_beta(layers.CLipSwish(dtype="float64"), beta)
    norms = np.linalg.norm(slopes(layer), axis=1)
    assert 0.9999 < norms.max() <= layer.lipschitz_constant == 1.0
    assert layer.lipschitz_order == 2.0
    assert np.abs(slopes(layer)).sum(1).max() > 1.05


def test_cpila_is_lipschitz_in_the_2_norm_only():
    layer = layers.CPila(dtype="float64")
    norms = np.linalg.norm(slopes(layer), axis=1)
    np.testing.assert_allclose(norms.max(), np.sqrt(1 + 361 * np.exp(-8)) / 1.06, rtol=1e-8)
    assert 0.94 < norms.min() <= norms.max() <= layer.lipschitz_constant == 1.0
    assert layer.lipschitz_order == 2.0
    assert np.abs(slopes(layer)).sum(1).max() > 1.2


@pytest.mark.parametrize("layer", [layers.CLipSwish(), layers.CPila()])
def test_concatenated_activations_double_the_channels(layer):
    assert layer(tf.zeros([2, 5, 5, 3])).shape == layer.compute_output_shape((2, 5, 5, 3))


def test_lipschitz_cube_slope():
    layer = layers.LipschitzCube(dtype="float64")
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


def swish_truth(x, b):
    """Value, slope and curvature, and the derivatives of value and slope in b, each with its error by rounding."""
    s, ds = expit(b * x), expit(b * x) * expit(-b * x)
    common = ds * (2 + b * x * (1 - 2 * s))
    near = np.minimum(np.abs(x), 20 / b)
    parts = x * s, s + b * x * ds, b * common, x**2 * ds, x * common
    return [part / 1.1 for part in parts], [np.abs(x), np.ones_like(x), b + 0 * x, near**2, near]


def clipswish_truth(x, b):
    (value, slope, curvature, db, dslope), errors = swish_truth(x, b)
    below = swish_truth(-x, b)[0]
    parts = [value, below[0]], [slope, -below[1]], [curvature, below[2]], [db, below[3]], [dslope, -below[4]]
    return [np.concatenate(part, -1) / 1.004 for part in parts], errors


def cpila_truth(x, b):
    z = np.concatenate([x, -x], -1) - 0.2
    t = np.maximum(5 * np.minimum(z, 0), -700.0)
    sign = np.sign(np.concatenate([np.ones_like(x), -np.ones_like(x)], -1))
    value = np.maximum(z, 0) + t / 5 * (t**2 / 2 - t + 1) * np.exp(t)
    slope = sign * (1 - t + t**2 / 2 + t**3 / 2) * np.exp(t)
    curvature = 5 * t**2 * (t / 2 + 2) * np.exp(t)
    parts = [value, slope, curvature, 0 * z, 0 * z]
    return [part / 1.06 for part in parts], [np.abs(x) + 0.2, np.ones_like(x), 10 + 0 * x, 0 * x, 0 * x]


def cube_truth(x, b):
    inner = np.clip(x, -1, 1)
    parts = [x - inner + inner**3 / 3, inner**2, 2 * x * (np.abs(x) < 1), 0 * x, 0 * x]
    return parts, [np.abs(x), np.ones_like(x), np.ones_like(x), 0 * x, 0 * x]


TRUTHS = {"LipSwish": swish_truth, "CLipSwish": clipswish_truth, "CPila": cpila_truth, "LipschitzCube": cube_truth}


def first_and_second_derivatives(layer, x, up, w):
    """y; the gradients of <up, y> in x and beta; and those of <w, the one in x>."""
    targets = [x, *(weight.value for weight in layer.weights)]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x)
        first = inner.gradient(y, targets, up)
    return y, *first, *outer.gradient(first[0], targets, w, unconnected_gradients="zero")


@pytest.mark.parametrize(
    ("name", "jit"),
    [*itertools.product(TRUTHS, [False, True]), ("MaxMin", False), ("FullSort", False)],
)
def test_float32_at_all_scales(name, jit):
    """Values, gradients and their gradients, in x and in beta, for x of scales from 1e-30 to 1e30, against float64.

    Values and derivatives in x element by element; those in beta in sums over 800 numbers of one scale. An error of
    rounding is 1e-5 in units of the largest that the term may be near this x.
    """
    rng, layer = np.random.default_rng(0), getattr(layers, name)()
    layer.build((None, 4))
    compute = tf.function(functools.partial(first_and_second_derivatives, layer), jit_compile=jit, autograph=False)
    for scale in [1e-30, 1e-12, 1e-3, 0.3, 1.0, 10.0, 1e3, 1e6, 1e13, 1e20, 1e30]:
        x = (scale * rng.normal(size=(200, 4))).astype("float32")
        for beta in [-40.0, -12.0, 0.5, 9.0] if layer.weights else [0.0]:
            for weight in layer.weights:
                weight.assign(beta)
            up = rng.uniform(0.5, 1.5, layer.compute_output_shape(x.shape)).astype("float32")
            w = rng.uniform(0.5, 1.5, x.shape).astype("float32")
            found = [np.asarray(result, "float64") for result in compute(x, up, w)]
            assert all(np.isfinite(result).all() for result in found), (scale, beta)
            if name in TRUTHS:
                _check_derivatives(TRUTHS[name], x, beta, up, w, found)
            else:
                _check_permutation(name, x, up, found)


def _check_derivatives(truth, x, beta, up, w, found):
    parts, units = truth(x.astype("float64"), np.log1p(np.exp(beta)))
    value, slope, curvature, db, dslope = parts
    over_parts = lambda z: sum(np.split(z, z.shape[-1] // x.shape[-1], -1))  # noqa: E731
    chain = expit(beta)  # db / dbeta
    expected = {
        "y": (value, np.concatenate([units[0]] * (value.shape[-1] // x.shape[-1]), -1)),
        "dx": (over_parts(up * slope), units[1]),
        "dbeta": (chain * np.sum(up * db), chain * np.sum(units[3])),
        "dxdx": (w * over_parts(up * curvature), units[2]),
        "dxdbeta": (chain * np.sum(w * over_parts(up * dslope)), chain * np.sum(units[4])),
    }
    keys = expected if len(found) == 5 else ("y", "dx", "dxdx")
    for key, result in zip(keys, found, strict=True):
        one, unit = expected[key]
        assert (np.abs(result - one) <= 1e-5 * unit + 1e-35).all(), (key, beta, np.abs(x).max())


def _check_permutation(name, x, up, found):
    if name == "FullSort":
        order = np.argsort(x, -1)
    else:
        left, right = np.split(np.arange(4), 2)
        swap = x[:, left] < x[:, right]
        order = np.concatenate([np.where(swap, right, left), np.where(swap, left, right)], -1)
    dx = np.zeros_like(x)
    np.put_along_axis(dx, order, up, -1)
    for result, expected in zip(found, [np.take_along_axis(x, order, -1), dx, 0 * x], strict=True):
        np.testing.assert_array_equal(result, expected)


def test_fused_activations_are_compiled_by_xla_and_others_are_not():
    layer = with_beta(layers.LipSwish(), 0.7)

    def compiled(training):
        function = layers.bind(keras.Sequential([keras.Input([3]), layer]), training=training)
        graph = tf.function(function).get_concrete_function(tf.TensorSpec([4, 3])).graph.as_graph_def()
        return any(f.attr["_XlaMustCompile"].b for f in graph.library.function)

    assert compiled(True)
    assert not compiled(False)
