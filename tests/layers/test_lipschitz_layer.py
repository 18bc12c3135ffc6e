"""`LipschitzDense` and `LipschitzConv2D` as Keras layers."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import layers

TIGHT = {"tolerance": 1e-7, "max_iterations": 6000}
LARGE = keras.initializers.RandomNormal(stddev=1.0, seed=3)


def dense(units=4, **kwargs):
    return layers.LipschitzDense(units, kernel_initializer=LARGE, **kwargs)


def convolution(filters=4, kernel_size=3, **kwargs):
    return layers.LipschitzConv2D(filters, kernel_size, kernel_initializer=LARGE, **kwargs)


CASES = [
    (dense, (3,), {}),
    (dense, (3,), {"domain": 3.0, "codomain": 1.5}),
    (dense, (3,), {"codomain": np.inf, "use_bias": False}),
    (convolution, (6, 5, 3), {"kernel_size": (5, 3)}),
    (convolution, (6, 5, 3), {"kernel_size": (3, 2), "strides": (2, 1)}),
    (convolution, (6, 5, 3), {"kernel_size": 4, "strides": (1, 3), "padding": "valid"}),
    (convolution, (6, 5, 3), {"kernel_size": 1}),
]
DENSE, CONVOLUTION = CASES[0], (convolution, (6, 5, 3), {})


def built(make, shape, arguments, **kwargs):
    layer = make(**arguments, **kwargs)
    layer.build((None, *shape))
    layer.built = True
    return layer


def batch(shape, size=2, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype(dtype)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_a_layer_is_constrained_once_built_and_after_an_update(make, shape, arguments):
    """A call changes no variable, eagerly or in a graph. A small kernel stays unscaled."""
    layer = built(make, shape, arguments, coefficient=0.7, dtype="float64")
    assert layer.norm_bound() > 0.8
    slack = 1.2 if layer.vector is None or layer.domain == layer.codomain else 2.0
    assert layer.lipschitz_bound() <= 0.7 * slack
    before = [v.numpy() for v in layer.variables]
    x, y = batch(shape, 500, 1, "float64"), batch(shape, 500, 2, "float64")
    np.testing.assert_allclose(layer(x), tf.function(layer)(x), rtol=1e-12, atol=1e-12)
    layer.norm_estimate(), layer.norm_bound(), layer.lipschitz_bound()
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    layers.update_norms(layer, **TIGHT)
    p, q = layer.domain, layer.codomain
    inputs = np.linalg.norm((x - y).reshape(500, -1), p, axis=1)
    outputs = np.linalg.norm(tf.reshape(layer(x) - layer(y), [500, -1]), q, axis=1)
    assert (outputs <= 0.7 * inputs * (1 + 1e-5)).all()
    assert layer.lipschitz_bound() >= 0.7 * (1 - 1e-6)
    layer.kernel.assign(layer.kernel * 1e-3)
    np.testing.assert_array_equal(layer.scaled_kernel(), layer.kernel)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES[:-1])
def test_gradient_of_the_scaled_kernel_against_finite_differences(make, shape, arguments):
    layer = built(make, shape, arguments, coefficient=0.6, dtype="float64")
    weights, direction = np.random.default_rng(4).normal(size=(2, *layer.kernel.shape))
    kernel = layer.kernel.numpy()

    def value(step):
        layer.kernel.assign(kernel + step * direction)
        layers.update_norms(layer, tolerance=1e-12, max_iterations=20_000)
        return np.sum(weights * layer.scaled_kernel())

    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    value(0.0)
    with tf.GradientTape() as tape:
        objective = tf.reduce_sum(weights * layer.scaled_kernel())
    gradient = tape.gradient(objective, layer.kernel.value)
    np.testing.assert_allclose(np.sum(gradient * direction), difference, rtol=1e-4)


def test_default_initial_kernel_is_uniform_with_variance_a_third_of_the_mean():
    kernel = built(layers.LipschitzDense, (300,), {"units": 400}).kernel.numpy()
    assert np.abs(kernel).max() <= 1 / np.sqrt(300) * (1 + 1e-6)
    np.testing.assert_allclose(kernel.var(), 1 / 900, rtol=0.0026 * 5)  # 120,000 values


@pytest.mark.parametrize(
    ("shape", "policy"), [((1, 7), "mixed_bfloat16"), ((128, 128), "mixed_float16"), ((400, 5), "bfloat16")]
)
def test_the_rounded_kernel_meets_the_coefficient(shape, policy):
    layer = built(dense, shape[:1], {"units": shape[1], "coefficient": 0.9}, dtype=policy)
    layers.update_norms(layer, tolerance=1e-6, max_iterations=3000)
    assert layer(batch(shape[:1], dtype=layer.compute_dtype)).dtype == layer.compute_dtype
    assert layer.kernel.dtype == layer.variable_dtype and layer.norm_estimate().dtype == "float32"
    kernel = layer.scaled_kernel()
    norms = [
        np.linalg.norm(tf.cast(tf.cast(kernel, x), tf.float64), 2) for x in (layer.compute_dtype, kernel.dtype)
    ]
    assert 0.98 * 0.9 <= norms[0] <= max(norms) <= 0.9
    np.testing.assert_allclose(layer.lipschitz_bound(), max(norms), rtol=1e-8)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_config_and_file_round_trip(make, shape, arguments, tmp_path):
    layer = make(**arguments, coefficient=0.5, tolerance=0.1, max_iterations=7, name="l", dtype="float64")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()
    x = batch(shape, dtype="float64")
    assert layer.compute_output_shape((2, *shape)) == layer(x).shape
    network = keras.Sequential([keras.Input(shape, dtype="float64"), layer])
    network.save(tmp_path / "network.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "network.keras")(x), network(x))


def test_a_config_of_an_earlier_version():
    """It has one more setting, of which one value remains."""
    config = dense().get_config()
    assert layers.LipschitzDense.from_config({**config, "normalization": "induced"}).get_config() == config
    with pytest.raises(ValueError, match="normalization='schatten', which this version does not support"):
        layers.LipschitzDense.from_config({**config, "normalization": "schatten"})


@pytest.mark.parametrize("jit", [False, True])
def test_building_and_updating_in_a_graph_equal_eager(jit, stored_norms):
    layer, other = built(*DENSE), dense()
    np.testing.assert_allclose(tf.function(other)(batch((3,))), layer(batch((3,))), rtol=1e-6)
    np.testing.assert_array_equal(layer.vector, other.vector)
    for each in (layer, other):
        each.kernel.assign(each.kernel * [[1.0], [2.0], [3.0]])
    layers.update_norms(layer)
    tf.function(layers.update_norms, jit_compile=jit)(other)
    stored_norms()
    np.testing.assert_allclose(np.abs(layer.vector), np.abs(other.vector), atol=1e-2)
    for each, tolerance in ((layer, 1e-6), (other, 1e-5)):
        np.testing.assert_allclose(each.norm_estimate(), np.linalg.norm(each.kernel, 2), rtol=tolerance)


def test_larger_images_are_refused_at_once_or_when_the_graph_runs(tmp_path):
    """The graphs of the gradient and of a SavedModel refuse them, too. A static size needs no assertion."""
    with pytest.raises(ValueError, match=r"up to \(6, 5\) pixels"):
        built(*CONVOLUTION)(batch((7, 5, 3)))
    layer, module, spec = built(*CONVOLUTION), tf.Module(), tf.TensorSpec([None, None, None, 3])
    module.layer, module.call = layer, tf.function(layer, [spec])
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(loaded.call(batch((4, 5, 3))), layer(batch((4, 5, 3))), rtol=1e-5, atol=1e-6)
    gradient = tf.function(lambda x: tf.gradients(layer(x), x)[0], [spec])
    for function in (module.call, loaded.call, gradient):
        with pytest.raises(tf.errors.InvalidArgumentError, match="up to .6, 5. pixels"):
            function(batch((7, 5, 3)))
    static = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 6, 5, 3]))
    assert "Assert" not in {op.type for op in static.graph.get_operations()}


@pytest.mark.parametrize(
    ("options", "accepted", "refused"),
    [
        ({"strides": 2}, [(6, 5), (5, 4), (1, 1)], [(6, 6)]),
        ({"strides": (1, 3)}, [(6, 5), (5, 5)], [(6, 4), (7, 5)]),
        ({"strides": 3, "padding": "valid"}, [(6, 5), (5, 4), (3, 3)], [(2, 3), (6, 6)]),
    ],
)
def test_sizes_of_images_for_which_the_norm_is_known(options, accepted, refused):
    layer = built(convolution, (6, 5, 3), options)
    call = tf.function(layer, [tf.TensorSpec([None, None, None, 3])])
    for size in accepted:
        x = batch((*size, 3))
        np.testing.assert_allclose(call(x), layer(x), rtol=1e-5, atol=1e-6)
        assert layer(x).shape == layer.compute_output_shape((2, *size, 3))
    assert layer.compute_output_shape((None, None, 5, 3))[:2] == (None, None)
    for size in refused:
        with pytest.raises(ValueError, match=rf"on images of \({size[0]}, {size[1]}\) pixels"):
            layer(batch((*size, 3)))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"up to \(6, 5\) pixels"):
            call(batch((*size, 3)))


def test_what_is_out_of_range_is_refused():
    dense, convolution, learned = layers.LipschitzDense, layers.LipschitzConv2D, layers.LearnedOrder
    limits = [(2, 2, 5), (1.5, 0.9, 5), (5, 1, 5), (2, 1, np.inf)]
    build = convolution(2, 3).build
    dense(2, domain=1, codomain=4)(tf.zeros([2, 5, 3]))  # the norm is the same at each position
    for call, message in [
        *((partial(dense, 2, coefficient), "coefficient.*positive") for coefficient in (0, np.inf, np.nan)),
        *((partial(dense, 2, domain=order), "domain.*order") for order in (0.5, np.nan)),
        (partial(convolution, 2, 3, codomain=0.5), "codomain.*order"),
        *((partial(convolution, 2, size), "kernel_size is") for size in (0, -1, 2.0, None, (3,), (3, 3, 3))),
        *((partial(convolution, 2, 3, strides=size), "strides is") for size in (0, -2, 1.5, (1, 0), (2, 2, 2))),
        *((partial(convolution, 2, 3, padding=padding), "padding is") for padding in ("causal", None)),
        (partial(convolution(2, 4, padding="valid").build, (8, 3, 5, 1)), r"images of \(3, 5\) pixels.*'same'"),
        *((partial(build, (8, *shape)), "Give the image size") for shape in [(None, 8, 3), (8, 8)]),
        (partial(layers.update_norms, keras.Sequential([dense(2)])), "not built"),
        *((partial(learned, *values), "1 <= low < initial < high") for values in limits),
        (partial(layers.LearnableConcatenation, 0.0), "coefficient.*positive"),
        (partial(dense(2, domain=4), tf.zeros([2, 5, 3])), "must be .batch, inputs."),
        (partial(built(dense, (3,), {"units": 2, "domain": learned()}), tf.zeros([2, 5, 3])), "ndim=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
