"""The constant of a branch, nominal and certified."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow.layers as layers

Dense = layers.LipschitzDense


def sequential(*parts, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *parts])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([Dense(4, 0.9)], 0.9),
        ([Dense(8, 0.9), layers.LipSwish(), Dense(4, 0.5)], 0.45),
        ([layers.CLipSwish(), Dense(8, 0.9), layers.MaxMin(), Dense(4, 0.5)], 0.45),
        ([keras.layers.Activation("sigmoid"), Dense(4, 0.9)], 0.225),
        ([keras.layers.Activation("swish"), Dense(4, 0.9)], 0.9 * 1.0999),
        ([keras.layers.ReLU(negative_slope=3.0), Dense(4, 0.5)], 1.5),
        ([keras.layers.LeakyReLU(negative_slope=0.1), Dense(4, 0.5)], 0.5),
        ([keras.layers.ELU(alpha=2.0), Dense(4, 0.5)], 1.0),
        ([keras.layers.Rescaling(-0.25, offset=3.0)], 0.25),
        ([keras.layers.Rescaling([0.1, -0.5, 0.2, 0.3])], 0.5),
        ([keras.layers.Dropout(0.0), keras.layers.Reshape([2, 2]), keras.layers.Flatten()], 1.0),
        ([sequential(Dense(4, 0.5)), sequential(Dense(4, 0.3), layers.LipschitzCube())], 0.15),
        ([Dense(6, 0.5, domain=3, codomain=1.5), Dense(4, 0.5, domain=1.5, codomain=3)], 0.25),
    ],
)
def test_chains(parts, expected):
    branch = sequential(*parts)
    np.testing.assert_allclose(layers.lipschitz_constant(branch), expected, rtol=1e-12)
    assert isinstance(layers.lipschitz_constant(branch), float)


def test_a_convolutional_branch_and_its_padding():
    branch = sequential(
        keras.layers.ZeroPadding2D(1),
        layers.LipschitzConv2D(3, 3, 0.5),
        keras.layers.Cropping2D(1),
        layers.FullSort(),
        layers.LipschitzConv2D(2, 1, 0.5),
        shape=(4, 4, 2),
    )
    assert layers.lipschitz_constant(branch) == 0.25


def test_a_single_layer_and_a_layer_that_is_shared():
    layer = Dense(4, 0.5)
    layer.build((None, 4))
    assert layers.lipschitz_constant(layer) == 0.5
    x = keras.Input([4])
    assert layers.lipschitz_constant(keras.Model(x, layer(layer(x)))) == 0.25


def test_sums_means_and_concatenations():
    x = keras.Input([4])
    a, b = Dense(4, 0.3)(x), Dense(4, 0.4)(x)
    join = keras.layers
    for outputs, expected in [
        (join.Add()([a, b]), 0.7),
        (join.Subtract()([a, b]), 0.7),
        (join.Average()([a, b]), 0.35),
        (Dense(4, 0.9)(join.Concatenate()([a, b])), 0.45),
        (Dense(4, 0.9)(join.Concatenate()([x, x])), 0.9 * 2**0.5),
    ]:
        np.testing.assert_allclose(layers.lipschitz_constant(keras.Model(x, outputs)), expected)


@pytest.mark.parametrize(
    ("order", "expected"), [(1, 0.7), (4, (0.3**4 + 0.4**4) ** 0.25), (np.inf, 0.4)]
)
def test_concatenation_in_other_norms(order, expected):
    x = keras.Input([4])
    orders = {"domain": order, "codomain": order}
    joined = keras.layers.Concatenate()([Dense(4, 0.3, **orders)(x), Dense(4, 0.4, **orders)(x)])
    branch = keras.Model(x, Dense(4, 1.0, **orders)(joined))
    np.testing.assert_allclose(layers.lipschitz_constant(branch), expected)


def test_a_concatenation_ahead_of_the_first_norm_takes_its_order():
    x = keras.Input([4])
    joined = keras.layers.Concatenate()([x, x])
    branch = keras.Model(x, Dense(4, 0.5, domain=1, codomain=1)(joined))
    np.testing.assert_allclose(layers.lipschitz_constant(branch), 1.0)


def test_further_inputs_pass_through_any_layer():
    x, condition = keras.Input([4]), keras.Input([3])
    embedded = keras.layers.Dense(4)(keras.layers.LayerNormalization()(condition))
    hidden = keras.layers.Add()([Dense(4, 0.5)(x), embedded])
    branch = keras.Model([x, condition], Dense(4, 0.5)(layers.LipSwish()(hidden)))
    assert layers.lipschitz_constant(branch) == 0.25
    np.testing.assert_allclose(
        layers.lipschitz_constant(branch, certified=True), 0.25, rtol=0.05, atol=0.25
    )
    swapped = keras.Model([condition, x], branch([x, condition]))
    with pytest.raises(ValueError, match="is unknown"):
        layers.lipschitz_constant(swapped)


def test_the_constant_bounds_what_is_measured():
    x = keras.Input([4])
    wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1)}
    parts = [Dense(8, 0.9, **wide)(x), layers.CLipSwish()(Dense(8, 0.8, **wide)(x))]
    joined = keras.layers.Concatenate()(parts)
    branch = keras.Model(x, Dense(4, 0.7, **wide)(joined))
    layers.update_norms(branch, 1e-6, 3000)
    nominal = layers.lipschitz_constant(branch)
    certified = layers.lipschitz_constant(branch, certified=True)
    np.testing.assert_allclose(certified, nominal, rtol=1e-4)
    random = np.random.default_rng(0)
    a = tf.constant(random.normal(size=(2000, 4)), tf.float32)
    b = a + tf.constant(0.1 * random.normal(size=(2000, 4)), tf.float32)
    ratios = np.linalg.norm(branch(a) - branch(b), axis=1) / np.linalg.norm(a - b, axis=1)
    assert 0.2 * nominal < ratios.max() <= nominal


def test_certified_is_the_product_of_the_true_norms_in_a_graph():
    branch = sequential(Dense(6, 0.9), layers.LipSwish(), Dense(4, 0.8))
    certified = tf.function(lambda: layers.lipschitz_constant(branch, certified=True))()
    kernels = [layer.scaled_kernel().numpy() for layer in layers.lipschitz_layers(branch)]
    expected = np.prod([np.linalg.norm(kernel.astype("float64"), 2) for kernel in kernels])
    assert certified.dtype == tf.float64 and certified.shape == []
    np.testing.assert_allclose(certified, expected, rtol=1e-6)


def test_certified_shows_what_a_stale_estimate_hides():
    branch = sequential(Dense(4, 0.9))
    branch.layers[0].kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0]))
    branch.layers[0].vector.assign([[1.0, 0.0, 0.0, 0.0]])
    assert layers.lipschitz_constant(branch) == 0.9
    with layers.stored_norms():
        np.testing.assert_allclose(layers.lipschitz_constant(branch, certified=True), 3.6, rtol=1e-6)


def test_objects_that_declare_their_constant():
    class Half(keras.layers.Layer):
        lipschitz_constant = 0.5

        def call(self, x):
            return 0.5 * tf.sin(x)

    class Module(tf.Module):
        lipschitz_constant = 0.3

    assert layers.lipschitz_constant(sequential(Half(), Dense(4, 0.5))) == 0.25
    assert layers.lipschitz_constant(Module()) == 0.3
    assert layers.lipschitz_constant(Module(), certified=True).dtype == tf.float64


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(4),
        keras.layers.LayerNormalization(),
        keras.layers.Lambda(lambda x: x),
        keras.layers.Activation("exponential"),
        keras.layers.ReLU(threshold=1.0),
        keras.layers.PReLU(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_unknown_layers_are_named(layer):
    branch = sequential(Dense(4), layer)
    with pytest.raises(ValueError, match=f"'{layer.name}'.*is unknown.*lipschitz_constant="):
        layers.lipschitz_constant(branch)


def test_other_errors():
    with pytest.raises(ValueError, match="is not built"):
        layers.lipschitz_constant(Dense(4))
    with pytest.raises(ValueError, match="Dropout of rate 0.5"):
        layers.lipschitz_constant(sequential(keras.layers.Dropout(0.5)))
    with pytest.raises(ValueError, match="is unknown"):
        layers.lipschitz_constant(tf.Module())
    x = keras.Input([4])
    with pytest.raises(ValueError, match="one output"):
        layers.lipschitz_constant(keras.Model(x, [x, Dense(4)(x)]))


def test_orders_must_chain_and_return():
    with pytest.raises(ValueError, match="3-norm as its domain.*in the 1.5-norm"):
        layers.lipschitz_constant(sequential(Dense(4, codomain=1.5), Dense(4, domain=3)))
    with pytest.raises(ValueError, match="must end in the norm that it began"):
        layers.lipschitz_constant(sequential(Dense(4, codomain=3)))
    with pytest.raises(ValueError, match="joins tensors of different norms"):
        x = keras.Input([4])
        y = keras.layers.Add()([Dense(4, codomain=1.5)(x), Dense(4)(x)])
        layers.lipschitz_constant(keras.Model(x, y))
    with pytest.raises(ValueError, match="holds in the 2-norm only"):
        orders = {"domain": 1, "codomain": 1}
        layers.lipschitz_constant(
            sequential(Dense(4, **orders), layers.CLipSwish(), Dense(4, **orders))
        )


def test_learned_orders_must_be_the_same_objects():
    pairs = layers.LearnedOrder.cycle(2)
    branch = sequential(*(Dense(4, 0.5, domain=p, codomain=q) for p, q in pairs))
    assert layers.lipschitz_constant(branch) == 0.25
    other = layers.LearnedOrder()
    with pytest.raises(ValueError, match="learned"):
        layers.lipschitz_constant(
            sequential(Dense(4, codomain=other), Dense(4, domain=layers.LearnedOrder()))
        )
