"""Colored probes, and the roulette that follows the decay of the series."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet import estimators
from tf_resflow.logdet.probes import coloring, draw_probes


def colors_of(shape, num_colors):
    return coloring(tf.constant(shape, tf.int32), tf.TensorShape(shape), num_colors).numpy()


@pytest.mark.parametrize("shape, num_probes", [((6, 6, 2), 8), ((5,), 3), ((2, 3, 2), 12), ((4, 3), 6), ((), 1)])
def test_pairs_of_different_colors_cancel(shape, num_probes):
    """The mean of v v' has ones on the diagonal, signs between coordinates of one color, and zeros elsewhere."""
    size = int(np.prod(shape))
    v = draw_probes("colored", num_probes, tf.zeros([7, *shape], tf.float64), tf.constant([1, 2]))
    v = np.reshape(v, [num_probes, 7, size])
    moments = np.einsum("pbi,pbj->bij", v, v) / num_probes
    colors = colors_of(shape, num_probes).ravel()
    assert set(colors) <= set(range(num_probes))
    np.testing.assert_allclose(np.abs(moments), np.tile(colors[:, None] == colors, [7, 1, 1]), atol=1e-12)
    np.testing.assert_allclose(moments[:, range(size), range(size)], 1, rtol=1e-12)
    if num_probes == size:
        assert len(set(colors)) == size


@pytest.mark.parametrize("num_colors", [9, 10, 12, 13, 16])
def test_pixels_of_one_color_do_not_meet_in_a_branch(num_colors):
    """Kernels of 3, 1 and 3 couple pixels at most 2 apart."""
    colors = colors_of((12, 12, 1), num_colors)[..., 0]
    for (a, b), (c, d) in itertools.combinations(itertools.product(range(12), repeat=2), 2):
        if colors[a, b] == colors[c, d]:
            assert max(abs(a - c), abs(b - d)) > 2


def test_channels_have_different_colors_first():
    colors = colors_of((4, 4, 4), 8)
    assert all(len(set(pixel)) == 4 for pixel in colors.reshape(-1, 4))
    assert len(np.unique(colors)) == 8
    colors = colors_of((4, 4, 3), 16)
    assert all(len(set(pixel)) == 3 for pixel in colors.reshape(-1, 3))
    assert len(np.unique(colors)) == 15  # as many as a multiple of the channels


def test_an_adaptive_roulette_takes_exact_terms_until_they_are_small():
    """J = 0.3 I: term 6 is the first below 1e-3. 20,000 draws of N: each weight has mean 1, within 4.5 errors."""
    v = tf.ones([20_000, 1], tf.float64)
    terms = resflow.logdet.AdaptiveRoulette(1e-3, per_example=True, chance=0.05).terms(None, v, tf.constant([3, 4]))
    state = terms.state
    for k in range(1, 10):
        assert terms.more(tf.constant(k), state)
        weight, neumann_weight, state = terms.weigh(tf.constant(k), 0.3**k * v, state)
        np.testing.assert_array_equal(weight, neumann_weight)
        if k <= 6:
            np.testing.assert_array_equal(weight, 1)
        else:
            chance = 0.05 * np.sqrt(0.3) ** (k - 7)
            np.testing.assert_allclose(np.unique(weight), [0, 1 / chance], rtol=1e-5)
            assert abs(np.mean(weight) - 1) < 4.5 * np.sqrt((1 / chance - 1) / 20_000)


def test_rows_of_an_adaptive_roulette_stop_for_themselves():
    """Each row keeps its weights, whatever the others in its batch do: rows of 0.1 and 0.9 at once and alone."""
    ratios = tf.constant([[0.1], [0.9]], tf.float64)

    def weights(ratios):
        terms = resflow.logdet.AdaptiveRoulette(1e-2).terms(None, tf.ones_like(ratios), tf.constant([5, 6]))
        state, result = terms.state, []
        for k in range(1, 60):
            weight, _, state = terms.weigh(tf.constant(k), ratios**k, state)
            result.append(weight)
        return np.stack(result)

    together = weights(ratios)
    np.testing.assert_array_equal(together, np.concatenate([weights(ratios[:1]), weights(ratios[1:])], 1))
    assert np.all(together[:43, 1] == 1) and not np.all(together[:43, 0] == 1)  # 0.9^44 is below 0.01


def test_an_adaptive_roulette_gives_up_exact_terms_in_the_end():
    terms = resflow.logdet.AdaptiveRoulette(1e-6, max_exact_terms=5).terms(
        None, tf.ones([1, 1]), tf.constant([0, 0])
    )
    state = terms.state
    for k in range(1, 7):
        weight, _, state = terms.weigh(tf.constant(k), tf.ones([1, 1]), state)
    assert float(weight[0]) in (0.0, 2.0)


def test_a_number_that_rounds_to_1_leaves_the_exact_terms(monkeypatch):
    """Of all numbers that may be drawn, the largest in float64 ends the roulette, and not before it."""
    largest = np.nextafter(1.0, 0.0)
    monkeypatch.setattr(estimators, "random_uniform", lambda shape, seed, dtype: tf.fill(shape, largest))
    _, log_det = resflow.logdet.AdaptiveRoulette(1e-3)(lambda x: 0.3 * x, tf.ones([1, 2]), seed=0)
    np.testing.assert_allclose(log_det, [2 * np.log(1.3)], rtol=1e-3)


def test_an_adaptive_roulette_is_unbiased_at_a_large_spectral_radius():
    """J has the radius 0.9. 10,000 rows of one example with the weight 1, and 10,000 with -2.

    Value and gradient are within 4.5 standard errors of slogdet's.
    """
    matrix = tf.constant([[0.2, 0.85], [0.9, -0.1]], tf.float64)
    branch = lambda x: tf.matmul(tf.sin(x), matrix)  # noqa: E731
    x = tf.constant([[0.2, -0.4]], tf.float64)

    def value_and_gradient(estimator, x, weights):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = estimator(branch, x, seed=3)[1]
            loss = tf.reduce_sum(weights * log_det)
        return log_det, tape.gradient(loss, x)

    expected = value_and_gradient(resflow.logdet.Exact(), x, 1.0)
    jacobian = np.cos(x[0])[:, None] * matrix
    assert 0.85 < np.abs(np.linalg.eigvals(jacobian)).max() < 0.95
    np.testing.assert_allclose(expected[0][0], np.linalg.slogdet(np.eye(2) + jacobian)[1], rtol=1e-12)

    weights = np.tile([1.0, -2.0], 10_000)
    estimator = resflow.logdet.AdaptiveRoulette(0.2, per_example=True, num_probes=1)
    draw = tf.function(lambda x: value_and_gradient(estimator, x, weights), autograph=False)
    log_det, gradient = (np.array(part) for part in draw(tf.tile(x, [len(weights), 1])))
    samples = np.column_stack([log_det, gradient / weights[:, None]])
    exact = np.append(expected[0], expected[1])
    for part in (samples[::2], samples[1::2]):
        errors = (part.mean(0) - exact) / (part.std(0, ddof=1) / np.sqrt(len(part)))
        assert np.max(np.abs(errors)) < 4.5
