"""Compares the learning rates and the end of a fit with NumPy on all losses at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

WINDOW, DROPS = 10, 2
CASES = (np.nan, 0.1), (0.0, 1.0), (5.0, 1.0), (50.0, 1.0), (20.0, 0.0)  # depth, noise


def reference(losses, rate, factor):
    """Returns the learning rate after each loss, and the number of losses until the end."""
    rates, before, drops = [], (np.inf, 0.0), 0
    for i in range(0, len(losses), WINDOW):
        part = np.asarray(losses[i : i + WINDOW], np.float64)
        mean, variance = np.mean(part), np.var(part, ddof=1) / WINDOW
        level = not before[0] - mean > np.sqrt(before[1] + variance)
        rates += [rate] * (len(part) - 1)
        if level and drops == DROPS:
            return [*rates, rate], i + WINDOW
        before = (mean, variance)
        if level:
            drops, rate, before = drops + 1, factor * rate, (np.inf, 0.0)
        rates.append(rate)
    return rates, len(losses)


@pytest.mark.parametrize("way", ["graph", "xla"])
def test_rates_and_the_end(way):
    """Losses fall by different amounts, with noise. NaN losses end the fit as early as possible."""
    generator = np.random.default_rng(0)
    optimizer = keras.optimizers.Adam(0.1)
    criterion = resflow.vi.Plateau(optimizer, window=WINDOW, factor=0.5, num_drops=DROPS)

    def run(losses):
        optimizer.learning_rate = 0.1
        rates = tf.TensorArray(tf.float32, 300, element_shape=[])

        def step(i, done, state, rates):
            done, state = criterion.one_step(i + 1, losses[i], [], [], state)
            return i + 1, done, state, rates.write(i, tf.convert_to_tensor(optimizer.learning_rate))

        start = tf.constant(0), tf.constant(False), criterion.bootstrap(losses[0], [], []), rates
        options = {"parallel_iterations": 1, "maximum_iterations": 300}
        i, _, _, rates = tf.while_loop(lambda i, done, *_: ~done & (i < 300), step, start, **options)
        return i, rates.stack()

    compiled, ends = tf.function(run, autograph=False, jit_compile=way == "xla"), []
    for depth, noise in CASES:
        losses = 1000.0 + depth * np.exp(-np.arange(300) / 40) + noise * generator.normal(size=300)
        losses = losses.astype(np.float64 if way == "graph" else np.float32)
        expected, end = reference(losses, 0.1, 0.5)
        steps, rates = compiled(tf.constant(losses))
        assert steps == end
        np.testing.assert_allclose(rates[:end], expected, rtol=1e-6)
        ends.append(end)
    assert ends == sorted(ends) and ends[0] < ends[-1]


def test_a_schedule_is_refused(refused):
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10))
    criterion, zeros = resflow.vi.Plateau(optimizer), (tf.zeros([]), [], [])
    given = (1, *zeros, criterion.bootstrap(*zeros))
    refused("learning rate is not settable", criterion.one_step, *given, error=TypeError)
