"""Fixed-point solvers: residuals, and reports of failures. Random cases test gradients of the inverse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.solvers import Anderson, FixedPoint
from tf_resflow.solvers.residual_inverse import solve_residual

by_both = pytest.mark.parametrize("kind", [FixedPoint, Anderson])


@pytest.fixture(scope="module")
def branch():
    layers = resflow.layers
    dense = [layers.LipschitzDense(size, coefficient=0.97, dtype="float64") for size in (16, 4)]
    dense.insert(1, layers.LipSwish(dtype="float64"))
    branch = keras.Sequential([keras.Input([4], dtype="float64"), *dense])
    branch.autocast = False
    rng = np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + rng.normal(size=variable.shape))
    layers.update_norms(branch, tolerance=1e-13, max_iterations=2000)
    return branch


def linear(matrix):
    return lambda x: tf.linalg.matvec(tf.constant(matrix, x.dtype), x)


def root_of(matrix, y):
    return np.linalg.solve(np.eye(len(matrix)) + matrix, y.T).T


def test_the_root_is_a_plain_step_beyond_the_last_point(branch):
    x = y = np.random.default_rng(1).normal(size=[20, 4])
    solution = FixedPoint(max_iterations=3)(branch, tf.constant(y))
    for _ in range(2):
        x = y - branch(x)
    np.testing.assert_allclose(solution.root, y - branch(x), atol=1e-14)
    residual = np.max(np.abs(x + branch(x) - y), axis=1)
    np.testing.assert_allclose(solution.residual, residual, atol=1e-14)
    for share in (1.001, 0.999):  # relative to the largest residual
        solver = FixedPoint(atol=share * residual.max(), rtol=0.0, max_iterations=3)
        assert np.all(solver(branch, tf.constant(y)).converged) == (share > 1)


@by_both
def test_examples_converge_on_their_own(kind):
    """The number of iterations of an easy example does not depend on a hard example in its batch."""
    rates = tf.constant([[0.1], [0.9]], tf.float64)
    together = kind()(lambda x: rates * x, tf.ones([2, 1], tf.float64))
    alone = kind()(lambda x: rates[:1] * x, tf.ones([1, 1], tf.float64))
    assert together.num_iterations[0] == alone.num_iterations[0] and np.all(together.converged)
    np.testing.assert_allclose(together.root, 1 / (1 + rates), rtol=1e-13)


@by_both
def test_an_example_that_does_not_converge_is_reported(kind):
    """An expansion by 3 diverges. NaN stops at once, even where a graph rewrites "not <=" as ">"."""
    rates = tf.constant([[3.0], [0.2], [0.2], [0.2]], tf.float64)
    y = tf.constant([[1.0, 1.0], [1.0, 1.0], [1.0, np.nan], [np.inf, 0.0]], tf.float64)

    def g(x):
        return rates * tf.sin(5 * x) / 5 + 2 * tf.sign(rates - 1) * tf.nn.relu(rates - 1) * x

    @tf.function(autograph=False)
    def solve():
        solution = kind(max_iterations=40)(g, y)
        return ~solution.converged, solution.num_iterations

    failed, num_iterations = solve()
    np.testing.assert_array_equal(failed, [True, False, True, True])
    assert num_iterations[0] == 40 and num_iterations[2] == 1


def test_second_derivative_raises(branch):
    def second(y):
        return tf.gradients(tf.gradients(solve_residual(branch, y, FixedPoint()).root, y), y)

    with pytest.raises(ValueError, match="second derivative"):
        tf.function(second)(tf.ones([1, 4], tf.float64))


@pytest.mark.parametrize(
    "kind, policy, dtype, epsilon",
    [(FixedPoint, "mixed_bfloat16", "float32", 2.0**-7), (Anderson, "float16", "float16", 2.0**-10)],
)
def test_half_precision_converges_to_its_rounding(kind, policy, dtype, epsilon):
    """The Lipschitz constant is 0.64, so the error is at most 3 times the tolerance of 2 rounding units."""
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
        solution = solve_residual(branch, y, kind())
        loss = tf.reduce_sum(solution.root)
    assert np.all(solution.converged) and np.max(solution.num_iterations) < 100
    assert solution.root.dtype == solution.residual.dtype == dtype
    error = np.max(np.abs(np.float64(solution.root) - np.float64(x)), 1)
    assert np.all(error <= 3 * 2 * epsilon * (1 + np.max(np.abs(np.float64(y)), 1)))
    assert np.all(np.isfinite(np.float64(tape.gradient(loss, y))))


@pytest.mark.quick
@by_both
def test_a_given_relative_tolerance_is_met_by_each_coordinate(kind):
    """For coordinates of 1e4 and 1e-4, the small one converges slowly, and only a given rtol applies to it."""
    matrix = np.array([[0.1, 0.0], [1e-9, 0.8]])
    y = np.array([[1e4, 1e-4], [1e-4, 1e4], [0.0, 1.0]])
    given = kind(atol=0.0, rtol=1e-6, max_iterations=2000)(linear(matrix), tf.constant(y))
    assert np.all(given.converged)
    np.testing.assert_allclose(given.root, root_of(matrix, y), rtol=2e-5)
    default = kind()(linear(matrix), tf.constant(y, tf.float32))
    assert np.all(default.converged)
    residual = np.max(np.abs(default.root + linear(matrix)(default.root) - y), 1)
    assert np.all(residual <= 4 * 2.0**-23 * (1 + np.max(np.abs(y), 1)))
    if kind is FixedPoint:  # after 10 steps, the error of the small coordinate is still 0.8^10 of its initial value
        short = kind(atol=0.0, rtol=1e-6, max_iterations=10)
        assert not np.any(short(linear(matrix), tf.constant(y[:1])).converged)


def test_what_is_vectorized_warns_if_some_did_not_converge(capfd):
    """`vectorized_map` runs both branches of a condition if it differs between elements."""

    @tf.function(autograph=False)
    def run(rates):
        def one(rate):
            solution = FixedPoint(max_iterations=20)(lambda x: rate * x, tf.ones([3, 1]))
            with tf.control_dependencies([resflow.solvers.fixed_point.warn_unconverged(solution, "no luck")]):
                return tf.identity(solution.converged)

        return tf.vectorized_map(one, rates)

    capfd.readouterr()
    for rate in (0.1, 3.0):
        converged = run(tf.constant([0.1, rate]))
        printed = capfd.readouterr().err
        assert np.all(converged[0]) and np.all(converged[1]) == (rate < 1)
        assert ("WARNING" not in printed) if rate < 1 else ("number of examples: [0 3]" in printed)


def test_gradients_do_not_ask_for_an_exact_solution(branch):
    """If only an absolute tolerance is set, none applies to the gradient's equation, whose scale differs."""
    y, evaluations, asked = tf.constant(np.random.default_rng(1).normal(size=[5, 4])), [], []
    settings = {"min_atol": 1e-20, "min_rtol": 1e-20}

    def counting(g, y, **arguments):
        solution = FixedPoint(atol=1e-10, rtol=0.0)(g, y, **arguments)
        evaluations.append(int(np.max(solution.num_iterations)))
        asked.append({key: value for key, value in arguments.items() if key in settings})
        return solution

    with tf.GradientTape() as tape:
        tape.watch(y)
        root = solve_residual(lambda x: branch(x), y, counting, **settings).root
    tape.gradient(root, y)
    assert len(evaluations) == 2 and max(evaluations) < 200
    assert asked == [settings, {"min_rtol": 1e-20}]


def test_a_gradient_that_does_not_converge_warns(capfd):
    """Twenty plain steps find the root of y = 1.9 x to 1e-2, but the gradient is still wrong by 11 %."""
    y = tf.constant([[0.05]])
    solver = FixedPoint(atol=1e-2, max_iterations=20)
    with tf.GradientTape() as tape:
        tape.watch(y)
        solution = solve_residual(lambda x: 0.9 * x, y, solver)
    assert solution.converged.numpy().all()
    tape.gradient(solution.root, y)
    printed = capfd.readouterr().err
    assert "gradient of the inverse did not converge" in printed and "maximum evaluations: 20" in printed


def test_what_is_enough_loosens_a_tight_tolerance_only():
    g, y = lambda x: tf.sin(x) / 2, tf.constant(np.random.default_rng(1).normal(size=[20, 4]))
    loose = FixedPoint()(g, y, min_atol=1e-3)
    assert np.all(loose.converged) and np.all(loose.residual <= 1e-3 * (1 + 1e-9)) and np.max(loose.residual) > 1e-6
    relative = FixedPoint()(g, 1e-6 * y, min_rtol=1e-3)
    size = np.max(np.abs(1e-6 * y), axis=1)
    assert np.all(relative.residual <= 1e-3 * size) and np.max(relative.residual / size) > 1e-6
    solver = FixedPoint(atol=1e-2)
    for part, expected in zip(solver(g, y, min_atol=1e-3), solver(g, y), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(("memory", "exponent"), [(2, 0), (6, 0), (4, -100), (4, 115)])
def test_anderson_solves_an_affine_equation_in_as_many_steps_as_it_remembers(memory, exponent):
    """With n eigenvalues and n + 1 points, the residual vanishes, even where squares leave the range of float32."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=[8, 8]))[0]
    rates = np.resize([0.9, -0.5, 0.7, 0.2, -0.8][: memory - 1], 8)
    matrix = basis @ np.diag(rates) @ basis.T
    y = np.random.default_rng(1).normal(size=[4, 8])
    scaled = tf.constant(y * 2.0**exponent, tf.float32 if exponent else tf.float64)
    rtol = 1e-5 if exponent else 1e-10
    solution = Anderson(memory=memory, rtol=rtol)(linear(matrix), scaled, relative=True)
    np.testing.assert_allclose(solution.root * 2.0**-exponent, root_of(matrix, y), atol=100 * rtol)
    assert solution.converged.numpy().all() and np.max(solution.num_iterations) <= memory + 3
    assert np.min(FixedPoint(rtol=rtol)(linear(matrix), scaled, relative=True).num_iterations) > 20


@pytest.mark.parametrize("size", [1, 3])
def test_events_of_few_coordinates(size):
    """For a map with kinks, Anderson needs fewer evaluations even with more differences than coordinates."""
    shapes = [size, 32], [32, size], [32]
    kernel, out, bias = (tf.random.stateless_normal(shape, [size, i]) for i, shape in enumerate(shapes))
    kernel, out = (matrix / tf.linalg.svd(matrix, compute_uv=False)[0] for matrix in (kernel, out))

    def g(x):
        return 0.45 * tf.abs(2 * x @ kernel + bias) @ out

    y = 3 * tf.random.stateless_normal([2000, size], [size, 3])
    plain = FixedPoint()(g, y)
    for memory in (2, 8):
        solution = Anderson(memory=memory)(g, y)
        assert np.all(solution.converged)
        assert np.mean(solution.num_iterations) < np.mean(plain.num_iterations)
        assert np.max(solution.num_iterations) <= 20


def of_potential(x):
    """Computes the gradient of 0.25 |x|^2 with a tape."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        potential = 0.25 * tf.reduce_sum(x**2)
    return tape.gradient(potential, x)


def of_dense():
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, use_bias=False)])
    branch.layers[0].kernel.assign(0.5 * np.eye(2))
    return branch


@pytest.mark.parametrize("make", [lambda: of_potential, of_dense])
def test_a_gradient_of_events_whose_size_is_not_known(make):
    """x + g(x) = 1.5 x, for a branch that uses a tape and for a branch of dense layers."""
    branch = make()

    @tf.function(input_signature=[tf.TensorSpec([None, None])], autograph=False)
    def root_and_gradient(y):
        root = solve_residual(branch, y, Anderson()).root
        return root, tf.gradients(root, y)[0]

    for found, expected in zip(root_and_gradient([[3.0, -1.5]]), ([3.0, -1.5], [1.0, 1.0]), strict=True):
        np.testing.assert_allclose(found, [np.divide(expected, 1.5)], rtol=1e-5)
