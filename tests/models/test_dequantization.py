import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.models import dequantization, dequantize, quantize
from tf_resflow.models.dequantization import cell_width, place_in_cells


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


@pytest.mark.parametrize("lowest", [True, False])
def test_extreme_draws_stay_in_their_level(lowest, monkeypatch):
    extreme = lambda shape, seed, limit: tf.fill(shape, 0 if lowest else limit - 1)  # noqa: E731
    monkeypatch.setattr(dequantization, "random_integers", extreme)
    for levels in (*range(2, 257, 6), 255, *(2**k + i for k in range(2, 8) for i in (-1, 0, 1))):
        x = np.arange(levels, dtype=np.uint8)
        y = dequantize(x, levels, seed=[0, 0])
        assert 0 < np.min(y) and np.max(y) < 1
        np.testing.assert_array_equal(quantize(y, levels), x)
        np.testing.assert_array_equal(np.floor(np.float64(y) * levels), x)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_numbers_in_cells(dtype):
    """The ends of the unit interval and numbers in between stay in their level, with the expected width."""
    for levels in (2, 3, 17, 32, 128, 129, 200, 255, 256):
        x = np.arange(levels, dtype=np.uint8)
        ends = [place_in_cells(x, tf.fill([levels], tf.constant(u, dtype)), levels) for u in (0.0, 0.3, 1.0)]
        for y in ends:
            assert y.dtype == dtype and 0 < np.min(y) and np.max(y) < 1
            np.testing.assert_array_equal(quantize(y, levels), x)
            np.testing.assert_array_equal(np.floor(np.float64(y) * levels), x)
        low, _, high = np.float64(ends)
        np.testing.assert_allclose(high - low, cell_width(levels), atol=2e-7)
        assert 1 - 2**-12 < cell_width(levels) * levels < 1


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
