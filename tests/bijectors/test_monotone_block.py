"""The monotone block: its map, log-determinant and gradients against closed forms and dense linear algebra."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.bijectors import monotone_block
from tf_resflow.models.step import loss_and_gradients

EXACT = resflow.logdet.Exact()
SERIES = resflow.logdet.PowerSeries(60, probes="basis")
MonotoneBlock = resflow.bijectors.MonotoneBlock
SQRT2 = np.sqrt(2.0)


def normal(shape, seed=0, dtype="float64"):
    return tf.random.stateless_normal(shape, [7, seed], dtype=dtype)


@pytest.fixture(scope="module")
def block(make_branch):
    return MonotoneBlock(make_branch(3, dtype="float64", hidden=(5,), condition_size=2), EXACT, conditional=True)


def _jacobian(block, w, condition):
    """`[batch, 3, 3]`: each copy of an example tells the gradient of one output."""
    copies, condition = tf.repeat(w, 3, 0), tf.repeat(condition, 3, 0)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        g = block.branch([copies, condition])
    units = tf.tile(tf.eye(3, dtype=w.dtype), [w.shape[0], 1])
    return tf.reshape(tape.gradient(g, copies, units), [-1, 3, 3])


@tf.function(autograph=False)
def reference(block, x, condition, sign):
    """The image and the log-determinant by dense linear algebra; a Newton step at the root has its derivatives."""

    def step(w):
        return SQRT2 * x - sign * block.branch([w, condition])

    root = tf.stop_gradient(tf.while_loop(lambda w: True, lambda w: [step(w)], [x], maximum_iterations=400)[0])
    eye = tf.eye(3, dtype=x.dtype)
    inverse = tf.stop_gradient(tf.linalg.inv(eye + sign * _jacobian(block, root, condition)))
    w = root - tf.linalg.matvec(inverse, root - step(root))
    jacobian = _jacobian(block, w, condition)
    log_det = tf.linalg.slogdet(eye - jacobian)[1] - tf.linalg.slogdet(eye + jacobian)[1]
    return SQRT2 * w - x, sign * log_det


@pytest.mark.parametrize(
    ("log_det", "inverse", "graph"), [(EXACT, False, False), (SERIES, False, True), (SERIES, True, False)]
)
def test_value_and_gradients_are_those_of_dense_linear_algebra(block, log_det, inverse, graph):
    """In x, the parameters and the condition, to 1e-9: w is solved to the rounding, and the series is long.

    The block stands in a flow, which scales the kernels of blocks with exact estimators once.
    """
    solver = resflow.solvers.Anderson(atol=1e-14, rtol=1e-14)
    flow = resflow.bijectors.Flow([block.copy(log_det=log_det, inverse_solver=solver)])
    x, condition = normal([4, 3]), normal([4, 2], 1)
    sign = tf.constant(-1.0 if inverse else 1.0, x.dtype)
    variables = [weight.value for weight in block.branch.trainable_variables]
    cotangents = normal([4, 3], 2), normal([4], 3)
    assert len(variables) > 3

    def call(x, condition):
        context = resflow.bijectors.Context({"conditional_input": condition, "seed": 1})
        done = flow.undo(x, context) if inverse else flow.run(x, context)
        return done.value, done.log_det

    found, expected = [], []
    for results, function in (
        (found, tf.function(call, autograph=False) if graph else call),
        (expected, lambda x, c: reference(block, x, c, sign)),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, condition])
            value, log_det = function(x, condition)
            total = tf.reduce_sum(cotangents[0] * value) + tf.reduce_sum(cotangents[1] * log_det)
        results += [value, log_det, *tape.gradient(total, [x, condition, *variables])]
    assert max(float(tf.reduce_max(tf.abs(tensor))) for tensor in expected[2:]) > 0.1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slope", [-0.9, -0.5, 0.5, 0.9])
def test_a_linear_map_is_stretched_by_its_cayley_transform(slope):
    branch = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
    branch.layers[0].kernel.assign([[slope]])
    block = MonotoneBlock(branch, EXACT, lipschitz_constant=0.95)
    stretch = (1 - slope) / (1 + slope)
    x = tf.constant([[1.0], [-2.0]])
    np.testing.assert_allclose(block.forward(x), stretch * x, rtol=1e-5)
    np.testing.assert_allclose(block.inverse(tf.identity(x)), x / stretch, rtol=1e-5)
    np.testing.assert_allclose(block.forward_log_det_jacobian(x, 1), np.full(2, np.log(stretch)), rtol=1e-5)


@pytest.mark.parametrize("activation", [resflow.layers.CPila, resflow.layers.LipSwish])
@pytest.mark.parametrize("kind", [MonotoneBlock, resflow.bijectors.ResidualBlock])
def test_far_from_the_origin_a_block_is_homogeneous(kind, activation, capfd):
    """The branch is g(s x) = s g(x) there, but for its biases: log-determinants at 1e8 x and 1e25 x are equal."""
    rng = np.random.default_rng(0)
    hidden, last = (resflow.layers.LipschitzDense(units, 0.97) for units in (32, 3))
    branch = keras.Sequential([keras.Input([3]), hidden, activation(), last])
    for layer in (hidden, last):
        layer.kernel.assign(3.0 * rng.normal(size=layer.kernel.shape))
    block = kind(branch, EXACT)
    log_dets = []
    for scale in (1e8, 1e25):
        x = tf.constant(scale * np.random.default_rng(1).normal(size=[20, 3]), tf.float32)
        y = block.forward(x)
        np.testing.assert_allclose(block.inverse(tf.identity(y)), x, rtol=1e-4, atol=1e-5 * scale)
        log_dets.append(block.forward_log_det_jacobian(x, 1))
    assert np.abs(log_dets[0]).max() > 0.1
    np.testing.assert_allclose(*log_dets, rtol=1e-3, atol=1e-4)
    assert "WARNING" not in capfd.readouterr().err


def test_loose_solutions_of_the_default_solver(make_branch):
    """To a thousandth of the event, in the value and in the gradient's equation; another solver keeps its own."""
    block = MonotoneBlock(make_branch(3, hidden=(16,)), SERIES)
    x = normal([64, 3], dtype="float32")

    def value_and_gradient(block, x, **kwargs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block.forward(x, **kwargs)
        return y, tape.gradient(y, x, tf.ones_like(y))

    precise = value_and_gradient(block, x)
    networks = resflow.bijectors.Networks(block, training=True)
    loose = value_and_gradient(block.copy(), tf.identity(x), networks=networks)
    own = block.copy(inverse_solver=resflow.solvers.Anderson())
    own = value_and_gradient(own, tf.identity(x), networks=networks)
    for one, other, same in zip(precise, loose, own, strict=True):
        assert 1e-6 < np.abs(one - other).max() < 5e-3 * np.abs(one).max()
        np.testing.assert_allclose(same, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [
        resflow.logdet.RussianRoulette(per_example=True),
        resflow.logdet.RussianRoulette(0, resflow.logdet.Geometric(0.4), per_example=True),
        resflow.logdet.AdaptiveRoulette(0.1, chance=0.3, per_example=True),
    ],
    ids=["roulette", "no_exact_terms", "adaptive"],
)
def test_estimates_are_unbiased(make_branch, estimator):
    """Value and gradient of one example over 10,000 draws: within 4.5 standard errors, 1 % of the noise."""
    num = 10_000
    block = MonotoneBlock(make_branch(3, hidden=(6,)), EXACT)
    x = tf.repeat(normal([1, 3], dtype="float32"), num, axis=0)

    def sample(block, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = block.forward_log_det_jacobian(x, 1, seed=5)
        return log_det, tape.gradient(log_det, x)

    exact = [np.asarray(tensor[0], np.float64) for tensor in sample(block, x[:1])]
    for found, expected in zip(sample(block.copy(log_det=estimator), x), exact, strict=True):
        found = np.asarray(found, np.float64)
        stderr = found.std(axis=0) / np.sqrt(num)
        assert np.all(stderr > 0)
        np.testing.assert_array_less(np.abs(found.mean(axis=0) - expected), 4.5 * stderr + 1e-6)


def test_adaptive_series_keeps_its_tolerance(make_branch):
    """Its bound of the rest holds for the odd series, too."""
    branch = make_branch(4, dtype="float64", hidden=(16,))
    x = normal([8, 4])
    exact = EXACT.log_det_ratio(branch, x)
    for tolerance in (1e-1, 1e-3, 1e-6):
        series = resflow.logdet.AdaptiveSeries(tolerance, probes="basis")
        np.testing.assert_allclose(series.log_det_ratio(branch, x), exact, atol=tolerance)


def test_constants_and_certificate(make_branch):
    block = MonotoneBlock(make_branch(3), EXACT)
    constant = block.lipschitz_constant
    forward, inverse, order, reason = block.lipschitz_constants()
    assert (forward, inverse) == pytest.approx(((1 + constant) / (1 - constant),) * 2)
    assert order == 2 and reason is None
    certified = block.lipschitz_constants(certified=True)
    assert 0.999 * forward < certified.forward < 1.1 * forward
    with pytest.raises(ValueError, match="only below 1"):
        MonotoneBlock(make_branch(3), EXACT, lipschitz_constant=1.0)


def test_an_estimator_without_the_odd_series_is_refused(make_branch):
    class Custom(resflow.logdet.LogDetEstimator):
        def __call__(self, branch, x, conditional_input=None, *, seed=None):
            return EXACT(branch, x, conditional_input)

    block = MonotoneBlock(make_branch(3), Custom())
    with pytest.raises(NotImplementedError, match="Custom does not estimate .* MonotoneBlock: give it a method"):
        block.forward_log_det_jacobian(normal([2, 3], dtype="float32"), 1)


@pytest.fixture(scope="module")
def model():
    """An image model whose block has trained for a few steps, by the default series."""
    block = resflow.flows.residual_image_block(MonotoneBlock)
    flow = resflow.flows.image_flow((4, 4, 1), num_blocks=(1,), width=8, num_fc_blocks=0, block=block)
    model = resflow.FlowModel(flow, event_shape=(4, 4, 1), levels=16)
    x = tf.cast(15.99 * tf.random.stateless_uniform([64, 4, 4, 1], [1, 2]) ** 3, tf.uint8)
    model.initialize(x)
    model.compile(optimizer=keras.optimizers.AdamW(1e-2, global_clipnorm=1.0))
    losses = model.fit(x, batch_size=32, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    return model, x[:16]


def test_a_training_step_alone_has_loose_solutions(model, monkeypatch):
    model, x = model
    asked = []

    def solve(*args, **settings):
        asked.append(settings.get("enough_relative"))
        return resflow.solvers.solve_residual(*args, **settings)

    monkeypatch.setattr(monotone_block, "solve_residual", solve)
    model.scores(x, seed=1)
    loss_and_gradients(model, x, tf.constant([0, 1]))
    assert asked == [None, 1e-3]


def test_a_plan_measures_the_odd_series(model):
    """24 estimates of each of 16 examples: the error of their root mean square is 4 %."""
    model, x = model
    plan = resflow.models.plan_likelihood(model, x, stderr=1.0, num_samples=4)
    prepared = model.dequantize(x, tf.constant([3, 4]))
    precise = model.log_prob_under(model.density(EXACT), prepared, tf.constant([5, 6]))
    planned = tf.function(functools.partial(model.log_prob_under, model.density(plan)), autograph=False)
    errors = np.stack([planned(prepared, tf.constant([5, i])) - precise for i in range(24)])
    assert np.sqrt(np.mean(errors**2)) < 2.0  # of one of the four samples
    np.testing.assert_array_less(np.abs(errors.mean(axis=0)), 5 * errors.std(axis=0) / np.sqrt(24) + 1e-3)


def test_a_model_inverts_and_is_served(model, tmp_path):
    model, x = model
    np.testing.assert_array_equal(model.decode(model.encode(x), precise=True), x)
    path = resflow.serving.export(model, tmp_path, log_det=EXACT, num_samples=2)
    served = tf.saved_model.load(str(path)).signatures
    z = served["encode"](x=x)["z"]
    np.testing.assert_allclose(z, model.encode(x), rtol=1e-4, atol=1e-4)
    decoded = served["decode"](z=z)
    assert np.all(decoded["converged"])
    assert np.mean(decoded["x"] != x) < 0.01
    scores = served["serving_default"](x=x)
    errors = scores["log_prob"] - model.log_prob(x, seed=3, log_det=EXACT)
    assert np.abs(np.mean(errors)) < 5 * np.std(errors) / 4 + 0.1


def test_xla_gives_the_same(make_branch):
    block, x = MonotoneBlock(make_branch(3), EXACT), normal([4, 3], dtype="float32")

    def log_det(x):
        return block.forward_log_det_jacobian(x, 1)

    compiled = tf.function(log_det, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(x), log_det(x), rtol=1e-4)
