"""The constant of a branch, nominal and certified."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow.layers as layers
from tf_resflow.layers.precision import confine_to_training

Dense = layers.LipschitzDense


join = keras.layers


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
    for outputs, expected in [
        (join.Add()([a, b]), 0.7),
        (join.Subtract()([a, b]), 0.7),
        (join.Average()([a, b]), 0.35),
        (Dense(4, 0.9)(join.Concatenate()([a, b])), 0.45),
        (Dense(4, 0.9)(join.Concatenate()([x, x])), 0.9 * 2**0.5),
    ]:
        np.testing.assert_allclose(layers.lipschitz_constant(keras.Model(x, outputs)), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
def test_learnable_concatenation(dtype):
    """The nominal constant holds for all weights; the certified one is that of the current ones."""
    x, condition = keras.Input([3]), keras.Input([2])
    join = layers.LearnableConcatenation(0.9, dtype=dtype)
    branch = keras.Model([x, condition], join([Dense(3, 0.5)(x), keras.layers.Rescaling(0.4)(x)]))
    confine_to_training(branch)
    for logits in ([1.0, 1.0], [3.0, -40.0], [-40.0, 3.0]):
        join.logits.assign(logits)
        e = np.log1p(np.exp(logits)) + 0.1
        eta = 0.9 * e / np.linalg.norm(e)
        certified = float(layers.lipschitz_constant(branch, certified=True))
        dense = float(branch.layers[1].lipschitz_bound())
        rounding = 2.0**-7 if dtype == "mixed_bfloat16" else 1e-6
        np.testing.assert_allclose(certified, np.hypot(eta[0] * dense, eta[1] * 0.4), rtol=2 * rounding)
        assert certified <= layers.lipschitz_constant(branch) == 0.9 * 0.5
        weights = join([np.ones([1, 3]), np.ones([1, 2])])
        np.testing.assert_allclose(weights[0], np.repeat(eta, [3, 2]), rtol=2 * rounding)
        training = layers.bind(branch, training=True)
        (weights,) = (training.parameters[i] for step in training.program.steps[-1:] for i in step.weights)
        assert weights.dtype == training.program.steps[-1].operation.dtype
        assert np.linalg.norm(tf.cast(weights, tf.float64)) <= 0.9 + 1e-7
    fixed = keras.Model([x, condition], join([condition, Dense(3, 0.5)(x)]))
    assert layers.lipschitz_constant(fixed) == 0.45
    join.logits.assign([3.0, 3.0])
    assert layers.lipschitz_constant(fixed, certified=True) < 0.33


def test_learnable_concatenation_of_wrong_inputs():
    x = keras.Input([4])
    with pytest.raises(ValueError, match="coefficient must be positive and finite, but got 0"):
        layers.LearnableConcatenation(0.0)
    for inputs in (x, [x, x, x], [x]):
        with pytest.raises(ValueError, match=r"joins two tensors: call it on a list \[x, h\]"):
            layers.LearnableConcatenation()(inputs)
    h = Dense(3, domain=1, codomain=1)(x)
    branch = keras.Model(x, Dense(4, domain=1, codomain=1)(layers.LearnableConcatenation()([h, h])))
    with pytest.raises(ValueError, match="holds in the 2-norm only, but its input is in the 1-norm"):
        layers.lipschitz_constant(branch)


@pytest.mark.parametrize(("order", "expected"), [(1, 0.7), (4, (0.3**4 + 0.4**4) ** 0.25), (np.inf, 0.4)])
def test_concatenation_in_other_norms(order, expected):
    x = keras.Input([8])
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
    np.testing.assert_allclose(layers.lipschitz_constant(branch, certified=True), 0.25, rtol=0.05, atol=0.25)
    swapped = keras.Model([condition, x], branch([x, condition]))
    with pytest.raises(ValueError, match="is unknown"):
        layers.lipschitz_constant(swapped)


def set_dtype(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture
def float64():
    set_dtype("float64")
    yield
    set_dtype("float32")


def random_branch(random, order):
    """Four layers at random, of 6 numbers and a condition, from the order's norm through another and back.

    The kernels are nearly constant: all layers stretch nearly the same direction most.
    """
    inner = random.choice([1.0, 2.0, np.inf])

    def constrained(kind, *arguments, domain=inner, codomain=inner):
        kernel = keras.initializers.RandomUniform(0.9, 1.1, seed=int(random.integers(1000)))
        coefficient = random.uniform(0.7, 1.5)
        return kind(*arguments, coefficient, domain=domain, codomain=codomain, kernel_initializer=kernel)

    def dense(units, **orders):
        return constrained(Dense, units, **orders)

    def nested(a):
        y, c = keras.Input([6]), keras.Input([6])
        model = keras.Model([y, c], join.Subtract()([shared(y), c]))
        return model([a, model([pool[0], condition])])

    def on_an_inner_axis(a):
        channels = join.Permute([2, 1])(dense(2)(join.Reshape([2, 3])(a)))
        return dense(6)(join.Flatten()(join.Concatenate(1)([channels, channels])))

    def padded(a):
        rows = join.ZeroPadding1D((2, 1))(join.Reshape([6, 1])(a))
        return join.Flatten()(join.Cropping1D((1, 2))(rows))

    def on_an_image(a):
        image = join.ZeroPadding2D(1)(join.Reshape([2, 3, 1])(a))
        return join.Flatten()(join.Cropping2D(1)(constrained(layers.LipschitzConv2D, 1, 3)(image)))

    x, condition = keras.Input([6]), keras.Input([6])
    shared, pool = dense(6), [dense(6, domain=order)(x)]
    steps = [
        shared,
        nested,
        on_an_inner_axis,
        on_an_image,
        padded,
        sequential(dense(6), layers.LipSwish(), shape=(6,)),
        lambda a: dense(6)(layers.CLipSwish()(a) if inner == 2.0 else a),
        lambda a: random.choice([layers.MaxMin(), layers.FullSort(), layers.LipschitzCube()])(a),
        lambda a: random.choice([join.ELU(2.0), join.ReLU(1.0, 0.3), join.Activation("gelu")])(a),
        lambda a: join.Rescaling(random.uniform(0.9, 1.1, 6), random.normal(size=6))(a),
        lambda a: random.choice([join.Add, join.Average])()([a, pool[0], condition]),
        lambda a: dense(6)(join.Concatenate()([a, pool[-1], condition])),
        lambda a: random.choice([join.Add, join.Average, join.Subtract])()([dense(1)(a), pool[0]]),
        lambda a: join.Average()([condition, dense(1)(a)]),
    ]
    while len(pool) < 3:
        pool.append(random.choice(steps)(pool[-1]))
    return keras.Model([x, condition], dense(6, codomain=order)(pool[-1]))


def dense_jacobians(branch, random, step=1e-6):
    """Jacobians in x at 4 random points, `[4, 6 outputs, 6 inputs]`, by finite differences."""
    x, condition = 1.0 + random.uniform(size=[2, 4, 1, 6])
    points = np.concatenate([x, x + step * np.eye(6)], 1).reshape(-1, 6)
    y = branch([points, np.repeat(condition, 7, 1).reshape(-1, 6)]).numpy().reshape(4, 7, 6)
    return np.swapaxes(y[:, 1:] - y[:, :1], 1, 2) / step


@pytest.mark.parametrize("order", [1.0, 2.0, np.inf])
def test_no_jacobian_of_a_random_graph_exceeds_its_constant(order, float64):
    """A graph that broadcasts may be refused instead; most of these 9 are not."""
    ratios = []
    for seed in range(9):
        random = np.random.default_rng([seed, 7])
        branch = random_branch(random, order)
        try:
            constant = layers.lipschitz_constant(branch, certified=True).numpy()
        except ValueError as error:
            assert "broadcast" in str(error)
            continue
        norms = np.linalg.norm(dense_jacobians(branch, random), order, axis=(1, 2))
        ratios.append(norms.max() / constant)
    assert len(ratios) > 4
    assert 0.5 < max(ratios) <= 1 + 1e-6


def test_certified_is_the_product_of_the_true_norms_in_a_graph():
    branch = sequential(Dense(6, 0.9), layers.LipSwish(), Dense(4, 0.8))
    certified = tf.function(lambda: layers.lipschitz_constant(branch, certified=True), autograph=False)()
    kernels = [layer.scaled_kernel().numpy() for layer in layers.lipschitz_layers(branch)]
    expected = np.prod([np.linalg.norm(kernel.astype("float64"), 2) for kernel in kernels])
    assert certified.dtype == tf.float64 and certified.shape == []
    np.testing.assert_allclose(certified, expected, rtol=1e-6)


def test_certified_shows_what_a_stale_estimate_hides():
    branch = sequential(Dense(4, 0.9))
    branch.layers[0].kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0]))
    branch.layers[0].vector.assign([[1.0, 0.0, 0.0, 0.0]])
    assert layers.lipschitz_constant(branch) == 0.9
    bound = layers.bind(branch, training=True)
    np.testing.assert_allclose(layers.lipschitz_constant(bound, certified=True), 3.6, rtol=1e-6)


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


class Doubled(join.Identity):
    def call(self, inputs):
        return 2.0 * inputs


class DoubledDense(Dense):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


class DoubledMaxMin(layers.MaxMin):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


class DoubledModel(keras.Model):
    def __init__(self):
        x = keras.Input([4])
        super().__init__(x, join.Identity()(x))

    def call(self, inputs):
        return 2.0 * super().call(inputs)


class DoubledSequential(keras.Sequential):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


@pytest.mark.parametrize(
    "layer",
    [
        join.Dense(4),
        join.LayerNormalization(),
        join.Lambda(lambda x: x),
        join.Activation("exponential"),
        join.Activation(lambda x: 2.0 * x),
        join.ReLU(threshold=1.0),
        join.PReLU(),
        Doubled(),
        DoubledDense(4),
        DoubledMaxMin(),
        DoubledModel(),
        DoubledSequential([keras.Input([4]), join.Identity()]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_unknown_layers_are_named(layer):
    """Unknown layers, and subclasses that override the call of a known one."""
    branch = sequential(Dense(4), layer)
    with pytest.raises(ValueError, match=f"'{layer.name}'.*is unknown.*lipschitz_constant="):
        layers.lipschitz_constant(branch)


def test_subclasses_that_are_understood():
    """Subclasses that declare a constant, and models that inherit the call."""

    class Model(keras.Model):
        def __init__(self):
            x = keras.Input([4])
            super().__init__(x, Dense(4, 0.5)(x))

    class Declared(DoubledMaxMin):
        lipschitz_constant = 2.0

    class Copies(join.Layer):
        lipschitz_constant = 1.0

        def call(self, inputs):
            return [inputs, inputs]

    assert layers.lipschitz_constant(sequential(Model(), Declared())) == 1.0
    assert layers.lipschitz_constant(sequential(Dense(4, 0.5), Copies(), join.Add())) == 1.0
    dense = DoubledDense(4, 0.25)
    dense.lipschitz_constant = 0.5
    assert layers.lipschitz_constant(sequential(dense)) == 0.5


def test_what_may_broadcast_is_refused():
    """Broadcasting along an axis of the event would expand the norm; concatenation must not join examples."""
    x, condition, sequence = keras.Input([2, 1]), keras.Input([2, 3]), keras.Input([None, 3])
    y, z = keras.Input([2, 1]), keras.Input([2, 1])
    nested = keras.Model([y, z], join.Add()([y, z]))
    for inputs, outputs in [
        ([x, condition], join.Subtract()([condition, x])),
        ([x], join.Average()([x, tf.ones([1, 2, 3])])),
        ([x, condition], nested([x, condition])),
        ([sequence], join.Add()([sequence, sequence])),
        ([x], join.Rescaling(np.ones(3))(x)),
        ([x], join.Rescaling(0.5, np.ones([2, 3]))(x)),
        ([x], join.Rescaling(np.ones([5, 1, 1]))(x)),
        ([x], sequential(join.Rescaling(np.ones(3)), shape=(2, 3))(x)),
    ]:
        with pytest.raises(ValueError, match="broadcast"):
            layers.lipschitz_constant(keras.Model(inputs, outputs))
    with pytest.raises(ValueError, match="joins examples of the batch"):
        layers.lipschitz_constant(keras.Model(x, join.Concatenate(0)([x, x])))


def test_the_order_is_that_of_the_first_layer_on_the_first_input():
    x, condition = keras.Input([4]), keras.Input([3])
    embedded = Dense(4)(condition)
    (order, inner), *pairs = layers.LearnedOrder.cycle(2)
    hidden = join.Add()([Dense(4, domain=order, codomain=inner)(x), embedded])
    outputs = Dense(4, domain=inner, codomain=order)(hidden)
    assert layers.lipschitz_order(keras.Model([x, condition], outputs)) is order
    assert layers.lipschitz_order(sequential(layers.LipSwish(), Dense(4, domain=1, codomain=1))) == 1.0
    assert layers.lipschitz_order(sequential(layers.MaxMin())) == 2.0


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
    with pytest.raises(ValueError, match="1-norm as its domain.*in the inf-norm"):
        layers.lipschitz_constant(sequential(Dense(4, codomain=np.inf), Dense(4, domain=1)))
    with pytest.raises(ValueError, match="must end in the norm that it began"):
        layers.lipschitz_constant(sequential(Dense(4, codomain=np.inf)))
    with pytest.raises(ValueError, match="joins tensors of different norms"):
        x = keras.Input([4])
        y = keras.layers.Add()([Dense(4, codomain=np.inf)(x), Dense(4)(x)])
        layers.lipschitz_constant(keras.Model(x, y))
    with pytest.raises(ValueError, match="holds in the 2-norm only"):
        orders = {"domain": 1, "codomain": 1}
        layers.lipschitz_constant(sequential(Dense(4, **orders), layers.CLipSwish(), Dense(4, **orders)))


def test_learned_orders_must_be_the_same_objects():
    pairs = layers.LearnedOrder.cycle(2)
    branch = sequential(*(Dense(4, 0.5, domain=p, codomain=q) for p, q in pairs))
    assert layers.lipschitz_constant(branch) == 0.25
    other = layers.LearnedOrder()
    with pytest.raises(ValueError, match="learned"):
        layers.lipschitz_constant(sequential(Dense(4, codomain=other), Dense(4, domain=layers.LearnedOrder())))
