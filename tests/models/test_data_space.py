import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.models import data_space, dequantize, quantize
from tf_resflow.models.data_space import place_in_cells


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_noise_is_uniform_and_quantization_inverts_it(levels):
    """Compares 200,000 draws in 20 bins with a uniform distribution."""
    num = 200_000
    x = np.tile(np.arange(levels), num // levels + 1)[:num].astype(np.uint8)
    y = dequantize(x, levels, seed=[3, 4])
    assert y.dtype == tf.float32 and 0 < np.min(y) and np.max(y) < 1
    np.testing.assert_array_equal(quantize(y, levels), x)
    u = np.float64(y) * levels - x
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    chi_square = np.sum((counts - num / 20) ** 2) / (num / 20)
    assert chi_square < 19 + 5 * np.sqrt(2 * 19)
    assert abs(np.mean(u) - 0.5) < 4 * np.sqrt(1 / 12 / num)


def assert_inside(y, x, levels):
    assert 0 < np.min(y) and np.max(y) < 1
    np.testing.assert_array_equal(quantize(y, levels), x)
    np.testing.assert_array_equal(np.floor(np.float64(y) * levels), x)


def test_extreme_noise_stays_in_its_level(monkeypatch):
    """Covers the least and the largest uniform draws, and numbers from 0 to 1 in part of a cell."""
    for levels in (*range(2, 257, 6), 255, *(2**k + i for k in range(2, 8) for i in (-1, 0, 1))):
        x = np.arange(levels, dtype=np.uint8)
        for lowest in (True, False):
            extreme = lambda shape, seed, limit: tf.fill(shape, 0 if lowest else limit - 1)  # noqa: B023, E731
            monkeypatch.setattr(data_space, "random_integers", extreme)
            assert_inside(dequantize(x, levels, seed=[0, 0]), x, levels)
        for dtype in (tf.float32, tf.float64):
            parts = [place_in_cells(x, tf.fill([levels], tf.constant(u, dtype)), levels) for u in (0.0, 0.3, 1.0)]
            (low, width), _, (high, _) = parts
            for y, _ in parts:
                assert y.dtype == dtype
                assert_inside(y, x, levels)
            np.testing.assert_allclose(np.float64(high) - low, width, atol=2e-7)
            assert 1 - 2**-12 < width * levels < 1


def test_seeds_static_shapes_and_clipping():
    result = quantize([-0.3, 0.0, 0.999, 1.0, 7.0], 4)
    np.testing.assert_array_equal(result, [0, 0, 3, 3, 3])
    assert result.dtype == tf.uint8
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    y = dequantize(x, 17, seed=[5, 6])
    np.testing.assert_array_equal(y, tf.function(dequantize)(x, 17, seed=[5, 6]))
    assert np.all(y != dequantize(x, 17, seed=[5, 7]))
    spec = tf.TensorSpec([None, 8, 8, 1], tf.uint8)
    function = tf.function(lambda x: dequantize(x, 17, seed=[0, 0]), input_signature=[spec])
    assert function.get_concrete_function().output_shapes.as_list() == [None, 8, 8, 1]
    # Common noise does not depend on the batch.
    x = np.random.default_rng(0).integers(17, size=[5, 3, 2])
    together = dequantize(x, 17, seed=[1, 2], sets=1)
    np.testing.assert_array_equal(together[3:4], dequantize(x[3:4], 17, seed=[1, 2], sets=1))
    noise = np.float64(together) * 17 - x
    np.testing.assert_allclose(noise, np.broadcast_to(noise[:1], noise.shape), atol=1e-5)
    assert len(np.unique(np.round(noise[0], 4))) == 6


def test_wrong_arguments(refused):
    error, outside = tf.errors.InvalidArgumentError, "must be integers 0, ..., 16"
    refused(outside, dequantize, [3, -1], 17, [0, 0], error=error)
    refused(outside, tf.function(dequantize), tf.constant([3, 17]), 17, [0, 0], error=error)
    refused("must be integers 0, ..., 16, but are float32", dequantize, [0.5], 17, [0, 0])
    for levels in (1, 257, 2.5):
        refused("must be an integer from 2 to 256", dequantize, [0], levels, [0, 0])
        refused("must be an integer from 2 to 256", quantize, [0.0], levels)
