"""The order of Squeeze2D's pixels, and its errors."""

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.bijectors import Squeeze2D


@pytest.mark.parametrize("factor", [2, 3])
def test_where_each_pixel_goes(factor):
    h, w, c = 2 * factor, 3 * factor, 2
    x = np.arange(5 * h * w * c, dtype="float32").reshape(5, h, w, c)
    y = Squeeze2D(factor).forward(x).numpy()
    assert y.shape == (5, 2, 3, c * factor**2)
    for channel in range(c):
        for dy in range(factor):
            for dx in range(factor):
                pixels = x[:, dy::factor, dx::factor, channel]
                place = channel * factor**2 + dy * factor + dx
                np.testing.assert_array_equal(y[..., place], pixels)


@pytest.mark.parametrize("batch_shape", [[], [2], [2, 3]])
def test_batch_shapes(batch_shape):
    squeeze = Squeeze2D()
    x = tf.random.stateless_normal([*batch_shape, 4, 2, 1], [0, 1])
    y = squeeze.forward(x)
    assert y.shape == [*batch_shape, 2, 1, 4]
    np.testing.assert_array_equal(squeeze.inverse(tf.identity(y)), x)
    np.testing.assert_array_equal(squeeze.forward_log_det_jacobian(x, 3), 0.0)


def test_shapes_that_do_not_fit():
    squeeze = Squeeze2D()
    with pytest.raises(ValueError, match="multiples of 2; got 3 x 4"):
        squeeze.forward(tf.zeros([1, 3, 4, 1]))
    with pytest.raises(ValueError, match="multiple of 4 channels; got 6"):
        squeeze.inverse(tf.zeros([1, 2, 2, 6]))
    with pytest.raises(ValueError, match="multiples of 2; got 4 x 5"):
        squeeze.forward_event_shape([4, 5, 1])
    with pytest.raises(ValueError, match="at least 2"):
        Squeeze2D(1)
