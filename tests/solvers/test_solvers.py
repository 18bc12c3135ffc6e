"""Fixed-point solvers: residuals, reported failures, and gradients of the inverse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.layers.operator_norms import InducedNorm

SOLVERS = [resflow.solvers.FixedPoint(), resflow.solvers.Anderson()]
IDS = ["fixed_point", "anderson"]


@pytest.fixture(scope="module")
def branch():
    layers = resflow.layers
    branch = keras.Sequential(
        [
            keras.Input([4], dtype="float64"),
            layers.LipschitzDense(16, coefficient=0.97, dtype="float64"),
            layers.LipSwish(dtype="float64"),
            layers.LipschitzDense(4, coefficient=0.97, dtype="float64"),
        ]
    )
    branch.autocast = False
    rng = np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + rng.normal(size=variable.shape))
    layers.update_norms(branch, tolerance=1e-13, max_iterations=2000)
    return branch


def linear(matrix):
    return lambda x: tf.linalg.matvec(tf.constant(matrix, x.dtype), x)


@pytest.mark.parametrize("solver", SOLVERS, ids=IDS)
@pytest.mark.parametrize("dtype, accuracy", [("float32", 2e-6), ("float64", 1e-14)])
def test_solves_a_linear_equation(solver, dtype, accuracy):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=[5, 5])
    matrix *= 0.9 / np.linalg.norm(matrix, 2)
    y = rng.normal(size=[7, 5])
    solution = solver(linear(matrix), tf.constant(y, dtype))
    expected = np.linalg.solve(np.eye(5) + matrix, y.T).T
    assert solution.converged.numpy().all()
    np.testing.assert_allclose(solution.root, expected, atol=10 * accuracy)
    residual = solution.root + linear(matrix)(solution.root) - tf.constant(y, dtype)
    assert np.max(np.abs(residual)) <= accuracy * (1 + np.max(np.abs(y)))


@pytest.mark.parametrize("solver", SOLVERS, ids=IDS)
def test_the_reported_residual_bounds_that_of_the_root(solver, branch):
    y = tf.constant(np.random.default_rng(1).normal(size=[20, 4]))
    loose = type(solver)(atol=1e-3, rtol=0.0)(branch, y)
    residual = np.max(np.abs(loose.root + branch(loose.root) - y), axis=1)
    assert np.all(residual < loose.residual)
    assert np.all(loose.residual <= 1e-3) and np.max(loose.residual) > 1e-6


def test_the_root_is_a_plain_step_beyond_the_last_point(branch):
    x = y = np.random.default_rng(1).normal(size=[20, 4])
    solution = resflow.solvers.FixedPoint(max_iterations=3)(branch, tf.constant(y))
    for _ in range(2):
        x = y - branch(x)
    np.testing.assert_allclose(solution.root, y - branch(x), atol=1e-14)
    np.testing.assert_allclose(solution.residual, np.max(np.abs(x + branch(x) - y), axis=1), atol=1e-14)


def test_anderson_takes_fewer_iterations():
    """Fewer than half on a slowly contracting equation (rate 0.97)."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=[6, 6]))[0]
    matrix = -basis @ np.diag([0.97, 0.9, 0.5, 0.1, -0.3, -0.8]) @ basis.T
    y = tf.constant(rng.normal(size=[8, 6]))
    kinds = resflow.solvers.FixedPoint, resflow.solvers.Anderson
    plain, accelerated = (kind(max_iterations=3000)(linear(matrix), y) for kind in kinds)
    assert plain.converged.numpy().all() and accelerated.converged.numpy().all()
    assert 2 * np.max(accelerated.num_iterations) < np.max(plain.num_iterations)


def test_anderson_is_safe_where_extrapolation_misleads():
    """A kinked map with Lipschitz constant 0.9: every example converges, in at most twice the plain count."""
    g = lambda x: 0.9 * tf.abs(x) * tf.sign(tf.sin(40 * x) + 1.5) - 0.45 * tf.nn.relu(x - 0.1)  # noqa: E731
    y = tf.constant(np.random.default_rng(0).normal(size=[50, 3]))
    plain, accelerated = (solver(g, y) for solver in SOLVERS)
    assert accelerated.converged.numpy().all()
    assert np.max(accelerated.num_iterations) <= 2 * np.max(plain.num_iterations)


@pytest.mark.parametrize("solver", SOLVERS, ids=IDS)
def test_examples_converge_on_their_own(solver):
    """The count of an easy example does not depend on a hard one in its batch."""
    rates = tf.constant([[0.1], [0.9]], tf.float64)
    together = solver(lambda x: rates * x, tf.ones([2, 1], tf.float64))
    alone = solver(lambda x: rates[:1] * x, tf.ones([1, 1], tf.float64))
    assert together.num_iterations[0] == alone.num_iterations[0]
    np.testing.assert_allclose(together.root, 1 / (1 + rates), rtol=1e-13)


@pytest.mark.parametrize("kind", [resflow.solvers.FixedPoint, resflow.solvers.Anderson], ids=IDS)
def test_an_example_that_does_not_converge_is_told(kind):
    """An expansion by 3 diverges; NaN stops at once; the example beside them is solved."""
    rates = tf.constant([[3.0], [0.2], [0.2]], tf.float64)
    g = lambda x: rates * tf.sin(5 * x) / 5 + 2 * tf.sign(rates - 1) * tf.nn.relu(rates - 1) * x  # noqa: E731
    y = tf.constant([[1.0], [1.0], [np.nan]], tf.float64)
    solution = kind(max_iterations=40)(g, y)
    assert solution.converged.numpy().tolist() == [False, True, False]
    assert solution.num_iterations.numpy()[0] == 40
    assert solution.num_iterations.numpy()[2] == 1


@pytest.mark.parametrize("solver", SOLVERS, ids=IDS)
def test_what_is_not_finite_has_not_converged(solver):
    """Also in a graph, in which TensorFlow may rewrite the negation of <= as >."""
    y = tf.constant([[1.0, np.nan], [1.0, 0.0], [np.inf, 0.0]])
    failed = tf.function(lambda y: ~solver(lambda x: x / 2, y).converged, autograph=False)
    np.testing.assert_array_equal(failed(y), [True, False, True])


@pytest.mark.parametrize(("solver", "bound"), zip(SOLVERS, (False, True), strict=True), ids=IDS)
def test_implicit_gradients(solver, bound, branch):
    """d/dy, d/dtheta of sum(w . x(y)) against the dense implicit function theorem; once of a bound branch."""
    rng = np.random.default_rng(2)
    y, w = (tf.constant(rng.normal(size=[5, 4])) for _ in range(2))
    variables = [v.value for v in branch.trainable_variables]

    @tf.function(autograph=False)
    def run(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            g = resflow.layers.bind(branch) if bound else branch
            x = resflow.solvers.solve_residual(g, y, solver).root
            loss = tf.reduce_sum(w * x)
        return x, tape.gradient(loss, [y, *variables])

    x, (dy, *dtheta) = run(y)
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        g = branch(x)
    jacobian = tape.batch_jacobian(g, x)
    adjoint = tf.linalg.solve(tf.eye(4, dtype=tf.float64) + jacobian, w[..., tf.newaxis], adjoint=True)[..., 0]
    np.testing.assert_allclose(dy, adjoint, atol=1e-12)
    for actual, expected in zip(dtheta, tape.gradient(g, variables, -adjoint), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_second_derivative_raises(branch):
    y = tf.ones([1, 4], tf.float64)
    with pytest.raises(ValueError, match="second derivative"):
        with tf.GradientTape() as outer:
            outer.watch(y)
            with tf.GradientTape() as inner:
                inner.watch(y)
                x = resflow.solvers.solve_residual(branch, y, SOLVERS[0]).root
            gradient = inner.gradient(x, y)
        outer.gradient(gradient, y)


def test_kernels_are_scaled_once(branch, monkeypatch):
    """Once, not at each iteration: the loop uses the kernels that were scaled at its start."""
    calls, estimate = [], InducedNorm.estimate
    monkeypatch.setattr(InducedNorm, "estimate", lambda norm, v: calls.append(norm) or estimate(norm, v))
    solution = resflow.solvers.solve_residual(branch, tf.ones([1, 4], tf.float64), SOLVERS[0])
    assert int(solution.num_iterations[0]) > 3
    assert len(calls) == 2


@pytest.mark.parametrize("solver", SOLVERS, ids=IDS)
@pytest.mark.parametrize(
    "policy, dtype, epsilon",
    [
        ("mixed_bfloat16", "float32", 2.0**-7),
        ("mixed_float16", "float32", 2.0**-10),
        ("bfloat16", "bfloat16", 2.0**-7),
        ("float16", "float16", 2.0**-10),
    ],
)
def test_half_precision_converges_to_its_rounding(solver, policy, dtype, epsilon):
    """The Lipschitz constant is 0.64: the error is at most 3 times the tolerance of 2 roundings."""
    layer = resflow.layers.LipschitzDense
    hidden, output = layer(32, 0.8, dtype=policy), layer(4, 0.8, dtype=policy)
    activation = resflow.layers.LipSwish(dtype=policy)
    branch = keras.Sequential([keras.Input([4], dtype=dtype), hidden, activation, output])
    branch.autocast = False
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=[32, 4]))[0]
    hidden.kernel.assign(5.0 * basis.T)
    output.kernel.assign(-5.0 * basis)
    resflow.layers.update_norms(branch, 1e-6, 500)
    x = tf.cast(np.random.default_rng(1).normal(size=[256, 4]) * [1, 3, 10, 1], dtype)
    y = x + tf.cast(branch(x), dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        solution = resflow.solvers.solve_residual(branch, y, solver)
        loss = tf.reduce_sum(solution.root)
    assert np.all(solution.converged) and np.max(solution.num_iterations) < 100
    assert solution.root.dtype == solution.residual.dtype == dtype
    error = np.max(np.abs(np.float64(solution.root) - np.float64(x)), 1)
    assert np.all(error <= 3 * 2 * epsilon * (1 + np.max(np.abs(np.float64(y)), 1)))
    assert np.all(np.isfinite(np.float64(tape.gradient(loss, y))))


@pytest.mark.parametrize("kind", [resflow.solvers.FixedPoint, resflow.solvers.Anderson], ids=IDS)
def test_a_given_relative_tolerance_is_met_by_each_coordinate(kind):
    """Coordinates of 1e4 and 1e-4; the small one converges slowly, and only a given rtol applies to it."""
    matrix = np.array([[0.1, 0.0], [1e-9, 0.8]])
    y = np.array([[1e4, 1e-4], [1e-4, 1e4], [0.0, 1.0]])
    root = np.linalg.solve(np.eye(2) + matrix, y.T).T
    given = kind(atol=0.0, rtol=1e-6, max_iterations=2000)(linear(matrix), tf.constant(y))
    assert np.all(given.converged)
    np.testing.assert_allclose(given.root, root, rtol=2e-5)
    default = kind()(linear(matrix), tf.constant(y, tf.float32))
    assert np.all(default.converged)
    residual = np.max(np.abs(default.root + linear(matrix)(default.root) - y), 1)
    assert np.all(residual <= 4 * 2.0**-23 * (1 + np.max(np.abs(y), 1)))
    if kind is resflow.solvers.FixedPoint:  # after 10 steps 0.8^10 of the small coordinate's error is left
        short = kind(atol=0.0, rtol=1e-6, max_iterations=10)
        assert not np.any(short(linear(matrix), tf.constant(y[:1])).converged)


def test_a_plain_function_is_solved_as_a_layer(branch):
    y = tf.constant(np.random.default_rng(1).normal(size=[5, 4]))
    solutions = []
    for g in (branch, lambda x: branch(x)):
        with tf.GradientTape() as tape:
            solutions.append(resflow.solvers.solve_residual(g, y, SOLVERS[1]))
            loss = tf.reduce_sum(solutions[-1].root ** 2)
        solutions[-1] += tuple(tape.gradient(loss, branch.trainable_variables))
    for one, other in zip(*solutions, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("failing", [[], [1]])
def test_what_is_vectorized_warns_if_some_did_not_converge(failing, capfd):
    """`vectorized_map` runs both branches if each element has a condition."""
    rates = tf.constant([0.1, 3.0 if failing else 0.1])

    @tf.function(autograph=False)
    def run(rates):
        def one(rate):
            solution = resflow.solvers.FixedPoint(max_iterations=20)(lambda x: rate * x, tf.ones([3, 1]))
            with tf.control_dependencies([resflow.solvers.warn_unconverged(solution, "no luck")]):
                return tf.identity(solution.converged)

        return tf.vectorized_map(one, rates)

    capfd.readouterr()
    converged = run(rates)
    told = capfd.readouterr().err
    assert np.all(converged[0]) and np.all(converged[1]) != bool(failing)
    assert ("number of examples: [0 3]" in told) if failing else ("WARNING" not in told)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: resflow.solvers.FixedPoint(atol=-1.0), "Tolerances"),
        (lambda: resflow.solvers.FixedPoint(max_iterations=0), "max_iterations"),
        (lambda: resflow.solvers.Anderson(memory=1), "memory"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [resflow.solvers.FixedPoint, resflow.solvers.Anderson])
def test_gradients_do_not_ask_for_an_exact_solution(kind, branch):
    """An absolute tolerance alone leaves none for the equation of the gradient, whose scale differs."""
    y = tf.constant(np.random.default_rng(1).normal(size=[5, 4]))
    evaluations = []

    class Counting(kind):
        def __call__(self, g, y, **arguments):
            solution = super().__call__(g, y, **arguments)
            evaluations.append(int(np.max(solution.num_iterations)))
            return solution

    with tf.GradientTape() as tape:
        tape.watch(y)
        root = resflow.solvers.solve_residual(lambda x: branch(x), y, Counting(atol=1e-10, rtol=0.0)).root
    tape.gradient(root, y)
    assert len(evaluations) == 2 and max(evaluations) < 200


def test_a_gradient_that_does_not_converge_warns(capfd):
    """Twenty plain steps find the root of y = 1.9 x to 1e-2, and leave the gradient 11 % off."""
    y = tf.constant([[0.05]])
    solver = resflow.solvers.FixedPoint(atol=1e-2, max_iterations=20)
    with tf.GradientTape() as tape:
        tape.watch(y)
        solution = resflow.solvers.solve_residual(lambda x: 0.9 * x, y, solver)
    assert solution.converged.numpy().all()
    tape.gradient(solution.root, y)
    assert "the gradient of the inverse did not converge" in (told := capfd.readouterr().err)
    assert "most evaluations: 20" in told


@pytest.mark.parametrize("kind", [resflow.solvers.FixedPoint, resflow.solvers.Anderson], ids=IDS)
def test_what_is_enough_loosens_a_tight_tolerance_only(kind, branch):
    y = tf.constant(np.random.default_rng(1).normal(size=[20, 4]))
    loose = kind()(branch, y, enough=1e-3)
    assert np.all(loose.converged) and np.all(loose.residual <= 1e-3 * (1 + 1e-9)) and np.max(loose.residual) > 1e-6
    for solver, enough in ((kind(atol=1e-2), 1e-3), (kind(), 0.0)):
        one, other = solver(branch, y, enough=enough), solver(branch, y)
        for part, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("memory", [2, 3, 6])
def test_anderson_solves_an_affine_equation_in_as_many_steps_as_it_remembers(memory):
    """With n eigenvalues and n + 1 points the least residual is zero, but a rejected move costs two evaluations."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=[8, 8]))[0]
    rates = np.resize([0.9, -0.5, 0.7, 0.2, -0.8][: memory - 1], 8)
    matrix = basis @ np.diag(rates) @ basis.T
    y = np.random.default_rng(1).normal(size=[4, 8])
    solution = resflow.solvers.Anderson(memory=memory, atol=1e-10)(linear(matrix), tf.constant(y))
    np.testing.assert_allclose(solution.root, np.linalg.solve(np.eye(8) + matrix, y.T).T, atol=1e-8)
    assert np.max(solution.num_iterations) <= memory + 3
    assert np.min(resflow.solvers.FixedPoint(atol=1e-10)(linear(matrix), tf.constant(y)).num_iterations) > 20


@pytest.mark.parametrize("exponent", [-100, -60, 60, 115])
def test_anderson_takes_as_many_steps_at_all_scales(exponent):
    """Also where squares leave the range of float32."""
    rng = np.random.default_rng(0)
    matrix = np.linalg.qr(rng.normal(size=[6, 6]))[0]
    matrix = 0.9 * matrix * np.linspace(-1.0, 1.0, 6) @ matrix.T
    y = rng.normal(size=[20, 6])
    at_one, scaled = (
        resflow.solvers.Anderson()(linear(matrix), tf.constant(y * 2.0**k, tf.float32), relative=True)
        for k in (0, exponent)
    )
    np.testing.assert_allclose(scaled.root * 2.0**-exponent, np.linalg.solve(np.eye(6) + matrix, y.T).T, atol=1e-4)
    assert scaled.converged.numpy().all()
    assert np.mean(scaled.num_iterations) < 1.2 * np.mean(at_one.num_iterations)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_events_of_few_coordinates(size):
    """More differences than coordinates: what is left of the last one is rounding, and no direction.

    Of 4 maps with kinks and 2,000 right sides each; the plain iteration takes more evaluations.
    """
    for seed in range(4):
        shapes = [size, 32], [32, size], [32]
        kernel, out, bias = (tf.random.stateless_normal(shape, [seed, i]) for i, shape in enumerate(shapes))
        kernel, out = (matrix / tf.linalg.svd(matrix, compute_uv=False)[0] for matrix in (kernel, out))

        def g(x, kernel=kernel, out=out, bias=bias):
            return 0.45 * tf.abs(2 * x @ kernel + bias) @ out

        y = 3 * tf.random.stateless_normal([2000, size], [seed, 3])
        plain = resflow.solvers.FixedPoint()(g, y)
        for memory in (2, 4, 8):
            solution = resflow.solvers.Anderson(memory=memory)(g, y)
            assert np.all(solution.converged)
            assert np.mean(solution.num_iterations) < np.mean(plain.num_iterations)
            assert np.max(solution.num_iterations) <= 20


def test_a_branch_with_a_tape():
    """g is the gradient of 0.25 |x|^2, by a tape: x + g(x) = 1.5 x."""

    def branch(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            potential = 0.25 * tf.reduce_sum(x**2)
        return tape.gradient(potential, x)

    y = tf.constant([[3.0, -1.5]])
    with tf.GradientTape() as tape:
        tape.watch(y)
        root = resflow.solvers.solve_residual(branch, y, resflow.solvers.Anderson()).root
    np.testing.assert_allclose(root, y / 1.5, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(root, y), [[1 / 1.5, 1 / 1.5]], rtol=1e-5)


def test_a_gradient_of_events_whose_size_is_not_known():
    """For a branch of dense layers: g = 0.5 x."""
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, use_bias=False)])
    branch.layers[0].kernel.assign(0.5 * np.eye(2))

    @tf.function(input_signature=[tf.TensorSpec([None, None])], autograph=False)
    def gradient(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            root = resflow.solvers.solve_residual(branch, y, resflow.solvers.Anderson()).root
        return tape.gradient(root, y)

    np.testing.assert_allclose(gradient([[3.0, -1.5]]), [[1 / 1.5, 1 / 1.5]], rtol=1e-5)
