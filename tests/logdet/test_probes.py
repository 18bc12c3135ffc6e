"""The probes, the adaptive roulette, and the numbers of terms compared with SciPy."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet import estimators
from tf_resflow.logdet.probes import coloring, draw_probes

pytestmark = pytest.mark.quick
AdaptiveRoulette = resflow.logdet.AdaptiveRoulette
Geometric, Poisson = resflow.logdet.Geometric, resflow.logdet.Poisson


def colors_of(shape, num_colors):
    return coloring(tf.constant(shape, tf.int32), tf.TensorShape(shape), num_colors).numpy()


@pytest.mark.parametrize(
    "shape, num_probes", [((6, 6, 2), 8), ((4, 4, 3), 16), ((5,), 3), ((2, 3, 2), 12), ((4, 3), 6), ((), 1)]
)
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
    channels = shape[-1] if len(shape) == 3 else 1
    assert all(len(set(pixel)) == channels for pixel in colors.reshape(-1, channels))  # they come first
    assert len(set(colors)) == min(size, num_probes // channels * channels)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_random_probes_have_independent_coordinates_of_variance_1(kind):
    """For two probes of 10,000 examples, all moments are within 4.5 standard errors."""
    v = draw_probes(kind, 2, tf.zeros([10_000, 3], tf.float64), tf.constant([1, 2]))
    v = np.reshape(v, [2, 10_000, 3]).transpose(1, 0, 2).reshape(-1, 6)  # the six numbers of each example
    pairs = v[:, :, None] * v[:, None]
    assert np.abs(v.mean(0)).max() < 0.045
    assert np.abs(pairs.mean(0) - np.eye(6)).max() < 0.045 * np.sqrt(2)
    fourth = {"rademacher": 1.0, "gaussian": 3.0}[kind]
    np.testing.assert_allclose((v**4).mean(0), fourth, atol=0.045 * np.sqrt(96) if kind == "gaussian" else 0)


@pytest.mark.parametrize("num_colors", [9, 10, 12, 13, 16])
def test_a_branch_does_not_couple_pixels_of_the_same_color(num_colors):
    """Kernels of 3, 1 and 3 couple pixels at most 2 apart."""
    colors = colors_of((12, 12, 1), num_colors).ravel()
    rows, columns = np.indices((12, 12)).reshape(2, -1)
    apart = np.maximum(np.abs(rows - rows[:, None]), np.abs(columns - columns[:, None]))
    assert np.all(apart[np.triu(colors == colors[:, None], 1)] > 2)


def weights_of(estimator, v, seed, vectors):
    """Returns the weights of the terms of these vectors, `[terms, rows]`, and whether each is computed."""
    terms = estimator.terms(v, tf.constant(seed))
    state, weights, more = terms.state, [], []
    for k, w in enumerate(vectors, 1):
        more.append(bool(terms.more(tf.constant(k), state)))
        weight, neumann_weight, state = terms.weigh(tf.constant(k), w, state)
        np.testing.assert_array_equal(weight, neumann_weight)
        weights.append(weight)
    return np.stack(weights), more


def test_an_adaptive_roulette_computes_exact_terms_until_they_are_small():
    """For J = 0.3 I, term 6 is the first below 1e-3. Weights have mean 1 within 4.5 errors of 20,000 draws."""
    v = tf.ones([20_000, 1], tf.float64)
    estimator = AdaptiveRoulette(1e-3, per_example=True, chance=0.05)
    weights, more = weights_of(estimator, v, [3, 4], [0.3**k * v for k in range(1, 10)])
    assert all(more)
    np.testing.assert_array_equal(weights[:6], 1)
    for j, weight in enumerate(weights[6:]):
        chance = 0.05 * np.sqrt(0.3) ** j
        np.testing.assert_allclose(np.unique(weight), [0, 1 / chance], rtol=1e-5)
        assert abs(np.mean(weight) - 1) < 4.5 * np.sqrt((1 / chance - 1) / 20_000)


def test_rows_of_an_adaptive_roulette_stop_independently():
    """Rows with the ratios 0.1 and 0.9 have the same weights in one batch as on their own."""

    def weights(*ratios):
        ratios = tf.constant(ratios, tf.float64)[:, tf.newaxis]
        powers = [ratios**k for k in range(1, 60)]
        return weights_of(AdaptiveRoulette(1e-2), tf.ones_like(ratios), [5, 6], powers)[0]

    together = weights(0.1, 0.9)
    np.testing.assert_array_equal(together, np.concatenate([weights(0.1), weights(0.9)], 1))
    assert np.all(together[:43, 1] == 1) and not np.all(together[:43, 0] == 1)  # 0.9^44 is below 0.01


def test_an_adaptive_roulette_limits_the_exact_terms():
    """The next term has the probability 1/2, or 0.01 if each of 2,000 examples draws its own N."""
    ones, many = tf.ones([1, 1]), tf.ones([2000, 1])
    shared = [weights_of(AdaptiveRoulette(1e-6, 5), ones, [0, i], [ones] * 6)[0] for i in range(8)]
    np.testing.assert_array_equal(np.stack(shared)[:, :5], 1)
    assert {float(weights[5, 0]) for weights in shared} == {0.0, 2.0}
    own, _ = weights_of(AdaptiveRoulette(1e-6, 5, per_example=True), many, [0, 0], [many] * 6)
    np.testing.assert_allclose(np.unique(own[5]), [0, 100], rtol=1e-6)


def test_a_number_that_rounds_to_1_keeps_the_exact_terms(monkeypatch):
    """Even the largest number that can be drawn, in float64, ends only the roulette."""
    largest = np.nextafter(1.0, 0.0)
    monkeypatch.setattr(estimators, "random_uniform", lambda shape, seed, dtype: tf.fill(shape, largest))
    _, log_det = AdaptiveRoulette(1e-3)(lambda x: 0.3 * x, tf.ones([1, 2]), seed=0)
    np.testing.assert_allclose(log_det, [2 * np.log(1.3)], rtol=1e-3)


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [(Geometric(0.5), scipy.stats.geom(0.5)), (Poisson(2.0), scipy.stats.poisson(2.0))],
)
def test_samples_follow_the_distribution(distribution, reference):
    """Each frequency in 40,000 draws is within 4.5 standard errors."""
    num = 40_000
    draws = distribution.sample([num], tf.constant([1, 2])).numpy()
    for n in range(8):
        p = reference.pmf(n)
        assert abs(np.mean(draws == n) - p) <= 4.5 * np.sqrt(p * (1 - p) / num)


def test_survival_has_a_stable_tail():
    k = np.arange(1, 30)
    cases = [(Geometric(p), scipy.stats.geom(p)) for p in (0.1, 0.9)]
    cases += [(Poisson(rate), scipy.stats.poisson(rate)) for rate in (0.5, 8.0)]
    for distribution, reference in cases:
        survival = distribution.survival(tf.constant(k), tf.float64)
        np.testing.assert_allclose(survival, reference.sf(k - 1), rtol=1e-9)


def test_finite_variance():
    """For Geometric(p), the terms of sum L^(2k) / P(N >= k) have the ratio L^2 / (1 - p), which must be < 1."""
    assert Geometric(0.5).finite_variance(0.7) and not Geometric(0.5).finite_variance(0.98**3)
    assert not Poisson(2.0).finite_variance(0.1)
    for lipschitz in (0.1, 0.5, 0.94, 0.999):
        assert Geometric(1 - lipschitz).finite_variance(lipschitz)


def test_geometric_has_no_heavy_tail():
    """A uniform number that is 0 once in 2^23 draws would give N = 127. N > 40 in 2^24 draws has chance 3e-5."""
    draws = Geometric(0.5).sample([2**24], [0, 1])
    assert 18 < np.max(draws) <= 40
