"""The fused operation and its estimators against dense linear algebra, in float64."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet.power_series import Terms, power_series_log_det

SIZE, BATCH, CONDITION = 3, 4, 2


@pytest.fixture(scope="module")
def branch():
    """Conditional; every layer is scaled, and J is far from 0: the layers nearly invert each other."""
    x = keras.Input([SIZE], dtype="float64")
    c = keras.Input([CONDITION], dtype="float64")
    layers = resflow.layers
    first = layers.LipschitzDense(6, coefficient=0.8, dtype="float64")
    h = keras.layers.Add(dtype="float64")([first(x), keras.layers.Dense(6, dtype="float64")(c)])
    h = layers.LipSwish(dtype="float64")(h)
    y = layers.LipschitzDense(SIZE, coefficient=0.8, dtype="float64")(h)
    model = keras.Model([x, c], y)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    rows = np.linalg.qr(rng.normal(size=[6, SIZE]))[0].T
    kernels = [layer.kernel for layer in layers.lipschitz_layers(model)]
    kernels[0].assign(kernels[0] + 4 * rows)
    kernels[1].assign(kernels[1] - 4 * rows.T)
    first.bias.assign(first.bias + 1.5)
    layers.update_norms(model, tolerance=1e-13, max_iterations=2000)
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return {
        "x": tf.constant(rng.normal(size=[BATCH, SIZE])),
        "c": tf.constant(rng.normal(size=[BATCH, CONDITION])),
        "weights": tf.constant(rng.normal(size=[BATCH])),
        "dy": tf.constant(rng.normal(size=[BATCH, SIZE])),
    }


def compiled(branch, estimator, data, graph=True):
    """A function of a seed, and of the data if they are others: see `value_and_gradients`."""
    variables = [v.value for v in branch.trainable_variables]

    def run(data, seed):
        x, c = data["x"], data["c"]
        with tf.GradientTape() as tape:
            tape.watch([x, c])
            y, log_det = estimator(branch, x, c, seed=seed)
            loss = tf.reduce_sum(data["weights"] * log_det) + tf.reduce_sum(data["dy"] * y)
        return y, log_det, tape.gradient(loss, [x, c, *variables], unconnected_gradients="zero")

    function = tf.function(run, autograph=False) if graph else run
    return lambda seed, data=data: function(data, tf.constant([0, seed]))


def value_and_gradients(branch, estimator, data, graph=False):
    """y, log_det, and the gradients of sum_i (weights_i log_det_i + dy_i . y_i) in x, c and the parameters."""
    return compiled(branch, estimator, data, graph)(0)


def dense_reference(branch, data, log_det_of_jacobian=None):
    """The same by the explicit Jacobian and `slogdet` (or another function of the Jacobian)."""
    variables = [v.value for v in branch.trainable_variables]
    x, c = data["x"], data["c"]
    with tf.GradientTape() as outer:
        outer.watch([x, c])
        with tf.GradientTape() as inner:
            inner.watch(x)
            g = branch([x, c])
        jacobian = inner.batch_jacobian(g, x)
        if log_det_of_jacobian is None:
            log_det = tf.linalg.slogdet(tf.eye(SIZE, dtype=tf.float64) + jacobian)[1]
        else:
            log_det = log_det_of_jacobian(jacobian)
        y = x + g
        loss = tf.reduce_sum(data["weights"] * log_det) + tf.reduce_sum(data["dy"] * y)
    gradients = outer.gradient(loss, [x, c, *variables], unconnected_gradients="zero")
    return y, log_det, gradients


def assert_all_close(actual, expected, tolerance):
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "estimator",
    [
        resflow.logdet.Exact(),
        resflow.logdet.PowerSeries(60, probes="basis"),
        resflow.logdet.AdaptiveSeries(1e-12, probes="basis"),
        resflow.logdet.RussianRoulette(60, probes="basis"),
    ],
    ids=["exact", "power_series", "adaptive", "russian_roulette"],
)
def test_equals_slogdet_with_basis_probes(branch, data, estimator):
    """Those of random length also in a graph, in which equal branches share a trace."""
    expected = dense_reference(branch, data)
    assert_all_close(value_and_gradients(branch, estimator, data), expected, 1e-9)
    if isinstance(estimator, (resflow.logdet.AdaptiveSeries, resflow.logdet.RussianRoulette)):
        assert_all_close(value_and_gradients(branch, estimator, data, graph=True), expected, 1e-9)


@pytest.mark.parametrize("estimator", [resflow.logdet.Exact(), resflow.logdet.PowerSeries(60, probes="basis")])
def test_kernels_that_are_bound_get_their_gradient(branch, data, estimator):
    def bound(branch, *args, **kwargs):
        return estimator(resflow.layers.bind(branch), *args, **kwargs)

    assert_all_close(value_and_gradients(branch, bound, data), dense_reference(branch, data), 1e-9)


@pytest.mark.parametrize("num_terms", [1, 5])
def test_power_series_has_the_bias_of_its_terms_and_the_gradient_of_its_value(branch, data, num_terms):
    def truncated(jacobian):
        power, total = jacobian, 0.0
        for k in range(1, num_terms + 1):
            total += (-1) ** (k + 1) / k * tf.linalg.trace(power)
            power = power @ jacobian
        return total

    estimator = resflow.logdet.PowerSeries(num_terms, probes="basis")
    actual = value_and_gradients(branch, estimator, data)
    assert_all_close(actual, dense_reference(branch, data, truncated), 1e-10)
    exact = dense_reference(branch, data)[1]
    assert np.max(np.abs(actual[1] - exact)) > 1e-4


def draws(branch, data, estimator, calls, rows):
    """Means over `rows` copies of the first example, in as many calls: of log_det and its gradients, as rows."""
    x, c = data["x"][:1], data["c"][:1]
    variables = [v.value for v in branch.trainable_variables]

    def one(seed):
        with tf.GradientTape() as tape:
            tape.watch([x, c])
            log_det = estimator(branch, tf.repeat(x, rows, 0), tf.repeat(c, rows, 0), seed=seed)[1]
            mean = tf.reduce_mean(log_det)
        gradients = tape.gradient(mean, [x, c, *variables], unconnected_gradients="zero")
        return tf.concat([tf.reshape(g, [-1]) for g in (mean, *gradients)], 0)

    @tf.function(autograph=False)
    def run(seeds):
        return tf.map_fn(one, seeds, fn_output_signature=tf.float64)

    seeds = np.stack([np.zeros(calls), np.arange(calls)], 1).astype(np.int32)
    return run(tf.constant(seeds)).numpy()


@pytest.mark.parametrize(
    ("estimator", "calls"),
    [
        (resflow.logdet.RussianRoulette(1, resflow.logdet.Geometric(0.4), probes="rademacher"), 1_000),
        (
            resflow.logdet.RussianRoulette(1, resflow.logdet.Geometric(0.4), probes="gaussian", per_example=True),
            200,
        ),
        (
            resflow.logdet.RussianRoulette(1, resflow.logdet.Geometric(0.4), num_probes=2, per_example=True),
            200,
        ),
        (resflow.logdet.AdaptiveRoulette(0.3), 1_000),
        (
            resflow.logdet.AdaptiveRoulette(1e-9, max_exact_terms=1, per_example=True, num_probes=2, chance=0.2),
            200,
        ),
    ],
    ids=["rademacher", "gaussian", "colored", "adaptive", "adaptive_colored"],
)
def test_roulette_is_unbiased(branch, data, estimator, calls):
    """10,000 draws of v: value and every gradient within 4.5 standard errors of slogdet's.

    They come in independent calls of 50, each with its own N, or of 10 that share N. About 50 means are compared,
    so that 4.5 standard errors are exceeded by chance once in 1,500 runs.
    """
    samples = draws(branch, data, estimator, calls, 10_000 // calls)
    one = {key: value[:1] for key, value in data.items()}
    one["weights"], one["dy"] = tf.ones([1], tf.float64), tf.zeros([1, SIZE], tf.float64)
    _, log_det, gradients = dense_reference(branch, one)
    exact = np.concatenate([np.reshape(part, [-1]) for part in (log_det, *gradients)])
    errors = samples.mean(0) - exact
    stderr = samples.std(0, ddof=1) / np.sqrt(len(samples))
    moving = stderr > 1e-12
    np.testing.assert_allclose(errors[~moving], 0, atol=1e-9)
    assert moving.sum() > 20
    assert np.max(np.abs(errors[moving] / stderr[moving])) < 4.5


@pytest.mark.parametrize(
    "distribution, chance",
    [
        (resflow.logdet.Poisson(2.0), lambda n: np.exp(-2.0) * 2.0**n / np.prod(np.arange(1, n + 1.0))),
        (resflow.logdet.Geometric(0.5), lambda n: 0.5**n if n else 0.0),
    ],
    ids=["poisson", "geometric"],
)
def test_expectation_over_the_number_of_terms(branch, data, distribution, chance):
    """With basis probes, the expectation over N of the value and the gradient equals that of slogdet.

    (For Poisson a z-test would be meaningless: its variance is infinite.)
    """
    total, mass = None, 0.0
    fixed = _Fixed(distribution)
    run = compiled(branch, resflow.logdet.RussianRoulette(1, fixed, probes="basis"), data)
    for n in range(60):
        fixed.n.assign(n)
        value = tf.nest.flatten(run(0)[1:])
        p = chance(n)
        mass += p
        weighted = [p * part for part in value]
        total = weighted if total is None else [a + b for a, b in zip(total, weighted, strict=True)]
    np.testing.assert_allclose(mass, 1, atol=1e-9)
    expected = dense_reference(branch, data)
    assert_all_close(total, expected[1:], 1e-6)


class _Fixed:
    """A distribution whose draw is fixed; its tail is that of the original."""

    def __init__(self, distribution):
        self._distribution, self.n = distribution, tf.Variable(0, trainable=False)

    def sample(self, shape, seed):
        del seed
        return tf.fill(shape, self.n)

    def survival(self, k, dtype):
        return self._distribution.survival(k, dtype)


def test_per_example_draws_are_masked(branch, data):
    """Each row stops at its N: rows of one call equal calls with that N alone."""
    counts = [1, 4, 2, 3]

    class Listed(resflow.logdet.Geometric):
        def sample(self, shape, seed):
            del shape, seed
            return tf.constant(counts)

    estimator = resflow.logdet.RussianRoulette(1, Listed(0.5), per_example=True)
    _, log_det, _ = value_and_gradients(branch, estimator, data)
    fixed = _Fixed(resflow.logdet.Geometric(0.5))
    alone = compiled(branch, resflow.logdet.RussianRoulette(1, fixed), data)
    for i, n in enumerate(counts):
        fixed.n.assign(n)
        _, expected, _ = alone(0)
        np.testing.assert_allclose(log_det[i], expected[i], rtol=1e-12)


def test_upstream_weights_are_honoured_per_example(branch, data):
    """The gradient with weights w equals the weighted sum of the gradients of the examples, each in its own x."""
    run = compiled(branch, resflow.logdet.RussianRoulette(2), data)
    whole = run(3)[2][2:]
    summed = None
    for i in range(BATCH):
        mask = tf.one_hot(i, BATCH, dtype=tf.float64)
        one = {**data, "weights": data["weights"] * mask, "dy": data["dy"] * mask[:, tf.newaxis]}
        in_x, _, *part = run(3, one)[2]
        np.testing.assert_array_equal(np.delete(in_x, i, axis=0), 0.0)
        summed = part if summed is None else [a + b for a, b in zip(summed, part, strict=True)]
    assert_all_close(whole, summed, 1e-10)


def test_several_probes_average(branch, data):
    """Three given probes in one call equal the mean of three calls, value and gradient."""
    rng = np.random.default_rng(5)
    probes = tf.constant(rng.normal(size=[3, BATCH, SIZE]))
    one = tf.ones([], tf.float64)
    terms = Terms(lambda k, state: k <= 4, lambda k, w, state: (one, one, state))
    variables = [v.value for v in branch.trainable_variables]

    def run(v, num):
        with tf.GradientTape() as tape:
            tape.watch([data["x"], data["c"]])
            bound, inputs = resflow.layers.bind(branch), [data["x"], data["c"]]
            _, log_det = power_series_log_det(bound, inputs, num, lambda *_: (v, terms), tf.constant([0, 0]))
            loss = tf.reduce_sum(data["weights"] * log_det)
        return [log_det, *tape.gradient(loss, [data["x"], data["c"], *variables[:3]])]

    together = run(tf.reshape(probes, [-1, SIZE]), 3)
    apart = [run(v, 1) for v in tf.unstack(probes)]
    assert_all_close(together, [sum(parts) / 3 for parts in zip(*apart, strict=True)], 1e-10)


@pytest.mark.parametrize(
    "estimator", [resflow.logdet.RussianRoulette(), resflow.logdet.PowerSeries(3)], ids=["rr", "ps"]
)
def test_second_derivative_raises(branch, data, estimator):
    x = data["x"]
    with pytest.raises(ValueError, match="second derivative.*Exact"):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                log_det = estimator(branch, x, data["c"], seed=0)[1]
            gradient = inner.gradient(log_det, x)
        outer.gradient(gradient, x)


def test_exact_has_second_derivatives():
    """d2/dx2 log(1 + g'(x)) of a scalar g against its formula, for g = a sin x."""
    a, x = 0.5, tf.constant([[0.3], [1.2]], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            log_det = resflow.logdet.Exact()(lambda x: a * tf.sin(x), x)[1]
        first = inner.gradient(log_det, x)
    second = outer.gradient(first, x).numpy()
    s, c = np.sin(x), np.cos(x)
    np.testing.assert_allclose(first, -a * s / (1 + a * c), rtol=1e-12)
    expected = (-a * c * (1 + a * c) - (a * s) ** 2) / (1 + a * c) ** 2
    np.testing.assert_allclose(second, expected, rtol=1e-12)


def test_exact_does_not_warn_of_retracing(caplog):
    with caplog.at_level(logging.WARNING, "tensorflow"):
        for _ in range(8):
            resflow.logdet.Exact()(lambda x: 0.5 * tf.sin(x), tf.ones([1, 2]))
    assert "retracing" not in caplog.text


def test_adaptive_series_keeps_its_tolerance(branch, data):
    """For the probes drawn, the value is within the tolerance of a long series with the same probes."""
    for seed in (0, 1):
        full = resflow.logdet.PowerSeries(100)(branch, data["x"], data["c"], seed=seed)[1]
        for tolerance in (1e-1, 1e-3, 1e-6):
            short = resflow.logdet.AdaptiveSeries(tolerance, lipschitz_constant=0.64)
            value = short(branch, data["x"], data["c"], seed=seed)[1]
            assert np.max(np.abs(value - full)) <= tolerance


def test_adaptive_series_refuses_a_bound_of_one():
    with pytest.raises(ValueError, match="below 1"):
        resflow.logdet.AdaptiveSeries(lipschitz_constant=1.0)
    loose = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, coefficient=1.5)])
    loose.layers[0].kernel.assign(3 * np.eye(2))
    resflow.layers.update_norms(loose, tolerance=1e-6, max_iterations=100)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not below 1"):
        resflow.logdet.AdaptiveSeries()(loose, tf.zeros([1, 2]))


@pytest.mark.parametrize("kind", ["number", "learned"])
def test_adaptive_series_bounds_the_rest_in_the_norm_of_the_branch(kind):
    """The norm of the first layer on x, not of one on the condition; a learned order at its current value."""
    order = 1.5
    orders = order, order
    if kind == "learned":
        orders = resflow.layers.LearnedOrder(low=1.0, high=5.0), resflow.layers.LearnedOrder()
        orders[0].theta.assign(np.log((order - 1) / (5 - order)))
    dense = resflow.layers.LipschitzDense
    x, condition = keras.Input([3]), keras.Input([3])
    y = keras.layers.Add()([dense(3, 0.5, domain=orders[0], codomain=orders[1])(x), dense(3)(dense(3)(condition))])
    branch = keras.Model([x, condition], dense(3, 0.5, domain=orders[1], codomain=orders[0])(y))
    certified = float(resflow.layers.lipschitz_constant(branch, certified=True))
    v, w = np.random.default_rng(0).normal(size=[2, 4, 3]).astype("float32")
    norms = np.linalg.norm(v, order, axis=1) * np.linalg.norm(w, order / (order - 1), axis=1)
    for given, bound in ((None, certified), (0.7, 0.7)):
        rest = bound / (3 * (1 - bound)) * norms.max()
        for tolerance, expected in ((0.999 * rest, True), (1.001 * rest, False)):
            terms = resflow.logdet.AdaptiveSeries(tolerance, given).terms(branch, tf.constant(v), None)
            *_, state = terms.weigh(tf.constant(2), tf.constant(w), terms.state)
            assert terms.more(3, state).numpy() == expected
    points = tf.constant(np.random.default_rng(1).normal(size=[2, 4, 3]), tf.float32)
    found = resflow.logdet.AdaptiveSeries(1e-3, probes="basis")(branch, *points)[1]
    np.testing.assert_allclose(found, resflow.logdet.Exact()(branch, *points)[1], atol=1e-3)


def test_adaptive_series_refuses_another_norm_than_the_branch_is_bounded_in():
    layer = resflow.layers.LipschitzDense(2, coefficient=0.5, domain=1, codomain=1)
    branch = keras.Sequential([keras.Input([2]), layer])
    with pytest.raises(ValueError, match="norm of order 2.*order 1: leave order out"):
        resflow.logdet.AdaptiveSeries(order=2)(branch, tf.zeros([1, 2]))
    assert resflow.logdet.AdaptiveSeries(order=1)(branch, tf.zeros([1, 2]))[1].shape == [1]
    unknown = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, kernel_initializer="zeros")])
    for bound in (None, 0.5):
        with pytest.raises(ValueError, match="needs a branch whose .* certified.*'dense.*' .*is unknown"):
            resflow.logdet.AdaptiveSeries(lipschitz_constant=bound)(unknown, tf.zeros([1, 2]))
    trusted = resflow.logdet.AdaptiveSeries(lipschitz_constant=0.5, order=2)
    assert trusted(unknown, tf.zeros([1, 2]))[1].shape == [1]


@pytest.mark.parametrize("probes", ["rademacher", "colored", "gaussian", "basis"])
@pytest.mark.parametrize("kind", ["RussianRoulette", "PowerSeries", "AdaptiveRoulette"])
def test_shared_numbers_make_an_estimate_independent_of_its_batch(branch, data, kind, probes):
    """Two parts of a batch of equal examples differ, unless the 3 probes of 3 coordinates are exact.

    (The roulette of `AdaptiveRoulette` takes no term with these seeds.)
    """
    estimator = getattr(resflow.logdet, kind)(probes=probes, num_probes=3)
    shared = estimator.with_sets(2)
    inputs = [tf.concat([data[name], data[name]], 0) for name in ("x", "c")]
    value = shared(branch, *inputs, seed=7)[1]
    alone = shared(branch, *(tf.tile(data[name][2:3], [2, 1]) for name in ("x", "c")), seed=7)[1]
    num = len(value) // 2
    np.testing.assert_allclose([value[2], value[num + 2]], alone, rtol=1e-10)
    is_exact = kind != "RussianRoulette" and probes in ("basis", "colored")
    assert is_exact == np.isclose(*alone, rtol=1e-10)


def test_the_log_det_at_ties_is_within_its_certificate():
    """Two equal derivatives instead of a permutation would make I + J singular there."""
    angle = np.pi / 4 + np.arccos(1 / (0.81 * 2**0.5))
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    dense = resflow.layers.LipschitzDense
    branch = keras.Sequential([keras.Input([2]), dense(2, 0.9), resflow.layers.MaxMin(), dense(2, 0.9)])
    for layer, kernel in zip((branch.layers[0], branch.layers[2]), (-np.eye(2), turn), strict=True):
        layer.kernel.assign(kernel)
    resflow.layers.update_norms(branch, tolerance=1e-6, max_iterations=100)
    x = tf.constant([[0.0, 0.0], [1.0, 1.0], [-2.0, -2.0]])
    log_det = resflow.logdet.Exact()(branch, x)[1]
    expected = np.linalg.slogdet(np.eye(2) - 0.81 * np.array(turn))[1]
    np.testing.assert_allclose(log_det, [expected] * 3, rtol=1e-4)
    assert np.abs(log_det).max() <= -2 * np.log(1 - resflow.layers.lipschitz_constant(branch, certified=True))


@pytest.mark.parametrize(
    "estimator",
    [
        resflow.logdet.Exact(),
        resflow.logdet.RussianRoulette(per_example=True, num_probes=2, probe_sets=1),
        resflow.logdet.AdaptiveSeries(lipschitz_constant=0.9, probes="basis"),
    ],
    ids=["exact", "common", "adaptive"],
)
def test_an_empty_batch_has_empty_results(estimator):
    """With a gradient of 0 in the parameters, also beside a condition."""
    plain = resflow.flows.dense_branch([2], (4,))
    conditional = resflow.flows.dense_branch([2], (4,), condition_size=3)

    def run(branch, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y, log_det = estimator(branch, *inputs)
            loss = tf.reduce_sum(log_det) + tf.reduce_sum(y)
        return y, log_det, *tape.gradient(loss, [*inputs, *[v.value for v in branch.trainable_variables]])

    x, c = tf.zeros([0, 2]), tf.zeros([0, 3])
    # (Eagerly Keras takes an empty condition for a bias.)
    specs = [tf.TensorSpec([None, 2]), tf.TensorSpec([None, 3])]
    traced = tf.function(lambda x, c: run(conditional, x, c), specs, autograph=False)
    for y, log_det, dx, *rest in (run(plain, x), traced(x, c)):
        assert (y.shape, log_det.shape, dx.shape) == ([0, 2], [0], [0, 2])
        for gradient in rest:
            np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "estimator",
    [
        resflow.logdet.Exact(),
        resflow.logdet.PowerSeries(20, probes="basis"),
        resflow.logdet.RussianRoulette(20, resflow.logdet.Poisson(), probes="basis"),
    ],
    ids=["exact", "series", "poisson"],
)
def test_events_in_half_precision(estimator, dtype):
    """g = sin(x) / 2, whose log-determinant is the sum of log(1 + cos(x) / 2), to 3 roundings of the terms."""
    x = tf.constant([[0.25, 1.5, -2.0], [0.0, 3.0, 0.5]], dtype)
    y, log_det = estimator(lambda x: tf.sin(x) / 2, x)
    exact = np.float64(x)
    tolerance = 3 * {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    assert y.dtype == log_det.dtype == dtype
    np.testing.assert_allclose(np.float64(y), exact + np.sin(exact) / 2, atol=tolerance)
    np.testing.assert_allclose(np.float64(log_det), np.sum(np.log1p(np.cos(exact) / 2), 1), atol=2 * tolerance)


@pytest.mark.parametrize("estimator", [resflow.logdet.Exact(), resflow.logdet.PowerSeries(20)])
def test_scalar_events(estimator):
    y, log_det = estimator(lambda x: tf.sin(x) / 2, tf.constant([0.5, 1.0]))
    np.testing.assert_allclose(y, [0.5 + np.sin(0.5) / 2, 1.0 + np.sin(1.0) / 2], rtol=1e-6)
    np.testing.assert_allclose(log_det, np.log1p(np.cos([0.5, 1.0]) / 2), rtol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("estimator", [resflow.logdet.Exact(), resflow.logdet.PowerSeries(20, probes="basis")])
def test_a_condition_that_is_the_same_tensor_is_held(estimator, graph):
    """g = x / 2 + sin(c): the Jacobian in x is I / 2, whatever c is."""

    def log_det(x):
        return estimator(lambda inputs: inputs[0] / 2 + tf.sin(inputs[1]), x, x)[1]

    function = tf.function(log_det, autograph=False) if graph else log_det
    np.testing.assert_allclose(function(tf.zeros([2, 3])), [3 * np.log(1.5)] * 2, rtol=1e-5)


def test_events_of_rank_three():
    """Convolutional branch, basis probes, against slogdet."""
    layers = resflow.layers
    branch = keras.Sequential(
        [
            keras.Input([3, 2, 2], dtype="float64"),
            layers.LipschitzConv2D(3, 3, coefficient=0.8, dtype="float64"),
            layers.LipSwish(dtype="float64"),
            layers.LipschitzConv2D(2, 3, coefficient=0.8, dtype="float64"),
        ]
    )
    branch.autocast = False
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 3, 2, 2]))
    _, log_det = resflow.logdet.PowerSeries(100, probes="basis")(branch, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        g = branch(x)
    jacobian = tf.reshape(tape.batch_jacobian(g, x), [2, 12, 12])
    np.testing.assert_allclose(log_det, np.linalg.slogdet(np.eye(12) + jacobian)[1], atol=1e-9)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: resflow.logdet.RussianRoulette(-1), "num_exact_terms"),
        (
            lambda: resflow.logdet.RussianRoulette(distribution=None),
            "must be one of numbers of terms, such as .*got None",
        ),
        (lambda: resflow.logdet.RussianRoulette(2, resflow.logdet.Geometric), "got <class"),
        (lambda: resflow.logdet.RussianRoulette(probes="uniform"), "rademacher"),
        (lambda: resflow.logdet.RussianRoulette(num_probes=0), "num_probes"),
        (lambda: resflow.logdet.PowerSeries(0), "num_terms"),
        (lambda: resflow.logdet.AdaptiveSeries(0.0), "tolerance"),
        (lambda: resflow.logdet.AdaptiveRoulette(1.0), "rtol"),
        (lambda: resflow.logdet.AdaptiveRoulette(chance=1.0), "chance"),
        (lambda: resflow.logdet.AdaptiveRoulette(max_exact_terms=0), "max_exact_terms"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "estimator", [resflow.logdet.Exact(), resflow.logdet.PowerSeries(5), resflow.logdet.RussianRoulette(3)]
)
def test_estimators_print_their_settings(estimator):
    settings = ", ".join(f"{name}={value!r}" for name, value in vars(estimator).items())
    assert sorted(repr(estimator).removesuffix(")").partition("(")[2].split(", ")) == sorted(settings.split(", "))
