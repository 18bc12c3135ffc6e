"""The residual block: shapes, conditions, dtypes, errors, and inverses that do not converge."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors

EXACT = resflow.logdet.Exact()
SERIES = resflow.logdet.PowerSeries(60, probes="basis")
ResidualBlock = resflow.bijectors.ResidualBlock


def normal(shape, seed=0, dtype="float32"):
    return tf.random.stateless_normal(shape, [7, seed], dtype=dtype)


def value_alone(block, x):
    return block.run(x, resflow.bijectors.Context(log_det=False)).value


@pytest.fixture(scope="module", name="image_block")
def make_image_block():
    branch = resflow.flows.conv_branch((4, 3, 2), 4, kernels=(3, 3))
    return ResidualBlock(branch, EXACT, name="image")


@pytest.fixture(scope="module")
def vector_block(make_block):
    return make_block("vector", EXACT, size=3)


@pytest.fixture(scope="module")
def conditional_block(make_block):
    return make_block("conditional", EXACT, size=2, condition_size=3)


@pytest.mark.parametrize("batch_shape", [[], [3], [2, 3]])
@pytest.mark.parametrize("kind", ["vector", "image"])
def test_any_batch_shape(kind, batch_shape, vector_block, image_block):
    block = vector_block if kind == "vector" else image_block
    event_shape = [3] if kind == "vector" else [4, 3, 2]
    ndims = len(event_shape)
    x = normal([6, *event_shape])
    y, fldj = block.forward(x), block.forward_log_det_jacobian(x, ndims)
    np.testing.assert_allclose(y, x + block.branch(x), rtol=1e-6)
    count = int(np.prod(batch_shape))
    reshaped = tf.reshape(x[:count], [*batch_shape, *event_shape])
    other = block.forward(reshaped)
    assert other.shape == reshaped.shape
    np.testing.assert_allclose(tf.reshape(other, y[:count].shape), y[:count], atol=1e-6)
    other_fldj = block.forward_log_det_jacobian(reshaped, ndims)
    assert other_fldj.shape == batch_shape
    np.testing.assert_allclose(tf.reshape(other_fldj, [-1]), fldj[:count], atol=1e-6)
    back = block.inverse(tf.identity(other))
    assert back.shape == reshaped.shape
    np.testing.assert_allclose(back, reshaped, atol=1e-5)
    assert block.solve(tf.identity(other)).converged.shape == batch_shape


@pytest.mark.parametrize("kind", ["ResidualBlock", "MonotoneBlock"])
def test_scalar_events(kind):
    """g(x) = -x / 2 stretches by 1/2 and, in a monotone block, by 3. Without a name they have their kind's."""

    class Shrinking(tf.Module):
        def __call__(self, x):
            return -0.5 * x

    block = getattr(resflow.bijectors, kind)(Shrinking(), EXACT, lipschitz_constant=0.5, event_shape=[])
    x, slope = normal([2, 3]), {"ResidualBlock": 0.5, "MonotoneBlock": 3.0}[kind]
    y = block.forward(x)
    np.testing.assert_allclose(y, slope * x, rtol=1e-5)
    np.testing.assert_allclose(block.forward_log_det_jacobian(x, 0), np.full([2, 3], np.log(slope)), rtol=1e-5)
    np.testing.assert_allclose(block.inverse(tf.identity(y)), x, rtol=1e-4, atol=1e-6)
    assert block.name == {"ResidualBlock": "residual_block", "MonotoneBlock": "monotone_block"}[kind]


def test_condition_is_broadcast_against_sample_shapes(conditional_block):
    block = conditional_block
    x, condition = normal([4, 5, 2]), normal([5, 3], 1)
    y = block.forward(x, conditional_input=condition)
    fldj = block.forward_log_det_jacobian(x, 1, conditional_input=condition)
    assert y.shape == [4, 5, 2]
    assert fldj.shape == [4, 5]
    for i in range(4):
        expected = x[i] + block.branch([x[i], condition])
        np.testing.assert_allclose(y[i], expected, atol=1e-6)
        expected = block.forward_log_det_jacobian(tf.identity(x[i]), 1, conditional_input=condition)
        np.testing.assert_allclose(fldj[i], expected, atol=1e-6)
    back = block.inverse(tf.identity(y), conditional_input=condition)
    np.testing.assert_allclose(back, x, atol=1e-5)
    # Fewer conditions than values, and conditions of an axis of one.
    for fewer in (condition[0], condition[:1], condition[tf.newaxis]):
        full = tf.broadcast_to(fewer, [4, 5, 3])
        np.testing.assert_allclose(
            block.forward(x, conditional_input=fewer), block.forward(x, conditional_input=full), atol=1e-6
        )


WRAPPERS = {
    "block": lambda block: block,
    "flow": lambda block: resflow.bijectors.Flow([tfb.Scale(2.0), block]),
    "nested": lambda block: resflow.bijectors.Flow([tfb.Chain([tfb.Invert(tfb.Invert(block))])]),
}


@pytest.mark.parametrize(
    ("wrapper", "batch", "conditions"),
    [
        ("block", [], [4]),
        ("block", [1], [4]),
        ("block", [3, 1], [3, 4]),
        ("block", [4], [1, 4]),
        ("flow", [3], [4]),
        ("nested", [], [4]),
    ],
    ids=str,
)
def test_a_condition_does_not_enlarge_the_batch(wrapper, batch, conditions, make_block):
    """Else one draw would go with several conditions: static shapes tell, or the graph does."""
    bijector = WRAPPERS[wrapper](make_block("conditional", EXACT, size=2, condition_size=3))
    x, condition = normal([*batch, 2]), normal([*conditions, 3])
    specs = [tf.TensorSpec([*[None] * len(shape), n]) for shape, n in ((batch, 2), (conditions, 3))]
    for method in ("forward", "inverse"):
        call = lambda x, c, method=method: getattr(bijector, method)(x, conditional_input=c)  # noqa: E731
        with pytest.raises(ValueError, match=r"conditional: the batch .* of conditional_input.*sample\(4"):
            call(x, condition)
        if len(conditions) <= len(batch):
            graph = tf.function(call, input_signature=specs, autograph=False)
            with pytest.raises(tf.errors.InvalidArgumentError, match="of conditional_input"):
                graph(x, condition)
            assert graph(normal([*conditions, 2]), condition).shape == [*conditions, 2]


def test_samples_for_a_batch_of_conditions(conditional_block, density):
    distribution = density(conditional_block)
    kwargs = {"conditional_input": tf.ones([4, 3])}
    with pytest.raises(ValueError, match=r"batch \(4,\) of conditional_input must broadcast to the batch \(\)"):
        distribution.sample(seed=1, bijector_kwargs=kwargs)
    x = distribution.sample(4, seed=1, bijector_kwargs=kwargs)
    assert len(np.unique(x, axis=0)) == 4


def test_conditional_density(conditional_block, density):
    distribution = density(conditional_block)
    condition = normal([5, 3], 1)
    kwargs = {"conditional_input": condition}
    x = distribution.sample([4, 5], seed=1, bijector_kwargs=kwargs)
    assert x.shape == [4, 5, 2]
    log_prob = distribution.log_prob(tf.identity(x), bijector_kwargs=kwargs)
    z = x + conditional_block.branch([tf.reshape(x, [20, 2]), tf.tile(condition, [4, 1])]).numpy().reshape(4, 5, 2)
    base = -0.5 * np.sum(np.square(z), -1) - np.log(2 * np.pi)
    fldj = conditional_block.forward_log_det_jacobian(tf.identity(x), 1, **kwargs)
    np.testing.assert_allclose(log_prob, base + fldj, atol=1e-5)
    # The condition matters.
    other = distribution.log_prob(tf.identity(x), bijector_kwargs={"conditional_input": condition + 1.0})
    assert np.max(np.abs(other - log_prob)) > 1e-3


@pytest.mark.parametrize(
    ("method", "estimator"),
    [("forward", EXACT), ("fldj", SERIES), ("fldj", EXACT), ("inverse", EXACT)],
)
def test_gradient_reaches_the_condition(make_block, method, estimator):
    block = make_block("block", estimator, condition_size=3, dtype="float64")
    x, condition = normal([1, 2], dtype="float64"), normal([1, 3], 1, "float64")

    def value(condition):
        start = tf.identity(x)
        if method == "fldj":
            fldj = block.forward_log_det_jacobian(start, 1, conditional_input=condition)
            return tf.reduce_sum(fldj)
        return tf.reduce_sum(tf.sin(getattr(block, method)(start, conditional_input=condition)))

    with tf.GradientTape() as tape:
        tape.watch(condition)
        total = value(condition)
    gradient = tape.gradient(total, condition)[0]
    h = 1e-5
    for i in range(3):
        shift = h * tf.one_hot([i], 3, dtype=tf.float64)
        expected = (value(condition + shift) - value(condition - shift)) / (2 * h)
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-5, atol=1e-9)
    assert np.max(np.abs(gradient)) > 1e-3


def test_float64(make_block):
    block = make_block("block", EXACT, size=3, dtype="float64")
    assert block.dtype == tf.float64
    x = normal([5, 3], dtype="float64")
    y = block.forward(x)
    assert y.dtype == tf.float64
    np.testing.assert_allclose(block.inverse(tf.identity(y)), x, atol=1e-13)


def mixed_block(log_det):
    """A block whose branch computes in bfloat16 in training, and has norms at their limit."""
    branch = resflow.flows.dense_branch([3], (16,), coefficient=0.9, dtype="mixed_bfloat16")
    for seed, layer in enumerate(resflow.layers.lipschitz_layers(branch)):
        layer.kernel.assign(normal(layer.kernel.shape, seed))
    resflow.layers.update_norms(branch, 1e-6, 500)
    return ResidualBlock(branch, log_det, name="block")


def test_mixed_precision():
    """In training, value, log-determinant and gradient are those in float32 up to the rounding of the branch."""
    block = mixed_block(resflow.logdet.PowerSeries(20, probes="basis"))

    def loss(seed, training):
        with tf.GradientTape() as tape:
            networks = resflow.bijectors.Networks(block, training=training)
            y, fldj = block.run(normal([64, 3], seed), resflow.bijectors.Context({"networks": networks}))[:2]
            value = tf.reduce_sum(normal(y.shape, 100 + seed) * y) + tf.reduce_sum(fldj)
        return y, fldj, *tape.gradient(value, block.trainable_variables)

    def losses(training):
        """Of eight batches: the gradient of a scalar weight is nearly zero for some."""
        return [tf.stack(results) for results in zip(*(loss(seed, training) for seed in range(8)), strict=True)]

    expected, found = losses(False), losses(True)
    assert block.dtype == tf.float32 and {tensor.dtype for tensor in found} == {tf.float32}
    for tensor, precise in zip(found, expected, strict=True):
        # Roundings of 2^-9, of several layers and terms.
        assert 0 < np.linalg.norm(tensor - precise) < 0.01 * np.linalg.norm(precise)


def test_mixed_precision_adds_no_bias_to_the_roulette():
    """20,000 draws in bfloat16 against the exact log-determinant in float32, whose rounding is allowed for."""
    block = mixed_block(resflow.logdet.RussianRoulette(per_example=True))
    x = normal([1, 3])
    draws = tf.tile(x, [20_000, 1])
    networks = resflow.bijectors.Networks(block, training=True)
    fldj = block.forward_log_det_jacobian(draws, 1, seed=1, networks=networks).numpy()
    exact = float(block.copy(log_det=EXACT).forward_log_det_jacobian(x, 1)[0])
    error = abs(fldj.mean() - exact)
    assert error < 4 * fldj.std() / np.sqrt(len(fldj)) + 0.02 * abs(exact)


def test_an_inverse_is_precise_whatever_the_precision_of_training():
    block = mixed_block(EXACT)
    x = normal([6, 3])
    y = block.forward(x)
    assert np.all(block.solve(y).converged)
    np.testing.assert_allclose(block.inverse(tf.identity(y)), x, atol=1e-5)
    coarse = block.forward(tf.identity(x), networks=resflow.bijectors.Networks(block, training=True))
    assert np.max(np.abs(y - coarse)) > 1e-3


class Halving(tf.Module):
    """g(x) = c sin(x) / 2, which tells nothing about itself."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable(1.0)

    def __call__(self, x):
        return 0.5 * self.scale * tf.sin(x)


def test_module_branch(density):
    module = Halving()
    block = ResidualBlock(module, EXACT, lipschitz_constant=0.5, event_shape=[2])
    x = normal([4, 2])
    np.testing.assert_allclose(block.forward(x), x + np.sin(x) / 2, rtol=1e-6)
    expected = np.sum(np.log1p(np.cos(x) / 2), -1)
    np.testing.assert_allclose(block.forward_log_det_jacobian(x, 1), expected, atol=1e-6)
    np.testing.assert_allclose(block.inverse(block.forward(x) + 0.0), x, atol=1e-5)
    assert [v is module.scale for v in density(block).trainable_variables] == [True]


def test_branches_that_are_rejected(make_branch):
    dense = resflow.layers.LipschitzDense
    unbuilt = keras.Sequential([dense(2)])
    with pytest.raises(ValueError, match="not built"):
        ResidualBlock(unbuilt)
    wider = keras.Sequential([keras.Input([2]), dense(3)])
    with pytest.raises(ValueError, match=r"\(2,\) to \(3,\)"):
        ResidualBlock(wider)
    expanding = keras.Sequential([keras.Input([2]), dense(2, coefficient=1.5)])
    with pytest.raises(ValueError, match="Lipschitz constant 1.5"):
        ResidualBlock(expanding)
    with pytest.raises(ValueError, match="Lipschitz constant 1,"):
        ResidualBlock(make_branch(), lipschitz_constant=1.0)
    unknown = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="lipschitz_constant="):
        ResidualBlock(unknown)
    assert ResidualBlock(unknown, lipschitz_constant=0.5).lipschitz_constant == 0.5
    with pytest.raises(ValueError, match="event_shape="):
        ResidualBlock(Halving(), lipschitz_constant=0.5)
    with pytest.raises(ValueError, match="2, conditional_input|has 1 input"):
        ResidualBlock(make_branch(), conditional=True)


def test_a_frozen_branch_has_its_dtype():
    branch = resflow.flows.dense_branch([2], (4,), dtype="float64")
    branch.trainable = False
    block = ResidualBlock(branch, EXACT)
    assert block.dtype == tf.float64 and block.inverse([[0.1, 0.2]]).dtype == tf.float64


def test_float64_parameters_behind_a_float32_input():
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, dtype="float64")])
    with pytest.raises(ValueError, match="dtype='float64'"):
        ResidualBlock(branch)


def shape_text(shape):
    return re.escape(str(tuple(shape)))


@pytest.mark.parametrize("method", ["forward", "inverse", "solve"])
def test_wrong_inputs(method, vector_block, conditional_block):
    call = getattr(vector_block, method)
    with pytest.raises(ValueError, match=r"events of shape \(3,\).*shape \(4, 2\)"):
        call(tf.zeros([4, 2]))
    with pytest.raises((ValueError, TypeError), match="float64"):
        call(tf.zeros([4, 3], tf.float64))
    with pytest.raises(ValueError, match="takes no conditional_input"):
        call(tf.zeros([4, 3]), conditional_input=tf.zeros([4, 3]))
    with pytest.raises(ValueError, match="needs conditional_input"):
        getattr(conditional_block, method)(tf.zeros([4, 2]))
    for shape in ([4, 2], [4, 3, 1], [], [4, 4]):
        message = rf"conditional takes conditional_input of shape \(3,\).*got an input of shape {shape_text(shape)}"
        with pytest.raises(ValueError, match=message):
            getattr(conditional_block, method)(tf.zeros([4, 2]), conditional_input=tf.zeros(shape))


@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_a_misspelled_argument(vector_block, method):
    with pytest.raises(ValueError, match="vector takes seed, conditional_input, networks besides .*; got sed"):
        getattr(vector_block, method)(tf.zeros([4, 3]), sed=1)


def test_input_of_unknown_rank(vector_block):
    function = tf.function(vector_block.forward, input_signature=[tf.TensorSpec(None)])
    with pytest.raises(ValueError, match="got an input of shape <unknown>"):
        function(tf.zeros([4, 3]))


@pytest.mark.parametrize(
    ("shape", "size"), [([1], 3), ([1], 1), ([], 3), ([1, 1], 1), ([None], 1), ([None, 2], 3), ([2, None], 1)]
)
def test_inverse_of_any_static_shape_in_a_function(shape, size, make_block):
    block = make_block("block", EXACT, size=size)
    spec = tf.TensorSpec([*shape, size])
    inverse = tf.function(block.inverse, input_signature=[spec], autograph=False)
    y = normal([5 if n is None else n for n in spec.shape])
    x = inverse(y)
    assert x.shape == y.shape
    assert inverse.get_concrete_function().structured_outputs.shape.as_list() == [*shape, size]
    np.testing.assert_allclose(value_alone(block, x), y, atol=1e-5)


def test_image_of_a_wrong_shape(image_block):
    for shape in ([5, 4, 3, 1], [3, 2]):
        with pytest.raises(ValueError, match=rf"image maps events of shape \(4, 3, 2\).*{shape_text(shape)}"):
            image_block.forward(tf.zeros(shape))


def test_inverse_that_does_not_converge(make_block, capfd):
    solver = resflow.solvers.FixedPoint(max_iterations=2)
    block = make_block("stubborn", EXACT, solver, size=3)
    y = 3.0 * normal([4, 3])
    solution = block.solve(y)
    assert not np.any(solution.converged)
    np.testing.assert_array_equal(solution.num_iterations, [2] * 4)
    residual = np.max(np.abs(solution.root + block.branch(solution.root) - y), -1)
    assert np.all(residual < solution.residual) and np.min(residual) > 1e-4

    capfd.readouterr()
    for call in (block.inverse, tf.function(block.inverse, autograph=False)):
        call(tf.identity(y))
        printed = capfd.readouterr().err
        assert "WARNING: stubborn" in printed
        assert "number of examples: 4" in printed
    strict = block.copy(validate_args=True)
    for call in (strict.inverse, tf.function(strict.inverse, autograph=False)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="stubborn.*did not converge"):
            call(tf.identity(y))


def test_inverse_that_converges_is_silent(make_block, capfd):
    block = make_block("block", EXACT).copy(validate_args=True)
    x = block.inverse(normal([4, 2]))
    assert np.all(np.isfinite(x))
    assert "WARNING" not in capfd.readouterr().err


def test_one_example_that_does_not_converge_is_counted(vector_block, capfd):
    y = tf.concat([normal([3, 3]), tf.fill([1, 3], np.float32(np.nan))], 0)
    solution = vector_block.solve(y)
    np.testing.assert_array_equal(solution.converged, [True] * 3 + [False])
    vector_block.inverse(y)
    assert "number of examples: 1" in capfd.readouterr().err


def test_inverse_gradient_by_the_implicit_function_theorem(make_block):
    block = make_block("block", EXACT, size=3, dtype="float64")
    y = normal([1, 3], dtype="float64")
    upstream = normal([1, 3], 1, "float64")
    with tf.GradientTape() as tape:
        tape.watch(y)
        x = block.inverse(y)
        total = tf.reduce_sum(upstream * x)
    gradient = tape.gradient(total, y)
    with tf.GradientTape() as tape:
        tape.watch(x)
        forward = x + block.branch(x)
    jacobian = tape.batch_jacobian(forward, x)[0]
    np.testing.assert_allclose(gradient[0], np.linalg.solve(jacobian.numpy().T, upstream[0]))


def test_first_derivatives_of_log_prob_only(make_block, density):
    distribution = density(make_block())
    x = normal([2, 2])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            log_prob = distribution.log_prob(x, bijector_kwargs={"seed": 1})
        gradient = inner.gradient(log_prob, x)
    assert gradient.shape == [2, 2]
    with pytest.raises(ValueError, match="Exact"):
        outer.gradient(gradient, x)


@pytest.mark.parametrize("log_det", ["exact", resflow.logdet.Exact])
def test_an_estimator_is_an_instance(log_det):
    branch = resflow.flows.dense_branch([2], (4,))
    with pytest.raises(ValueError, match=r"log_det must be an estimator, such as tf_resflow.logdet.Exact\(\)"):
        resflow.bijectors.ResidualBlock(branch, log_det)
    with pytest.raises(ValueError, match="log_det must be an estimator"):
        resflow.bijectors.with_log_det(resflow.bijectors.ResidualBlock(branch), log_det)


def test_a_solver_is_an_instance():
    with pytest.raises(ValueError, match="inverse_solver must be a solver, .* got 0.001"):
        resflow.flows.vector_flow(2, 1, (4,), inverse_solver=1e-3)


@pytest.mark.parametrize("known", [True, False])
def test_a_branch_that_changes_the_shape(known):
    """As the Keras model knows it, or as a module returns it."""

    class Sliced(tf.Module):
        def __call__(self, x):
            return 0.5 * x[:, :2]

    layers = [keras.Input([3]), resflow.layers.LipschitzDense(2)]
    branch, fields = keras.Sequential(layers) if known else Sliced(), {} if known else {"event_shape": [3]}
    with pytest.raises(ValueError, match=r"maps events of shape \(3,\) to \(2,\).*keeps the shape"):
        resflow.bijectors.ResidualBlock(branch, lipschitz_constant=0.5, **fields)


def test_a_module_that_has_outputs_of_its_own():
    class Halved(tf.Module):
        outputs = 2

        def __call__(self, x):
            return 0.5 * x

    block = resflow.bijectors.ResidualBlock(Halved(), lipschitz_constant=0.5, event_shape=[2])
    np.testing.assert_allclose(block.forward([[1.0, 2.0]]), [[1.5, 3.0]])
