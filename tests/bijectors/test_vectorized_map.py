"""Values and gradients under `tf.vectorized_map`, which drops registered gradients, equal those of a loop."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.layers.convolution import convolution

_ELEMENTS = 3
_ACTIVATIONS = ["CLipSwish", "CPila", "FullSort", "LipSwish", "LipschitzCube", "MaxMin"]


def _value_and_gradients(function, variables):
    """Returns a compiled function of tensors, with the gradients of the sum of the sines of its results."""

    @tf.function(autograph=False)
    def compute(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            results = tf.nest.flatten(function(tensors))
            loss = tf.add_n([tf.reduce_sum(tf.sin(result)) for result in results])
        return (results, *tape.gradient(loss, [tensors, variables], unconnected_gradients="zero"))

    return compute


def _check(function, elements, variables=()):
    """Compares the map of a function of a tuple with a loop over the elements, in values and gradients."""
    variables = list(variables)
    mapped = _value_and_gradients(functools.partial(tf.vectorized_map, function), variables)(*elements)
    one = _value_and_gradients(function, variables)
    looped = [one(*element) for element in zip(*map(tf.unstack, elements), strict=True)]
    results, of_elements, of_variables = tf.nest.map_structure(lambda *tensors: np.stack(tensors), *looped)
    expected = [results, of_elements, [np.sum(gradient, 0) for gradient in of_variables]]
    for found, exact in zip(*map(tf.nest.flatten, (list(mapped), expected)), strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-5)
    assert all(np.any(gradient) for gradient in of_elements)
    assert not variables or any(np.any(gradient) for gradient in of_variables)


def _normal(*shape, seed=0):
    return tf.random.stateless_normal([_ELEMENTS, *shape], [0, seed])


def _perturbed(flow):
    for variable in flow.trainable_variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [0, len(variable.shape)], stddev=0.3))
    resflow.layers.update_norms(flow)
    return flow


def _vector_flow(size, estimator, **options):
    options = {"num_blocks": 1, "hidden": (6,), "coefficient": 0.9, **options}
    return _perturbed(resflow.flows.vector_flow(size, log_det_estimator=estimator, **options))


def _all_ways(flow, x, **arguments):
    log_det = flow.forward_log_det_jacobian(tf.identity(x), 1, seed=[1, 2], **arguments)
    back = flow.inverse(tf.identity(x), **arguments)
    return flow.forward(tf.identity(x), **arguments), log_det, back


@pytest.mark.parametrize("block, size", [("residual", 18), ("monotone", 3)])
def test_blocks(block, size):
    """In 3 dimensions, the gradient of the inverse is computed by elimination, and in 18 by the solver."""
    estimator = resflow.logdet.Exact() if size == 3 else resflow.logdet.RussianRoulette()
    flow = _vector_flow(size, estimator, block=block, condition_size=2)

    def function(element):
        x, condition = element
        return _all_ways(flow, x, condition=condition)

    _check(function, [_normal(size), _normal(2, seed=1)], flow.trainable_variables)


def test_only_the_condition_is_mapped():
    flow = _vector_flow(2, resflow.logdet.Exact(), condition_size=2)
    x = tf.constant([0.3, -0.2])
    _check(lambda element: _all_ways(flow, x, condition=element[0]), [_normal(2)], flow.trainable_variables)


@pytest.mark.parametrize("activation", _ACTIVATIONS)
def test_activations_and_orders(activation):
    """The kernels of the first and the last layer are scaled by power norms."""
    branch = keras.Sequential([keras.Input([2])])
    branch.add(resflow.layers.LipschitzDense(4, 0.9, domain=3.0, codomain=3.0))
    branch.add(getattr(resflow.layers, activation)())
    branch.add(resflow.layers.LipschitzDense(2, 0.9, domain=3.0, codomain=3.0))
    block = _perturbed(resflow.bijectors.ResidualBlock(branch, resflow.logdet.Exact(), lipschitz_constant=0.9))
    arguments = {"networks": resflow.bijectors.Networks(block)}

    def function(element):
        log_det = block.forward_log_det_jacobian(tf.identity(element[0]), 1, **arguments)
        return block.forward(tf.identity(element[0]), **arguments), log_det

    _check(function, [_normal(2)])


def test_images():
    flow = resflow.flows.image_flow((4, 4, 1), num_blocks=(1,), width=3, num_fc_blocks=0)
    _perturbed(flow)

    def function(element):
        return flow.forward(tf.identity(element[0])), flow.forward_log_det_jacobian(element[0], 3, seed=[1, 2])

    _check(function, [tf.random.stateless_uniform([2, 4, 4, 1], [0, 1], 0.1, 0.9)], flow.trainable_variables)


@pytest.mark.parametrize("channels", [(2, 3), (3, 2)])
def test_kernels_of_elements(channels):
    """A convolution and the scaled kernel of an operator whose kernels differ between elements."""
    norm = resflow.layers.lipschitz_layer.operator_norm(
        resflow.layers.linear_operators.MatrixOperator(channels), 2.0, 2.0
    )

    def function(element):
        x, kernel, matrix = element
        start = tf.ones([1, channels[0]])
        return convolution(x, kernel), norm.scaled(matrix, norm.refined(matrix, start), [0.5])

    elements = [_normal(1, 4, 4, channels[0]), _normal(3, 3, *channels, seed=1), _normal(*channels, seed=2)]
    _check(function, elements)


class _Opaque(tf.Module):
    """A branch without a rule, which reads a variable."""

    def __init__(self):
        super().__init__(name="opaque")
        self.scale = tf.Variable(0.4)

    def __call__(self, x):
        return self.scale * tf.sin(x)


def test_an_opaque_branch():
    block = resflow.bijectors.ResidualBlock(
        _Opaque(), resflow.logdet.Exact(), lipschitz_constant=0.5, event_shape=[2]
    )
    _check(lambda element: _all_ways(block, *element), [_normal(2)], block.trainable_variables)


def test_a_traced_function():
    flow = _vector_flow(2, resflow.logdet.Exact())
    traced = tf.function(lambda x: flow.inverse(tf.identity(x)), autograph=False)
    traced(tf.zeros([2]))
    _check(lambda element: traced(element[0]), [_normal(2)])  # TensorFlow itself loses the gradients of variables


def test_a_map_in_a_map():
    flow = _vector_flow(2, resflow.logdet.Exact())

    def log_det(x):
        return flow.forward_log_det_jacobian(tf.identity(x), 1)

    _check(lambda element: tf.vectorized_map(log_det, element[0]), [_normal(2, 2)], flow.trainable_variables)


def test_a_second_derivative_raises():
    """The gradient inside of the map holds the root constant, so a derivative outside would be wrong."""
    flow = _vector_flow(2, resflow.logdet.Exact())

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(flow.inverse(tf.identity(x)) ** 2)
        return tape.gradient(y, x)

    def curvature(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            slopes = tf.vectorized_map(slope, x)
        return tape.gradient(slopes, x)

    with pytest.raises(ValueError, match="inverse is differentiable only once"):
        tf.function(curvature, autograph=False)(_normal(2))
