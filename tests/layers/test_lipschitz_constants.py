"""The nominal and the certified Lipschitz constant of a branch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import layers

Dense = layers.LipschitzDense
join = keras.layers


def sequential(*parts, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *parts])


def of(build, *shapes):
    """Builds a functional model with inputs of these shapes."""
    inputs = [keras.Input(shape) for shape in shapes or [(4,)]]
    return keras.Model(inputs, build(*inputs))


def dense(units, coefficient, order=2):
    return Dense(units, coefficient, domain=order, codomain=order)


def pair(order):
    """Returns a function that applies two layers, whose outputs have 8 numbers together."""
    return lambda x: [dense(4, 0.3, order)(x), dense(4, 0.4, order)(x)]


def channels(x):
    return join.Permute([2, 1])(join.Reshape([2, 2])(x))


def with_condition(x, condition):
    embedded = join.Dense(4)(join.LayerNormalization()(condition))
    return Dense(4, 0.5)(layers.LipSwish()(join.Add()([Dense(4, 0.5)(x), embedded])))


def largest_slope(branch, order):
    """Returns the largest norm of the Jacobian in x at 4 points, for kernels that stretch similar directions."""
    random = np.random.default_rng(7)
    for layer in layers.norm_updates.lipschitz_layers(branch):
        layer.kernel.assign(random.uniform(0.9, 1.1, layer.kernel.shape))
    x, *conditions = [tf.constant(1.0 + random.uniform(size=[4, *x.shape[1:]]), tf.float32) for x in branch.inputs]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = branch([x, *conditions] if conditions else x)
    jacobians = tape.batch_jacobian(y, x, experimental_use_pfor=False)
    return np.linalg.norm(tf.reshape(jacobians, [4, -1, np.prod(x.shape[1:])]), order, axis=(1, 2)).max()


def test_the_constants_of_graphs():
    """Checks the nominal constants, and that no Jacobian exceeds the certified constant."""
    image = [join.ZeroPadding2D(1), layers.LipschitzConv2D(3, 3, 0.5), join.Cropping2D(1), layers.FullSort()]
    shared, ratios = Dense(4, 0.5), []
    for branch, expected in [
        (sequential(Dense(4, 0.9)).layers[0], 0.9),
        (sequential(Dense(8, 0.9), layers.LipSwish(), Dense(4, 0.5)), 0.45),
        (sequential(layers.CLipSwish(), Dense(8, 0.9), layers.MaxMin(), Dense(4, 0.5)), 0.45),
        (sequential(join.Activation("sigmoid"), Dense(4, 0.9)), 0.225),
        (sequential(join.Activation("swish"), Dense(4, 0.9)), 0.9 * 1.0999),
        (sequential(join.ReLU(negative_slope=3.0), Dense(4, 0.5)), 1.5),
        (sequential(join.LeakyReLU(negative_slope=3.0), Dense(4, 0.5)), 1.5),
        (sequential(join.ELU(alpha=2.0), Dense(4, 0.5)), 1.0),
        (sequential(join.Rescaling(-0.25, offset=3.0)), 0.25),
        (sequential(join.Rescaling([0.1, -0.5, 0.2, 0.3])), 0.5),
        (sequential(join.Dropout(0.0), join.Reshape([2, 2]), join.Flatten()), 1.0),
        (sequential(sequential(Dense(4, 0.5)), sequential(Dense(4, 0.3), layers.LipschitzCube())), 0.15),
        (sequential(*image, layers.LipschitzConv2D(2, 1, 0.5), shape=(4, 4, 2)), 0.25),
        (of(lambda x: shared(shared(x))), 0.25),
        (of(with_condition, [4], [3]), 0.25),  # a condition may pass through any layer
        (of(lambda x: join.Add()(pair(2)(x))), 0.7),
        (of(lambda x: join.Subtract()(pair(2)(x))), 0.7),
        (of(lambda x: join.Average()(pair(2)(x))), 0.35),
        (of(lambda x: Dense(4, 0.9)(join.Concatenate()(pair(2)(x)))), 0.45),
        (of(lambda x: Dense(4, 0.9)(join.Concatenate()([x, x]))), 0.9 * 2**0.5),
        (of(lambda x: dense(4, 1.0, 1)(join.Concatenate()(pair(1)(x)))), 0.7),
        (of(lambda x: dense(4, 1.0, 4)(join.Concatenate()(pair(4)(x)))), (0.3**4 + 0.4**4) ** 0.25),
        (of(lambda x: dense(4, 1.0, np.inf)(join.Concatenate()(pair(np.inf)(x)))), 0.4),
        (of(lambda x: join.Flatten()(join.Concatenate(1)([channels(x), channels(x)]))), 2**0.5),
    ]:
        found = layers.lipschitz_constant(branch)
        assert isinstance(found, float)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        order = layers.lipschitz_constants.lipschitz_order(branch)
        if isinstance(branch, keras.Model) and order != 4.0:
            ratios.append(largest_slope(branch, order) / layers.lipschitz_constant(branch, certified=True).numpy())
    assert max(ratios) <= 1 + 1e-5 and np.median(ratios) > 0.5


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_learnable_concatenation(dtype):
    """The nominal constant holds for all weights, the certified constant for the current weights."""
    x, condition = keras.Input([3]), keras.Input([2])
    joined = layers.LearnableConcatenation(0.9, dtype=dtype)
    branch = keras.Model([x, condition], joined([Dense(3, 0.5)(x), join.Rescaling(0.4)(x)]))
    for logits in ([1.0, 1.0], [3.0, -40.0], [-40.0, 3.0]):
        joined.logits.assign(logits)
        e = np.log1p(np.exp(logits)) + 0.1
        eta = 0.9 * e / np.linalg.norm(e)
        certified = float(layers.lipschitz_constant(branch, certified=True))
        bound = float(branch.layers[1].lipschitz_bound())
        rounding = 2.0**-7 if dtype == "mixed_bfloat16" else 1e-6
        np.testing.assert_allclose(certified, np.hypot(eta[0] * bound, eta[1] * 0.4), rtol=2 * rounding)
        assert certified <= layers.lipschitz_constant(branch) == 0.9 * 0.5
        weights = joined([np.ones([1, 3]), np.ones([1, 3])])
        np.testing.assert_allclose(weights[0], np.repeat(eta, [3, 3]), rtol=2 * rounding)
        training = layers.program.bind(branch, training=True)
        of_training = layers.lipschitz_constant(training, certified=True)
        np.testing.assert_allclose(of_training, certified, rtol=2 * rounding)
        (weights,) = (training.parameters[i] for i in training.program.steps[-1].weights)
        assert weights.dtype == training.program.steps[-1].operation.dtype
        assert np.linalg.norm(tf.cast(weights, tf.float64)) <= 0.9 * 3**0.5 + 1e-6
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 3"):
        joined([condition, x])
    joined = layers.LearnableConcatenation(0.9, dtype=dtype)
    fixed = keras.Model([x, condition], joined([condition, Dense(3, 0.5)(x)]))
    assert layers.lipschitz_constant(fixed) == 0.45
    joined.logits.assign([3.0, 3.0])
    assert layers.lipschitz_constant(fixed, certified=True) < 0.33


def test_certified_shows_what_a_stale_estimate_hides():
    """The first of two layers has a stale norm, the second does not. Runs eagerly and in a graph."""
    branch = sequential(Dense(4, 0.9), Dense(4, 0.5, kernel_initializer="identity"))
    branch.layers[0].kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0]))
    branch.layers[0].vector.assign([[1.0, 0.0, 0.0, 0.0]])
    assert layers.lipschitz_constant(branch) == 0.9 * 0.5
    bound = layers.program.bind(branch, training=True)
    for wrap in (lambda call: call, tf.function):
        certified = wrap(lambda: layers.lipschitz_constant(bound, certified=True))()
        np.testing.assert_allclose(certified, 3.6 * 0.5, rtol=1e-5)


def doubled(kind):
    class Doubled(kind):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    return Doubled


def test_objects_that_declare_their_constant():
    class Module(tf.Module):
        lipschitz_constant = 0.3

    class Model(keras.Model):
        pass

    class Declared(doubled(layers.MaxMin)):
        lipschitz_constant = 2.0

    class Copies(join.Layer):
        lipschitz_constant = 1.0

        def call(self, inputs):
            return [inputs, inputs]

    x, declared = keras.Input([4]), doubled(Dense)(4, 0.25)
    declared.lipschitz_constant = 0.5
    for branch, expected in [
        (Module(), 0.3),
        (sequential(Model(x, Dense(4, 0.5)(x)), Declared()), 1.0),
        (sequential(Dense(4, 0.5), Copies(), join.Add()), 1.0),
        (sequential(declared), 0.5),
    ]:
        assert layers.lipschitz_constant(branch) == expected
    assert layers.lipschitz_constant(Module(), certified=True).dtype == tf.float64


def test_the_order_is_that_of_the_first_layer_on_the_first_input():
    order, inner = layers.LearnedOrder(), layers.LearnedOrder()

    def merged(x, condition):
        hidden = join.Add()([Dense(4, 0.5, domain=order, codomain=inner)(x), Dense(4)(condition)])
        return Dense(4, 0.5, domain=inner, codomain=order)(hidden)

    branch = of(merged, [4], [3])
    assert layers.lipschitz_constants.lipschitz_order(branch) is order and layers.lipschitz_constant(branch) == 0.25
    assert layers.lipschitz_constants.lipschitz_order(sequential(layers.LipSwish(), dense(4, 0.5, 1))) == 1.0
    assert layers.lipschitz_constants.lipschitz_order(sequential(layers.MaxMin())) == 2.0


def test_what_has_no_constant_is_refused():
    """Broadcasting along an axis of the event would increase the norm. Concatenation must not join examples."""
    row, mixed = [2, 1], Dense(4, codomain=np.inf)
    nested = of(lambda y, z: join.Add()([y, z]), row, row)
    rescaled = [
        join.Rescaling(np.ones(3)),
        join.Rescaling(0.5, np.ones([2, 3])),
        join.Rescaling(np.ones([5, 1, 1])),
    ]
    concatenation, learned = layers.LearnableConcatenation, [layers.LearnedOrder(), layers.LearnedOrder()]
    activations = join.Activation("exponential"), join.Activation(lambda x: 2.0 * x)
    unknown = [join.Dense(4), join.Lambda(lambda x: x), *activations, join.ReLU(threshold=1.0), join.PReLU()]
    unknown += [doubled(kind)(*arguments) for kind, *arguments in [(join.Identity,), (Dense, 4), (layers.MaxMin,)]]
    unknown += [doubled(keras.Model)(x := keras.Input([4]), join.Identity()(x))]
    unknown += [doubled(keras.Sequential)([keras.Input([4]), join.Identity()])]
    named = "'{}'.*is unknown.*lipschitz_constant="
    for make, message in [
        (lambda: of(lambda x, c: join.Subtract()([c, x]), row, [2, 3]), "broadcast"),
        (lambda: of(lambda x: join.Average()([x, tf.ones([1, 2, 3])]), row), "broadcast"),
        (lambda: of(lambda x, c: nested([x, c]), row, [2, 3]), "broadcast"),
        (lambda: of(lambda x: join.Add()([x, x]), [None, 3]), "broadcast"),
        *((lambda layer=layer: of(layer, row), "broadcast") for layer in rescaled),
        *((lambda layer=layer: sequential(Dense(4), layer), named.format(layer.name)) for layer in unknown),
        (lambda: of(lambda x, c: x + c, row, [2, 3]), "broadcast"),
        (lambda: of(lambda x: 1.0 / x), "'true_divide.*is unknown"),
        (lambda: of(lambda x: x / 0.0), "'true_divide.*is unknown"),
        (lambda: of(lambda x: x * x), "'multiply.*is unknown"),
        (lambda: of(lambda x: x * np.ones(4, "float32")), "'multiply.*is unknown"),
        (lambda: of(lambda x: x**2), "'power.*is unknown"),
        (lambda: of(lambda x: join.Concatenate(0)([x, x])), "concatenates the batch axis"),
        (lambda: of(lambda condition, x: with_condition(x, condition), [3], [4]), "is unknown"),
        (lambda: Dense(4), "not built"),
        (lambda: sequential(join.Dropout(0.5)), "Dropout of rate 0.5"),
        (lambda: tf.Module(), "is unknown"),
        (lambda: of(lambda x: [x, Dense(4)(x)]), "one output"),
        (lambda: sequential(mixed, Dense(4, domain=1)), "1-norm as its domain.*in the inf-norm"),
        (lambda: sequential(Dense(4, codomain=learned[0]), Dense(4, domain=learned[1])), "learned"),
        (lambda: sequential(mixed), "must end in the norm"),
        (lambda: of(lambda x: join.Add()([mixed(x), Dense(4)(x)])), "combines tensors of different norms"),
        (lambda: sequential(dense(4, 1, 1), layers.CLipSwish(), dense(4, 1, 1)), "2-norm only.*1-norm"),
        (lambda: of(lambda x: dense(4, 1, 1)(concatenation()([dense(3, 1, 1)(x), x]))), "2-norm only"),
        *((lambda n=n: of(lambda x: concatenation()([x] * n)), r"two tensors.*\[x, h\]") for n in (1, 3)),
        (lambda: of(concatenation()), r"two tensors.*\[x, h\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            layers.lipschitz_constant(make())
