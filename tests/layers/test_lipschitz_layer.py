"""`LipschitzDense` and `LipschitzConv2D` as Keras layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow.layers as layers

TIGHT = {"tolerance": 1e-7, "max_iterations": 6000}
LARGE = keras.initializers.RandomNormal(stddev=1.0, seed=3)


def dense(units=4, **kwargs):
    return layers.LipschitzDense(units, kernel_initializer=LARGE, **kwargs)


def convolution(filters=4, kernel_size=3, **kwargs):
    return layers.LipschitzConv2D(filters, kernel_size, kernel_initializer=LARGE, **kwargs)


CASES = [
    (dense, (3,), {}),
    (dense, (3,), {"domain": 3.0, "codomain": 1.5}),
    (dense, (3,), {"domain": 1}),
    (dense, (3,), {"codomain": np.inf, "use_bias": False}),
    (convolution, (6, 5, 3), {}),
    (convolution, (6, 5, 3), {"kernel_size": 1}),
    (convolution, (6, 5, 3), {"kernel_size": (5, 3), "domain": 2, "codomain": 4}),
    (dense, (3,), {"normalization": "schatten"}),
    (convolution, (6, 5, 3), {"normalization": "schatten"}),
]


def built(make, shape, arguments, **kwargs):
    layer = make(**arguments, **kwargs)
    layer.build((None, *shape))
    layer.built = True
    return layer


def batch(shape, size=2, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype(dtype)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_a_layer_is_constrained_once_built_and_after_an_update(make, shape, arguments):
    layer = built(make, shape, arguments, coefficient=0.7, dtype="float64")
    assert layer.norm_bound() > 0.8
    slack = 1.2 if layer.has_closed_form or layer.domain == layer.codomain else 2.0
    assert layer.lipschitz_bound() <= 0.7 * slack
    layer.update_norm(**TIGHT)
    x, y = batch(shape, 500, 1, "float64"), batch(shape, 500, 2, "float64")
    p, q = layer.domain, layer.codomain
    inputs = np.linalg.norm((x - y).reshape(500, -1), p, axis=1)
    outputs = np.linalg.norm(tf.reshape(layer(x) - layer(y), [500, -1]), q, axis=1)
    assert (outputs <= 0.7 * inputs * (1 + 1e-5)).all()
    assert layer.lipschitz_bound() >= 0.7 * (0.85 if layer.normalization == "schatten" else 1 - 1e-6)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_a_small_kernel_is_left_alone(make, shape, arguments):
    layer = built(make, shape, arguments, coefficient=0.9, dtype="float64")
    layer.kernel.assign(layer.kernel * 1e-3)
    layer.update_norm()
    np.testing.assert_array_equal(layer.scaled_kernel(), layer.kernel)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_a_call_changes_no_variable(make, shape, arguments):
    layer = built(make, shape, arguments, dtype="float64")
    layer.kernel.assign(layer.kernel * 2 + 0.1)
    before = [v.numpy() for v in layer.variables]
    layer(batch(shape, dtype="float64"))
    tf.function(layer)(batch(shape, dtype="float64"))
    layer.norm_estimate(), layer.norm_bound(), layer.lipschitz_bound()
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_gradient_of_the_scaled_kernel_against_finite_differences(make, shape, arguments):
    layer = built(make, shape, arguments, coefficient=0.6, dtype="float64")
    layer.update_norm(tolerance=1e-12, max_iterations=20_000)
    weights = np.random.default_rng(4).normal(size=layer.kernel.shape)
    direction = np.random.default_rng(5).normal(size=layer.kernel.shape)
    kernel = layer.kernel.numpy()

    def value(step):
        layer.kernel.assign(kernel + step * direction)
        layer.update_norm(tolerance=1e-12, max_iterations=20_000)
        return np.sum(weights * layer.scaled_kernel())

    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    value(0.0)
    with tf.GradientTape() as tape:
        objective = tf.reduce_sum(weights * layer.scaled_kernel())
    gradient = tape.gradient(objective, layer.kernel.value)
    np.testing.assert_allclose(np.sum(gradient * direction), difference, rtol=1e-4)


def test_values_of_a_dense_layer_and_a_convolution():
    layer = built(dense, (3,), {"bias_initializer": "ones"}, dtype="float64")
    x = batch((3,), dtype="float64")
    expected = x @ layer.kernel.numpy() / (layer.norm_estimate() / 0.97) + 1
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)
    layer = built(convolution, (4, 4, 2), {"filters": 1, "use_bias": False}, dtype="float64")
    x = batch((4, 4, 2), 1, dtype="float64")
    corner = np.einsum("hwi,hwio->o", x[0, :2, :2], layer.scaled_kernel().numpy()[1:, 1:])
    np.testing.assert_allclose(layer(x)[0, 0, 0], corner, rtol=1e-12)


def test_default_initial_kernel_is_uniform_with_variance_a_third_of_the_mean():
    layer = layers.LipschitzDense(400)
    layer.build((None, 300))
    kernel = layer.kernel.numpy()  # 120,000 values: the relative error of the variance is 0.0026
    assert np.abs(kernel).max() <= 1 / np.sqrt(300) * (1 + 1e-6)
    np.testing.assert_allclose(kernel.var(), 1 / 900, rtol=0.0026 * 5)
    other = layers.LipschitzDense(400)
    other.build((None, 300))
    assert not np.array_equal(kernel, other.kernel)


@pytest.mark.parametrize(
    ("make", "shape", "arguments", "policy"),
    [
        *((*case, "float64") for case in CASES),
        *((*CASES[i], p) for i in (0, 4, 8) for p in ("mixed_bfloat16", "mixed_float16", "bfloat16")),
    ],
)
def test_dtype_policies(make, shape, arguments, policy):
    layer = built(make, shape, arguments, dtype=policy, coefficient=0.9)
    layer.update_norm(tolerance=1e-6, max_iterations=3000)
    outputs = layer(batch(shape, dtype=layer.compute_dtype))
    assert outputs.dtype == layer.compute_dtype
    assert layer.kernel.dtype == layer.variable_dtype
    assert layer.norm_estimate().dtype == ("float64" if policy == "float64" else "float32")
    if policy == "float64":
        np.testing.assert_allclose(outputs, tf.function(layer)(batch(shape, dtype="float64")), rtol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", [(1, 7), (20, 30), (128, 128), (400, 5)])
def test_the_rounded_kernel_meets_the_coefficient(shape, seed, policy):
    random = np.random.default_rng(seed)
    kernel = random.normal(size=shape) if seed % 2 else random.uniform(size=shape)
    layer = layers.LipschitzDense(
        shape[1], 0.9, dtype=policy, kernel_initializer=keras.initializers.Constant(kernel)
    )
    layer.build((None, shape[0]))
    layer.update_norm(tolerance=1e-6, max_iterations=3000)
    applied = tf.cast(tf.cast(layer.scaled_kernel(), layer.compute_dtype), tf.float64)
    norm = np.linalg.norm(applied, 2)
    assert 0.98 * 0.9 <= norm <= 0.9
    np.testing.assert_allclose(layer.lipschitz_bound(), norm, rtol=1e-8)


@pytest.mark.parametrize(("make", "shape", "arguments"), CASES)
def test_config_round_trip(make, shape, arguments):
    layer = make(**arguments, coefficient=0.5, tolerance=0.1, max_iterations=7, name="l", dtype="float64")
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is type(layer)
    for name in (
        "coefficient",
        "domain",
        "codomain",
        "normalization",
        "use_bias",
        "tolerance",
        "max_iterations",
    ):
        assert getattr(copy, name) == getattr(layer, name)
    copy.build((None, *shape))
    layer.build((None, *shape))
    np.testing.assert_array_equal(copy.kernel, layer.kernel)
    assert layer.compute_output_shape((2, *shape)) == layer(batch(shape)).shape


def test_save_and_load_keeps_values_and_vectors(tmp_path):
    model = keras.Sequential(
        [
            keras.Input([6, 5, 3]),
            convolution(),
            convolution(kernel_size=1, domain=3.0, codomain=3.0),
            keras.layers.Flatten(),
            dense(2),
        ]
    )
    layers.update_norms(model, **TIGHT)
    model.layers[0].vector.assign(model.layers[0].vector * 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded(batch((6, 5, 3))), model(batch((6, 5, 3))))


def test_checkpoint_holds_the_vectors(tmp_path):
    layer, other = built(*CASES[0]), built(*CASES[0])
    layer.kernel.assign(layer.kernel * 2 + 1)
    layer.update_norm(**TIGHT)
    path = tf.train.Checkpoint(layer=layer).save(tmp_path / "ckpt")
    tf.train.Checkpoint(layer=other).restore(path).assert_consumed()
    np.testing.assert_array_equal(other.vector, layer.vector)
    np.testing.assert_array_equal(other(batch((3,))), layer(batch((3,))))


def test_building_inside_a_function_gives_the_same_layer():
    layer, reference = dense(name="a"), built(*CASES[0])
    x = batch((3,))
    np.testing.assert_allclose(tf.function(layer)(x), reference(x), rtol=1e-6)
    np.testing.assert_array_equal(layer.vector, reference.vector)
    inside = convolution(kernel_size=1)
    outputs = inside(keras.Input([4, 4, 3]))
    assert outputs.shape == (None, 4, 4, 4)
    assert inside.lipschitz_bound() <= 0.98


def test_update_in_a_graph_equals_eager():
    layer, other = built(*CASES[0], dtype="float64"), built(*CASES[0], dtype="float64")
    for each in (layer, other):
        each.kernel.assign(each.kernel * [[1.0], [2.0], [3.0]])
    layer.update_norm()
    tf.function(other.update_norm)()
    np.testing.assert_allclose(layer.vector, other.vector, rtol=1e-9)


def test_xla_compiles_the_forward_pass_and_the_update(stored_norms):
    layer, x = built(*CASES[4]), batch((6, 5, 3))
    forward = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(forward(x), layer(x), rtol=1e-4, atol=1e-5)
    layer.kernel.assign(layer.kernel * 2 + 0.1)  # the norm must catch up
    outputs = forward(x)
    layer.update_norm(**TIGHT)
    np.testing.assert_allclose(outputs, layer(x), rtol=1e-3, atol=1e-4)
    small = built(*CASES[0])
    small.kernel.assign(small.kernel * 2 + 0.1)
    tf.function(small.update_norm, jit_compile=True)(0.0, 60)
    stored_norms()
    np.testing.assert_allclose(small.norm_estimate(), np.linalg.norm(small.kernel, 2), rtol=1e-3)


@pytest.mark.parametrize("size", [(3, 5), (6, 2)])
def test_a_smaller_image_is_allowed_and_a_larger_is_not(size):
    layer = built(*CASES[4])
    assert layer(batch((*size, 3))).shape == (2, *size, 4)
    with pytest.raises(ValueError, match=r"up to \(6, 5\) pixels"):
        layer(batch((7, 5, 3)))


@pytest.mark.parametrize(("kernel_size", "shape"), [(3, [None, None, None, 3]), (1, [2, None, 5, 3])])
def test_a_graph_of_dynamic_image_size_checks_it_when_it_runs(kernel_size, shape, tmp_path):
    """So do the graphs of its gradient and of a SavedModel. If the size is static, nothing is asserted."""
    layer = built(convolution, (6, 5, 3), {"kernel_size": kernel_size})
    module = tf.Module()
    module.layer = layer

    def gradient(x):
        return tf.gradients(layer(x), x)[0]

    for name, function in {"call": layer, "gradient": gradient}.items():
        setattr(module, name, tf.function(function, [tf.TensorSpec(shape)]))
    tf.saved_model.save(module, tmp_path)
    for loaded in (module, tf.saved_model.load(tmp_path)):
        np.testing.assert_allclose(loaded.call(batch((4, 5, 3))), layer(batch((4, 5, 3))), rtol=1e-5, atol=1e-6)
        for function in (loaded.call, loaded.gradient):
            with pytest.raises(tf.errors.InvalidArgumentError, match="up to .6, 5. pixels"):
                function(batch((7, 5, 3)))
    static = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 6, 5, 3]))
    assert "Assert" not in {op.type for op in static.graph.get_operations()}


@pytest.mark.parametrize("coefficient", [0, -0.5, np.inf, np.nan])
def test_bad_coefficient(coefficient):
    with pytest.raises(ValueError, match="coefficient must be positive"):
        layers.LipschitzDense(2, coefficient)


@pytest.mark.parametrize("order", [0.5, "2", np.nan, True, None])
def test_bad_orders(order):
    with pytest.raises(ValueError, match="domain must be the order"):
        layers.LipschitzDense(2, domain=order)
    with pytest.raises(ValueError, match="codomain must be the order"):
        layers.LipschitzConv2D(2, 3, codomain=order)


@pytest.mark.parametrize("size", [2, (3, 4), 0, -1, (3,), (3, 3, 3), 1.5])
def test_bad_kernel_size(size):
    with pytest.raises(ValueError, match="odd positive integer"):
        layers.LipschitzConv2D(2, size)


def test_bad_sizes():
    with pytest.raises(ValueError, match="units must be"):
        layers.LipschitzDense(0)
    with pytest.raises(ValueError, match="filters must be"):
        layers.LipschitzConv2D(2.5, 3)


@pytest.mark.parametrize("shape", [(None, 8, 3), (8, None, 3), (8, 8, None), (8, 8)])
def test_unknown_image_size(shape):
    with pytest.raises(ValueError, match="Give the image size"):
        layers.LipschitzConv2D(2, 3).build((None, *shape))


def test_dense_needs_a_matrix_unless_the_norm_is_the_same_at_each_position():
    layers.LipschitzDense(2, domain=1, codomain=4)(tf.zeros([2, 5, 3]))
    with pytest.raises(ValueError, match="must be .batch, inputs."):
        layers.LipschitzDense(2, domain=4, codomain=2)(tf.zeros([2, 5, 3]))
    for layer in (layers.LipschitzDense(2, domain=4), layers.LipschitzDense(2, domain=layers.LearnedOrder())):
        layer.build((None, 3))
        with pytest.raises(ValueError, match="ndim=2"):
            layer(tf.zeros([2, 5, 3]))
    with pytest.raises(ValueError, match="last axis"):
        layers.LipschitzDense(2).build((None, None))


@pytest.mark.parametrize(
    "method", ["update_norm", "norm_estimate", "norm_bound", "lipschitz_bound", "scaled_kernel"]
)
def test_unbuilt(method):
    with pytest.raises(ValueError, match="is not built"):
        getattr(layers.LipschitzDense(2), method)()
