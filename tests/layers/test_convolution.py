"""Compares the convolution and its first two derivatives with TensorFlow's for all algorithms."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.layers import tracing
from tf_resflow.layers.convolution import convolution, matmul

SHAPES = {
    "few outputs": ((2, 5, 6, 9), (3, 3, 9, 1)),
    "few inputs": ((2, 5, 6, 2), (3, 3, 2, 9)),
    "few of both": ((1, 4, 4, 3), (3, 3, 3, 4)),
    "an oblong kernel": ((2, 5, 6, 9), (5, 1, 9, 3)),
    "a kernel larger than the image": ((2, 1, 2, 9), (5, 3, 9, 3)),
    "many": ((2, 5, 6, 9), (3, 3, 9, 8)),
    "one tap": ((2, 5, 6, 9), (1, 1, 9, 2)),
}
PRODUCTS = [case for case in SHAPES if case != "many"]
native = functools.partial(tf.nn.conv2d, strides=1, padding="SAME")


def operands(case, dtype=tf.float64):
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=shape), dtype) for shape in SHAPES[case]]


def derivatives(conv, x, kernel):
    """Returns the value, its gradients, and the gradients of functions of the gradients."""
    with tf.GradientTape() as outer:
        outer.watch([x, kernel])
        with tf.GradientTape() as inner:
            inner.watch([x, kernel])
            y = conv(x, kernel)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = inner.gradient(loss, [x, kernel])
        second = tf.reduce_sum(gradients[0] ** 3) + tf.reduce_sum(tf.cos(gradients[1]))
    return [y, *gradients, *outer.gradient(second, [x, kernel])]


@pytest.fixture(params=["small", "large"])
def is_large(request, monkeypatch):
    """Whether images count as large, which XLA kernels are for."""
    if request.param == "large":
        monkeypatch.setattr(tracing, "_LARGE", 1)
    return request.param == "large"


@pytest.mark.parametrize("case", SHAPES)
def test_value_and_two_derivatives(case, is_large):
    x, kernel = operands(case)
    compute = functools.partial(derivatives, convolution)
    results = (tf.function(compute, autograph=False) if is_large else compute)(x, kernel)
    for ours, expected in zip(results, derivatives(native, x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_the_bias_is_added_on_images_of_any_size(is_large):
    for case in SHAPES:
        x, kernel = operands(case)
        bias = tf.constant(np.arange(kernel.shape[-1]), x.dtype)
        image = tf.TensorSpec([None, None, None, x.shape[-1]], x.dtype)
        specs = [image, *(tf.TensorSpec(other.shape, x.dtype) for other in (kernel, bias))]
        found = tf.function(convolution, input_signature=specs, autograph=False)(x, kernel, bias)
        np.testing.assert_allclose(found, native(x, kernel) + bias, rtol=1e-9, atol=1e-9, err_msg=case)


def test_of_few_channels_and_of_one_tap_it_is_a_product(monkeypatch, is_large):
    """With several taps, only for large images. In float16 and on GPUs, it is not a product."""

    def is_a_product(*args):
        graph = tf.function(convolution, autograph=False).get_concrete_function(*operands(*args)).graph
        return "MatMul" in {op.type for op in graph.get_operations()}

    for case, dtype in itertools.product(PRODUCTS, (tf.float32, tf.bfloat16)):
        assert is_a_product(case, dtype) == (is_large or case == "one tap")
    assert not is_a_product("many") and not is_a_product("one tap", tf.float16)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not is_a_product("one tap", tf.float32)


@pytest.mark.parametrize("case", PRODUCTS)
def test_in_bfloat16_it_is_rounded_twice_at_most(case, is_large):
    """One rounding changes a result by 0.0017 of its norm on average."""
    x, kernel = operands(case, tf.bfloat16)

    def value_and_gradients(conv, dtype):
        x_, kernel_ = tf.cast(x, dtype), tf.cast(kernel, dtype)
        with tf.GradientTape() as tape:
            tape.watch([x_, kernel_])
            y = conv(x_, kernel_)
        upstream = tf.cast(tf.cast(tf.random.stateless_normal(y.shape, [0, 1]), tf.bfloat16), dtype)
        return [tf.cast(tensor, tf.float64) for tensor in (y, *tape.gradient(y, [x_, kernel_], upstream))]

    results = tf.function(value_and_gradients, autograph=False)(convolution, tf.bfloat16)
    for ours, expected in zip(results, value_and_gradients(native, tf.float64), strict=True):
        assert 0 < tf.norm(ours - expected) < 2 * 0.0017 * tf.norm(expected)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 0, 4), (0, 3, 4), (2, 1, 3, 4), (2, 1, 1, 3, 4)])
@pytest.mark.parametrize("jit", [False, True])
def test_a_product_with_further_axes(shape, jit):
    """Compares the value and two derivatives with NumPy and `tf.tensordot`. Known sizes stay static."""
    rng = np.random.default_rng(0)
    x, kernel = tf.constant(rng.normal(size=shape)), tf.constant(rng.normal(size=[4, 5]))
    np.testing.assert_allclose(matmul(x, kernel), x.numpy() @ kernel.numpy(), rtol=1e-12, atol=1e-12)
    computed = tf.function(functools.partial(derivatives, matmul), jit_compile=jit)(x, kernel)
    expected = derivatives(lambda x, kernel: tf.tensordot(x, kernel, 1), x, kernel)
    for ours, of_tensordot in zip(computed, expected, strict=True):
        np.testing.assert_allclose(ours, of_tensordot, rtol=1e-9, atol=1e-9)
    for known in ([None, *shape[1:]], [None] * (len(shape) - 1) + [4]):
        product = tf.function(matmul, [tf.TensorSpec(known, tf.float64), tf.TensorSpec([4, 5], tf.float64)])
        assert product.get_concrete_function().output_shapes == [*known[:-1], 5]
        if 0 not in shape[1:]:
            np.testing.assert_allclose(product(x, kernel), x.numpy() @ kernel.numpy(), rtol=1e-12, atol=1e-12)
