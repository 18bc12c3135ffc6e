"""Collections of Lipschitz layers: updates, kernels scaled once, and the learned orders."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow.layers as layers
from tf_resflow.layers.lipschitz_layer import scaled_stack
from tf_resflow.layers.operator_norms import InducedNorm

LARGE = keras.initializers.RandomNormal(stddev=1.0, seed=3)


class Block(tf.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch


class Composition(tf.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts


def chain(orders=((2, 2), (2, 2)), widths=(5, 2), **kwargs):
    dense = [
        layers.LipschitzDense(units, domain=p, codomain=q, kernel_initializer=LARGE, **kwargs)
        for units, (p, q) in zip(widths, orders, strict=True)
    ]
    return keras.Sequential([keras.Input([2]), *dense])


def test_layers_of_models_modules_and_lists_are_found_once_and_in_order():
    a, b = chain(), chain()
    nested = keras.Sequential([keras.Input([2]), a, layers.LipSwish(), b])
    expected = [*a.layers, *b.layers]
    for obj in (
        nested,
        [a, b],
        (Block(a), b, a),
        Composition([Block(a), Block(b), Block(a)]),
        [Composition([Block(a)]), [b]],
    ):
        found = layers.lipschitz_layers(obj)
        assert [id(layer) for layer in found] == [id(layer) for layer in expected]
    assert layers.lipschitz_layers(a.layers[1]) == [a.layers[1]]
    assert layers.lipschitz_layers(Block(None)) == []
    with pytest.raises(ValueError, match="Expected a Keras layer"):
        layers.lipschitz_layers("flow")


def test_update_norms_reaches_every_layer():
    branches = [chain(), chain()]
    for layer in layers.lipschitz_layers(branches):
        layer.kernel.assign(layer.kernel + 1)
    count = layers.update_norms(Composition([Block(b) for b in branches]), 1e-6, 3000)
    assert 0 < count <= 3000
    for layer in layers.lipschitz_layers(branches):
        norm = np.linalg.norm(layer.kernel, 2)
        np.testing.assert_allclose(layer.norm_estimate(), norm, rtol=1e-5)
    assert layers.update_norms(layers.LipSwish()) == 0


def square(units, **kwargs):
    dense = [
        layers.LipschitzDense(
            units, 0.5 + 0.1 * i, kernel_initializer=keras.initializers.RandomNormal(seed=i), **kwargs
        )
        for i in range(3)
    ]
    return keras.Sequential([keras.Input([units]), *dense])


@pytest.mark.parametrize(
    ("units", "dtype", "graph"), [(2, "float64", False), (40, "float32", True), (40, "mixed_bfloat16", False)]
)
def test_layers_of_one_shape_equal_each_alone(units, dtype, graph, stored_norms, monkeypatch):
    branch, calls, estimate = square(units, dtype=dtype), [], InducedNorm.estimate
    rng = np.random.default_rng(7)
    for layer in branch.layers:
        layer.kernel.assign(rng.normal(size=[units, units]))

    def gradients(alone, stored):
        with tf.GradientTape() as tape:
            if alone:
                kernels = [scaled_stack([layer], stored=stored)[0] for layer in branch.layers]
            else:
                kernels = scaled_stack(branch.layers, stored=stored)
            objective = tf.add_n([tf.reduce_sum(tf.sin(3.0 * kernel)) for kernel in kernels])
        return kernels, tape.gradient(objective, [layer.kernel.value for layer in branch.layers])

    def compare(stored):
        run = tf.function(gradients) if graph else gradients
        found = [tf.nest.flatten(run(alone, stored)) for alone in (True, False)]
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(tf.cast(one, "float64"), tf.cast(other, "float64"), rtol=1e-3, atol=1e-4)

    compare(False)  # the stored vectors are of other kernels
    (tf.function(layers.update_norms) if graph else layers.update_norms)(branch)
    compare(True)
    stored_norms()
    for layer in branch.layers:
        np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(layer.kernel, 2), rtol=1e-3)
    monkeypatch.setattr(InducedNorm, "estimate", lambda norm, v: calls.append(norm) or estimate(norm, v))
    layers.bind(branch, training=True)
    assert len(calls) == 1


def test_a_kernel_that_is_not_finite_spoils_no_other():
    branch = square(40)
    for i, value in enumerate((np.nan, 0.0)):
        branch.layers[i].kernel.assign(tf.fill([40, 40], value))
    branch.layers[2].kernel.assign(np.random.default_rng(8).normal(size=[40, 40]))
    layers.update_norms(branch)
    assert all(np.isfinite(layer.vector).all() for layer in branch.layers)
    _, zero, other = layers.bind(branch, training=True).parameters[::2]
    np.testing.assert_array_equal(zero, np.zeros([40, 40]))
    np.testing.assert_allclose(np.linalg.norm(other, 2), 0.7, rtol=1e-4)


def test_update_norms_of_an_unbuilt_layer():
    with pytest.raises(ValueError, match="is not built"):
        layers.update_norms(keras.Sequential([layers.LipschitzDense(2)]))


@pytest.mark.parametrize("graph", [False, True])
def test_a_bound_network_scales_once_and_changes_nothing(graph, monkeypatch):
    branch, x = chain(dtype="float64"), tf.constant([[0.3, -0.7]], tf.float64)
    expected = x
    for _ in range(5):
        expected = 0.5 * branch(expected)
    calls = []
    estimate = InducedNorm.estimate
    monkeypatch.setattr(InducedNorm, "estimate", lambda norm, v: calls.append(norm) or estimate(norm, v))

    def iterate(x):
        bound = layers.bind(branch)
        return tf.while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, 0.5 * bound(x)), (0, x))[1]

    outputs = (tf.function(iterate) if graph else iterate)(x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    assert len(calls) == 2
    branch(x)
    assert len(calls) == 4


@pytest.mark.parametrize("graph", [False, True])
def test_gradients_flow_through_kernels_that_were_scaled_once(graph):
    branch, x = chain(dtype="float64"), tf.constant([[0.3, -0.7]], tf.float64)

    def gradients(once):
        with tf.GradientTape() as tape:
            g = layers.bind(branch) if once else branch
            loss = tf.reduce_sum(g(g(x)) ** 2)
        return tape.gradient(loss, [v.value for v in branch.trainable_variables])

    gradients = tf.function(gradients) if graph else gradients
    for a, b in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
        assert np.abs(b).max() > 0


def test_a_bound_network_keeps_its_kernels():
    """So do its certificate, and a function of copies in variables, as in an export, which reads no kernel."""
    branch, x = chain(), tf.constant([[0.3, -0.7]])
    kernel, before, bound = branch.layers[0].kernel, branch(x), layers.bind(branch)
    certificate = layers.lipschitz_constant(branch, certified=True)
    copies = [tf.Variable(parameter, trainable=False) for parameter in bound.parameters]
    function = tf.function(bound.with_parameters(copies)).get_concrete_function(x)
    assert {id(handle) for handle in function.captured_inputs} == {id(copy.handle) for copy in copies}
    kernel.assign(kernel * [[1.0], [0.01]])
    for evaluate in (bound, layers.bind(bound), function):
        np.testing.assert_allclose(evaluate(x), before, rtol=1e-6)
    assert np.abs(branch(x) - before).max() > 1e-3
    kernel.assign(tf.zeros_like(kernel))
    np.testing.assert_allclose(layers.lipschitz_constant(bound, certified=True), certificate, rtol=1e-6)


def learned_chain(**kwargs):
    orders = layers.LearnedOrder.cycle(3, **kwargs)
    return chain(orders, widths=(5, 4, 2), dtype="float64")


def test_cycle_shares_the_orders():
    (a, b), (c, d), (e, f) = layers.LearnedOrder.cycle(3, initial=3.0)
    assert b is c and d is e and f is a and len({id(a), id(b), id(d)}) == 3
    np.testing.assert_allclose(a.order(), 3.0, rtol=1e-6)
    assert [len(layers.LearnedOrder.cycle(n)) for n in (1, 2)] == [1, 2]


@pytest.mark.parametrize("limits", [(2.0, 2.0, 5.0), (1.5, 0.9, 5.0), (5.0, 1.0, 5.0), (2, 1, np.inf)])
def test_bad_limits_of_an_order(limits):
    with pytest.raises(ValueError, match="1 <= low < initial < high"):
        layers.LearnedOrder(*limits)


def test_learned_orders_are_trained_by_their_own_objective_alone():
    branch, x = learned_chain(), tf.constant([[0.3, -0.7]], tf.float64)
    orders = [layer.domain.theta.value for layer in branch.layers]
    kernels = [layer.kernel.value for layer in branch.layers]
    assert len({id(v) for v in branch.trainable_variables}) == len(branch.trainable_variables) == 9
    with tf.GradientTape(persistent=True) as tape:
        density = tf.reduce_sum(branch(x) ** 2)
        objective = layers.mean_norm(branch)
    assert tape.gradient(density, orders) == [None] * 3
    assert tape.gradient(objective, kernels) == [None] * 3
    assert all(g is not None for g in tape.gradient(density, kernels))
    estimates = [layer.norm_estimate().numpy() for layer in branch.layers]
    np.testing.assert_allclose(objective, np.mean(estimates), rtol=1e-6)


def test_gradient_of_the_mean_norm_against_finite_differences():
    branch = learned_chain(initial=2.5)

    def value():
        layers.update_norms(branch, 1e-12, 20_000)
        return tf.add_n([layer.norm_estimate() for layer in branch.layers]).numpy() / 3

    value()
    thetas = [layer.domain.theta for layer in branch.layers]
    with tf.GradientTape() as tape:
        objective = layers.mean_norm(branch)
    for theta, gradient in zip(thetas, tape.gradient(objective, [t.value for t in thetas]), strict=True):
        start, sides = theta.numpy(), []
        for step in (1e-4, -1e-4):
            theta.assign(start + step)
            sides.append(value())
        theta.assign(start)
        np.testing.assert_allclose(gradient, (sides[0] - sides[1]) / 2e-4, rtol=1e-3)


def test_minimizing_the_mean_norm_lowers_it_and_keeps_the_orders_in_range():
    branch = learned_chain()
    layers.update_norms(branch, 1e-6, 1000)
    start = layers.mean_norm(branch).numpy()
    thetas = [layer.domain.theta for layer in branch.layers]
    optimizer = keras.optimizers.Adam(0.1)
    for _ in range(30):
        with tf.GradientTape() as tape:
            objective = layers.mean_norm(branch)
        optimizer.apply(tape.gradient(objective, [t.value for t in thetas]), thetas)
        layers.update_norms(branch)
    assert layers.mean_norm(branch) < 0.995 * start
    assert all(1.0 < layer.domain.order() < 5.0 for layer in branch.layers)


def test_learned_orders_are_found_once_and_in_order():
    orders = layers.LearnedOrder.cycle(2)
    branch = chain(orders)
    found = layers.learned_orders([branch, chain(), Block(branch)])
    assert [id(order) for order in found] == [id(p) for p, _ in orders]


def test_mean_norm_without_learned_orders_is_zero():
    assert layers.mean_norm(chain()) == 0.0
    assert layers.learned_orders(chain()) == []


def test_shared_orders_survive_saving(tmp_path):
    branch = learned_chain()
    for i, layer in enumerate(branch.layers):
        layer.domain.theta.assign(0.1 * i)
    branch.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for i in range(3):
        assert loaded.layers[i].codomain is loaded.layers[(i + 1) % 3].domain
    assert len(loaded.variables) == len(branch.variables)
    x = np.array([[0.3, -0.7]])
    np.testing.assert_array_equal(loaded(x), branch(x))
    np.testing.assert_allclose([layer.domain.theta for layer in loaded.layers], [0.0, 0.1, 0.2])
    assert layers.lipschitz_constant(loaded) == layers.lipschitz_constant(branch)
