"""Updates of collections of Lipschitz layers, kernels that are scaled once, and learned orders."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers.matrices import matrix_of, singular_values
from tf_resflow import layers, models
from tf_resflow.layers.lipschitz_layer import scaled_stack
from tf_resflow.layers.spectral_norm import SpectralNorm

X = tf.constant([[0.3, -0.7]], tf.float64)


class Block(tf.Module):
    def __init__(self, *parts, branch=None):
        super().__init__()
        self.parts, self.networks = parts, [] if branch is None else [branch]


def chain(orders=((2, 2), (2, 2)), widths=(5, 2), dtype="float64"):
    large = keras.initializers.RandomNormal(stddev=1.0, seed=3)
    dense = [
        layers.LipschitzDense(units, domain=p, codomain=q, kernel_initializer=large, dtype=dtype)
        for units, (p, q) in zip(widths, orders, strict=True)
    ]
    return keras.Sequential([keras.Input([2], dtype=dtype), *dense])


@pytest.fixture(scope="module")
def learned():
    """A chain of layers with learned orders, whose initial value is 2.5."""
    p, q = layers.LearnedOrder(initial=2.5), layers.LearnedOrder(initial=2.5)
    return chain([(p, q), (q, p)], widths=(2, 2))


@pytest.fixture
def estimates(monkeypatch):
    """Records each norm that scales kernels during the test."""
    calls, scaled = [], SpectralNorm.scaled
    monkeypatch.setattr(SpectralNorm, "scaled", lambda norm, *args: calls.append(norm) or scaled(norm, *args))
    return calls


def test_layers_and_orders_are_found_once_and_in_order(learned):
    a, b = chain(), chain()
    nested = keras.Sequential([keras.Input([2]), a, layers.LipSwish(), b])
    blocks = [Block(branch=branch) for branch in (a, b, a)]
    for obj in (nested, (blocks[0], b, a), Block(*blocks), [Block(blocks[0]), [b]]):
        found = layers.norm_updates.lipschitz_layers(obj)
        assert [id(layer) for layer in found] == [id(layer) for layer in (*a.layers, *b.layers)]
    assert layers.norm_updates.lipschitz_layers(Block()) == layers.norm_updates.learned_orders(a) == []
    orders = layers.norm_updates.learned_orders([learned, a, Block(branch=learned)])
    assert [id(order) for order in orders] == [id(layer.domain) for layer in learned.layers]
    with pytest.raises(ValueError, match="Expected a Keras layer"):
        layers.norm_updates.lipschitz_layers("flow")


def square(units, **kwargs):
    dense = [layers.LipschitzDense(units, 0.5 + 0.1 * i, **kwargs) for i in range(3)]
    return keras.Sequential([keras.Input([units]), *dense])


@pytest.mark.parametrize(("units", "dtype"), [(2, "float64"), (40, "mixed_bfloat16")])
def test_layers_of_one_shape_equal_each_alone(units, dtype, stored_norms, estimates):
    branch = square(units, dtype=dtype)
    for layer, kernel in zip(branch.layers, np.random.default_rng(7).normal(size=[3, units, units]), strict=True):
        layer.kernel.assign(kernel)

    def gradients(stacks, stored):
        with tf.GradientTape() as tape:
            kernels = [kernel for stack in stacks for kernel in scaled_stack(stack, stored=stored)]
            objective = tf.add_n([tf.reduce_sum(tf.sin(3.0 * kernel)) for kernel in kernels])
        return *kernels, *tape.gradient(objective, [layer.kernel.value for layer in branch.layers])

    def compare(stored):
        alone = gradients([[layer] for layer in branch.layers], stored)
        for one, other in zip(alone, gradients([branch.layers], stored), strict=True):
            np.testing.assert_allclose(tf.cast(one, "float64"), tf.cast(other, "float64"), rtol=1e-3, atol=1e-4)

    compare(False)  # the stored vectors belong to other kernels
    assert layers.update_norms(layers.LipSwish()) == 0 < layers.update_norms(Block(branch=branch), 1e-6, 300) <= 300
    compare(True)
    stored_norms()
    for layer in branch.layers:
        np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(layer.kernel, 2), rtol=1e-3)
    estimates.clear()
    layers.program.bind(branch, training=True)
    assert len(estimates) == 1


def test_a_kernel_that_is_not_finite_spoils_no_other():
    branch, rng = square(40), np.random.default_rng(8)
    for layer, kernel in zip(branch.layers, (np.nan, 0.0, rng.normal(size=[40, 40])), strict=True):
        layer.kernel.assign(np.broadcast_to(kernel, [40, 40]))
    layers.update_norms(branch)
    assert all(np.isfinite(layer.vector).all() for layer in branch.layers)
    _, zero, other = layers.program.bind(branch, training=True).parameters[::2]
    np.testing.assert_array_equal(zero, np.zeros([40, 40]))
    np.testing.assert_allclose(np.linalg.norm(other, 2), 0.7, rtol=1e-4)


def test_a_bound_network_keeps_its_kernels():
    """So does its certificate, and a function of variable copies (as in an export), which reads no kernel."""
    branch = chain()
    kernel, before, bound = branch.layers[0].kernel, branch(X), layers.program.bind(branch)
    certificate = layers.lipschitz_constant(branch, certified=True)
    copies = [tf.Variable(parameter, trainable=False) for parameter in bound.parameters]
    function = tf.function(bound.with_parameters(copies)).get_concrete_function(X)
    assert {id(handle) for handle in function.captured_inputs} == {id(copy.handle) for copy in copies}
    kernel.assign(kernel * [[1.0], [0.01]])
    for evaluate in (bound, layers.program.bind(bound), function):
        np.testing.assert_allclose(evaluate(X), before, rtol=1e-6)
    assert np.abs(branch(X) - before).max() > 1e-3
    kernel.assign(tf.zeros_like(kernel))
    np.testing.assert_allclose(layers.lipschitz_constant(bound, certified=True), certificate, rtol=1e-6)


def test_learned_orders_are_trained_by_the_mean_norm_alone(learned):
    order = layers.LearnedOrder(initial=3.0, low=1.5, high=4.0)
    np.testing.assert_allclose(order.order(), 3.0, rtol=1e-6)
    order.theta.assign(0.0)
    np.testing.assert_allclose(order.order(), 2.75, rtol=1e-6)
    orders = [layer.domain.theta for layer in learned.layers]
    kernels = [layer.kernel.value for layer in learned.layers]
    values = [order.value for order in orders]
    assert len({id(v) for v in learned.trainable_variables}) == len(learned.trainable_variables) == 6

    def value():
        layers.update_norms(learned, 1e-12, 20_000)
        return np.mean([layer.norm_estimate() for layer in learned.layers])

    np.testing.assert_allclose(layers.mean_norm([learned, chain()]), value(), rtol=1e-6)
    with tf.GradientTape(persistent=True) as tape:
        density, objective = tf.reduce_sum(learned(X) ** 2), layers.mean_norm(learned)
    assert tape.gradient(density, values) == tape.gradient(objective, kernels) == [None] * 2
    assert all(g is not None for g in tape.gradient(density, kernels))
    for order, gradient in zip(orders, tape.gradient(objective, values), strict=True):
        start, sides = order.numpy(), []
        for step in (1e-4, -1e-4):
            order.assign(start + step)
            sides.append(value())
        order.assign(start)
        np.testing.assert_allclose(gradient, (sides[0] - sides[1]) / 2e-4, rtol=1e-3)
    assert layers.mean_norm(chain()) == 0.0


def every_kind(dtype="float32"):
    """A network with kernels of all kinds of operators, and its image sizes by layer."""
    options = {"kernel_initializer": keras.initializers.RandomNormal(seed=5), "dtype": dtype}
    convolutions = [
        layers.LipschitzConv2D(filters, kernel_size, 0.9, **options)
        for filters, kernel_size in [(9, 3), (20, 1), (20, (3, 1)), (2, 3)]
    ]
    dense = [layers.LipschitzDense(units, 0.9, **options) for units in (70, 80, 5)]
    parts = [keras.Input([4, 6, 3], dtype=dtype)]
    for layer in convolutions:
        parts += [layer, layers.LipSwish(dtype=dtype)]
    parts += [keras.layers.Flatten(dtype=dtype)]
    for layer in dense:
        parts += [layer, layers.LipSwish(dtype=dtype)]
    return keras.Sequential(parts), convolutions, dense


def largest(layer, kernel):
    image_size = getattr(layer, "image_size", None)
    return singular_values(matrix_of(kernel, image_size))[0]


def test_norms_of_all_layers_follow_a_training():
    """Muon changes each kernel by about a tenth of its norm in the first of 100 steps, which is faster than usual.

    Stored vectors are used unchecked in training. There, no norm is below its value by more than 3 %.
    """
    network, *kinds = every_kind()
    kinds = [layer for kind in kinds for layer in kind]
    for layer in kinds:  # after the build
        np.testing.assert_allclose(layer.norm_estimate(), largest(layer, layer.kernel), rtol=1e-4)
    optimizer = models.Muon(1.4e-2)
    optimizer.build(network.trainable_variables)
    x, y = np.random.default_rng(0).normal(size=[2, 16, 72]).astype("float32")
    images = tf.constant(x.reshape(16, 4, 6, 3))

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            bound = layers.program.bind(network, training=True)
            loss = tf.reduce_mean((bound(images) - 3.0 * y[:, :5]) ** 2)
        weights = [weight.value for weight in network.trainable_variables]
        optimizer.apply(tape.gradient(loss, weights), network.trainable_variables)
        layers.update_norms(network)
        return loss

    losses, worst = [], 0.0
    for i in range(100):
        losses.append(step().numpy())
        if i % 10 == 9:
            for layer, (kernel, *_) in zip(kinds, applied(network), strict=True):
                worst = max(worst, largest(layer, kernel))
    assert losses[-1] < 0.9 * losses[0]
    assert 0.85 < worst < 0.9 * 1.03
    layers.converge_norms(network)
    for layer in kinds:
        assert largest(layer, layer.scaled_kernel()) <= 0.9 * (1 + 1e-5)


def applied(network):
    """Yields the weights of each linear layer as they are applied in a training step."""
    bound = layers.program.bind(network, training=True)
    for step in bound.program.steps:
        if isinstance(step.layer, layers.lipschitz_layer.LipschitzLayer):
            yield [bound.parameters[i].numpy() for i in step.weights]


def test_norms_of_all_layers_at_all_scales():
    """Checks the scaled kernels after updates in a graph and in eager mode. A single NaN is not hidden."""
    network, *kinds = every_kind()
    kinds, in_graph = [layer for kind in kinds for layer in kind], tf.function(layers.update_norms, autograph=False)
    for number, scale in enumerate((1e-30, 1e30, np.nan, 0.0, 1.0)):
        for i, layer in enumerate(kinds):
            kernel = np.random.default_rng([number, i]).normal(size=layer.kernel.shape)
            if np.isnan(scale):
                kernel.flat[-1] = scale
            layer.kernel.assign(kernel if np.isnan(scale) else scale * kernel)
        for _ in range(5):
            (layers.update_norms if number == 1 else in_graph)(network)
        for layer in kinds:
            assert np.isfinite(layer.vector).all()
            kernel, scaled = layer.kernel.numpy().astype("float64"), layer.scaled_kernel().numpy()
            if np.isnan(scale):
                assert np.isnan(scaled).any()
                continue
            norm = largest(layer, kernel)
            np.testing.assert_allclose(layer.norm_estimate(), norm, rtol=1e-2)
            if norm < 0.9:
                np.testing.assert_array_equal(scaled, layer.kernel)
            else:
                np.testing.assert_allclose(largest(layer, scaled), 0.9, rtol=1e-2)
