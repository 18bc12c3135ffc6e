"""The residual block: shapes, conditions, dtypes, errors, and inverses that do not converge."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.bijectors.base import Context, pass_through

tfb = tfp.bijectors

EXACT = resflow.logdet.Exact()
ResidualBlock = resflow.bijectors.ResidualBlock


def solution_of(block, y):
    """Returns the inverse of y with its diagnostics."""
    return resflow.bijectors.inverse_with_solutions(block, y)[1][0]


@pytest.fixture(scope="module")
def vector_block(make_block):
    return make_block("vector", EXACT, size=3)


@pytest.fixture(scope="module")
def conditional_block(make_block):
    return make_block("conditional", EXACT, size=2, condition_size=3)


class Shrinking(tf.Module):
    """g(x) = -x / 2, without a known shape or Lipschitz constant."""

    outputs = 2  # not the attribute of the same name in Keras

    def __init__(self):
        super().__init__()
        self.slope = tf.Variable(-0.5)

    def __call__(self, x):
        return self.slope * x


@pytest.mark.parametrize("kind", ["ResidualBlock", "MonotoneBlock"])
def test_scalar_events(kind, normal):
    """The slope is 1/2 in a residual block and 3 in a monotone block. The default name is that of the class."""
    module = Shrinking()
    block = getattr(resflow.bijectors, kind)(module, EXACT, lipschitz_constant=0.5, event_shape=[])
    x, slope = normal([2, 3]), {"ResidualBlock": 0.5, "MonotoneBlock": 3.0}[kind]
    y = block.forward(x)
    np.testing.assert_allclose(y, slope * x, rtol=1e-5)
    np.testing.assert_allclose(block.forward_log_det_jacobian(x, 0), np.full([2, 3], np.log(slope)), rtol=1e-5)
    np.testing.assert_allclose(block.inverse(tf.identity(y)), x, rtol=1e-4, atol=1e-6)
    assert block.name == {"ResidualBlock": "residual_block", "MonotoneBlock": "monotone_block"}[kind]
    assert [v is module.slope for v in tfb.Invert(block).trainable_variables] == [True]


def test_condition_is_broadcast_against_sample_shapes(conditional_block, density, normal):
    block = conditional_block
    x, condition = normal([4, 5, 2]), normal([5, 3], 1)
    y = block.forward(x, condition=condition)
    fldj = block.forward_log_det_jacobian(x, 1, condition=condition)
    assert y.shape == [4, 5, 2] and fldj.shape == [4, 5]
    np.testing.assert_allclose(y[3], x[3] + block.branch([x[3], condition]), atol=1e-6)
    expected = block.forward_log_det_jacobian(tf.identity(x[3]), 1, condition=condition)
    np.testing.assert_allclose(fldj[3], expected, atol=1e-6)
    back, (solution,) = resflow.bijectors.inverse_with_solutions(block, tf.identity(y), condition=condition)
    assert solution.converged.shape == [4, 5]
    np.testing.assert_allclose(back, x, atol=1e-5)
    # A condition without a batch axis, and one with a batch axis of size 1.
    for fewer in (condition[0], condition[:1]):
        found = block.forward(x, condition=fewer)
        expected = block.forward(x, condition=tf.broadcast_to(fewer, [4, 5, 3]))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    samples = density(block).sample(4, seed=1, bijector_kwargs={"condition": tf.ones([4, 3])})
    assert len(np.unique(samples, axis=0)) == 4


@pytest.mark.parametrize(("batch", "conditions"), [([], [4]), ([3, 1], [3, 4]), ([3], [4])])
def test_a_condition_does_not_enlarge_the_batch(batch, conditions, conditional_block, normal, refused):
    """Otherwise several conditions would share one draw. If shapes are unknown, the graph raises the error."""
    flow = resflow.bijectors.Flow([tfb.Chain([tfb.Invert(tfb.Invert(conditional_block))])])
    x, condition = normal([*batch, 2]), normal([*conditions, 3])
    for method in (conditional_block.forward, flow.inverse):
        refused(r"conditional got condition with batch shape .*sample\(4", method, x, condition=condition)
    if len(conditions) == len(batch):
        specs = [tf.TensorSpec([*[None] * len(batch), n]) for n in (2, 3)]
        call = tf.function(lambda x, c: flow.forward(x, condition=c), specs, autograph=False)
        with pytest.raises(tf.errors.InvalidArgumentError, match="BroadcastTo"):
            call(x, condition)
        assert call(normal([*conditions, 2]), condition).shape == [*conditions, 2]


def test_mixed_precision(normal):
    """In training, the results equal those in float32 up to the rounding of the branch."""
    branch = resflow.flows.dense_branch([3], (16,), coefficient=0.9, dtype="mixed_bfloat16")
    for seed, layer in enumerate(resflow.layers.norm_updates.lipschitz_layers(branch)):  # norms at their limit
        layer.kernel.assign(normal(layer.kernel.shape, seed))
    resflow.layers.update_norms(branch, 1e-6, 500)
    block = ResidualBlock(branch, resflow.logdet.PowerSeries(6, probes="basis"))

    @tf.function(autograph=False)
    def loss(seed, training):
        with tf.GradientTape() as tape:
            networks = resflow.bijectors.Networks(block, training=training)
            y, fldj, *_ = block.forward_pass(normal([64, 3], seed), Context({"networks": networks}))
            value = tf.reduce_sum(normal(y.shape, 100 + seed) * y) + tf.reduce_sum(fldj)
        return y, fldj, *tape.gradient(value, block.trainable_variables)

    def losses(training):
        """Returns results of eight batches, because a scalar weight's gradient is nearly zero for some."""
        each = [loss(tf.constant(seed), training) for seed in range(8)]
        return [tf.stack(results) for results in zip(*each, strict=True)]

    expected, found = losses(False), losses(True)
    assert block.dtype == tf.float32 and {tensor.dtype for tensor in found} == {tf.float32}
    for tensor, precise in zip(found, expected, strict=True):
        # Rounding errors of 2^-9 in several layers and terms.
        assert 0 < np.linalg.norm(tensor - precise) < 0.01 * np.linalg.norm(precise)
    solution = solution_of(block, block.forward(x := normal([6, 3])))  # as precise as in float32
    assert np.all(solution.converged)
    np.testing.assert_allclose(solution.root, x, atol=1e-5)


def test_invalid_branches(make_branch, refused):
    dense = resflow.layers.LipschitzDense

    def branch(*layers):
        return keras.Sequential([keras.Input([2]), *layers])

    refused("not built", ResidualBlock, keras.Sequential([dense(2)]))
    refused(r"\(2,\) to \(3,\)", ResidualBlock, branch(dense(3)))
    refused("Lipschitz constant 1,", ResidualBlock, make_branch(), lipschitz_constant=1.0)
    refused("lipschitz_constant=", ResidualBlock, branch(keras.layers.Dense(2)))
    refused("event_shape=", ResidualBlock, Shrinking(), lipschitz_constant=0.5)
    refused("has 1 input", ResidualBlock, make_branch(), has_condition=True)
    refused("dtype='float64'", ResidualBlock, branch(dense(2, dtype="float64")))


def test_invalid_inputs(vector_block, conditional_block, refused):
    x, y = tf.zeros([4, 3]), tf.zeros([4, 2])
    refused(r"shape \(4, 2\).*events of shape \(3,\)", vector_block.inverse, y)
    refused("unknown arguments: condition", vector_block.forward, x, condition=x)
    refused(r"got no condition; it needs one of shape \(3,\)", conditional_block.forward, y)
    refused(r"needs conditions of shape \(3,\)", conditional_block.forward, y, condition=y)
    function = tf.function(vector_block.forward, input_signature=[tf.TensorSpec(None)])
    refused("an input of shape <unknown>", function, tf.zeros([4, 3]))


def stack(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def of_two(merge, condition):
    """Returns a branch of x `[3, 2]` and a condition."""
    x, c = keras.Input([3, 2]), keras.Input(condition)
    return keras.Model([x, c], merge([keras.layers.Rescaling(0.45)(x), c]))


def near_identity(units, **options):
    large = keras.initializers.Identity(5.0)  # the norm is at the coefficient
    return resflow.layers.LipschitzDense(units, coefficient=0.99, kernel_initializer=large, **options)


def pixelwise(domain, codomain):
    options = {"domain": domain, "codomain": codomain, "kernel_initializer": "ones"}
    return resflow.layers.LipschitzConv2D(2, 1, 0.9, **options)


def attention(num_heads=1):
    return resflow.layers.L2SelfAttention(num_heads)


def concatenated(merge):
    x = keras.Input([3, 2])
    h = merge([x, near_identity(2)(x)])
    return keras.Model(x, keras.layers.Rescaling(0.5)(keras.layers.Cropping1D((0, 3))(h)))


def dense_net():
    x = keras.Input([3, 2])
    h = resflow.layers.LearnableConcatenation(0.9)([x, near_identity(2)(x)])
    return keras.Model(x, near_identity(2)(h))


OF_ANY_POSITIONS = {
    "attention": lambda: stack([2, 1], near_identity(1), attention(), near_identity(1)),
    "attention with heads": lambda: stack([2, 2], near_identity(2), attention(2), near_identity(2)),
    "nested attention": lambda: stack([2, 1], near_identity(1), stack([2, 1], attention())),
    "a convolution": lambda: stack([3, 2, 2], resflow.layers.LipschitzConv2D(2, 3, 0.9, kernel_initializer="ones")),
    "one tap": lambda: stack([3, 2, 2], pixelwise(2, 1), pixelwise(1, 2)),
    "dense": lambda: stack([3, 2], near_identity(2)),
    "dense in the inf-norm": lambda: stack([3, 2], near_identity(2, domain=np.inf, codomain=np.inf)),
    "dense from 1 to 2": lambda: stack([6], near_identity(6, domain=1), near_identity(6, codomain=1)),
    "flattened": lambda: stack(
        [3, 2],
        keras.layers.Flatten(),
        near_identity(6, codomain=1),
        near_identity(6, domain=1),
        keras.layers.Reshape([3, 2]),
    ),
    "learned weights": dense_net,
    "concatenated positions": lambda: concatenated(keras.layers.Concatenate(1)),
    "rescaled positions": lambda: stack([3, 2], keras.layers.Rescaling(np.full([3, 2], 0.9))),
    "rescaled channels": lambda: stack([3, 2], keras.layers.Rescaling(np.full([1, 2], 0.9))),
    "permuted": lambda: stack([3, 2], keras.layers.Permute([2, 1]), near_identity(3), keras.layers.Permute([2, 1])),
    "padded": lambda: stack([3, 2], keras.layers.ZeroPadding1D(1), near_identity(2), keras.layers.Cropping1D(1)),
    "added": lambda: of_two(keras.layers.Add(), [3, 2]),
    "subtracted": lambda: of_two(keras.layers.Subtract(), [3, 2]),
    "averaged": lambda: of_two(keras.layers.Average(), [3, 2]),
    "added to each position": lambda: of_two(keras.layers.Add(), [1, 2]),
    "added by repetition": lambda: of_two(lambda pair: pair[0] + keras.layers.RepeatVector(3)(pair[1]), [2]),
    "centered": lambda: stack([3, 2], near_identity(2), resflow.layers.Centering(axis=1), near_identity(2)),
}


def steep_events(shape):
    """Returns random events, and events with one position far from the others, where attention is steep."""
    events = np.random.default_rng(0).normal(size=[3, *shape])
    for i, distance in enumerate((1.4, 2.17)):
        events[i] = 0.0
        events[i].reshape([-1, shape[-1]])[0, 0] = distance
    return tf.constant(events, tf.float32)


@pytest.mark.parametrize("name", OF_ANY_POSITIONS)
def test_events_of_another_shape_are_refused_or_have_the_constant(name):
    """Calls both blocks, and the layers as Keras does, with fewer and with more positions."""
    branch = OF_ANY_POSITIONS[name]()
    given = {"has_condition": len(branch.inputs) > 1}
    block = ResidualBlock(branch, resflow.logdet.PowerSeries(1), **given)
    monotone = resflow.bijectors.MonotoneBlock(branch, resflow.logdet.PowerSeries(1), **given)
    bound, order = block.lipschitz_constant, resflow.layers.lipschitz_constants.lipschitz_order(branch)
    g, built_for = resflow.layers.program.bind(branch), branch.inputs[0].shape[1:]
    unknown = tf.TensorSpec([None] * len(built_for) + [built_for[-1]])
    options = {"seed": 1}
    conditions = [tf.ones([3, *c.shape[1:]]) for c in branch.inputs[1:]]
    options |= {"condition": conditions[0]} if conditions else {}
    in_graph = tf.function(lambda x: block.forward(x, **options), [unknown], autograph=False)
    layers = [] if any(isinstance(layer, keras.Model) for layer in branch.layers) or conditions else branch.layers
    calls = [block.forward, block.inverse, monotone.forward]
    calls = [functools.partial(call, **options) for call in calls] + [in_graph]
    if isinstance(branch, keras.Sequential) and layers:
        calls.append(lambda x: tf.ensure_shape(functools.reduce(lambda h, layer: layer(h), layers, x), x.shape))
    others = itertools.product((1, 64) if len(built_for) == 2 else (1, 4), repeat=len(built_for) - 1)
    for positions in (built_for[:-1], *others):
        shape = [*positions, built_for[-1]]
        x = steep_events(shape)
        is_refused = set()
        for call in calls:
            try:
                assert call(tf.identity(x)).shape == x.shape
                is_refused.add(False)
            except (ValueError, tf.errors.InvalidArgumentError):
                is_refused.add(True)
        assert len(is_refused) == 1, f"some calls refuse the shape {shape}"
        if is_refused == {True}:
            assert positions != built_for[:-1]
            continue
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = g([x, *conditions])
        jacobians = tape.batch_jacobian(y, x)
        slopes = np.linalg.norm(tf.reshape(jacobians, [3, np.prod(shape), np.prod(shape)]), order, axis=(1, 2))
        assert np.max(slopes) <= bound * (1 + 1e-5), shape


def test_inverse_that_does_not_converge(make_block, capfd, normal):
    solver = resflow.solvers.FixedPoint(max_iterations=2)
    block = make_block("stubborn", EXACT, solver, size=3)
    y = 3.0 * normal([4, 3])
    solution = solution_of(block, y)
    assert not np.any(solution.converged)
    np.testing.assert_array_equal(solution.num_iterations, [2] * 4)
    residual = np.max(np.abs(solution.root + block.branch(solution.root) - y), -1)
    assert np.all(residual < solution.residual) and np.min(residual) > 1e-4
    strict = block.copy(validate_args=True)
    strict.copy(inverse_solver=None).inverse(tf.identity(y))
    assert "WARNING" not in capfd.readouterr().err
    compiled = tf.function(lambda y: (block.inverse(y), solution_of(block, y).converged), jit_compile=True)
    assert not np.any(compiled(y)[1]) and "stubborn" not in capfd.readouterr().err  # XLA cannot print
    for wrap in (lambda call: call, lambda call: tf.function(call, autograph=False)):
        wrap(block.inverse)(tf.identity(y))
        printed = capfd.readouterr().err
        assert "WARNING: stubborn" in printed and "number of examples: 4" in printed
        with pytest.raises(tf.errors.InvalidArgumentError, match="stubborn.*did not converge"):
            wrap(strict.inverse)(tf.identity(y))


def test_unresolved_residuals_issue_no_warning(make_block, capfd, normal):
    """The warning states the bound of the error, which is 1 / (1 - L) times the residual."""
    block, y = make_block("stubborn", EXACT, resflow.solvers.FixedPoint(max_iterations=2), size=3), normal([4, 3])
    residual = np.sort(solution_of(block, y).residual.numpy())
    assert residual[1] < residual[2]
    for threshold, expected in ((0.0, 4), (residual[1], 2), (residual[3], 0)):
        context = Context(compute_log_det=False, warning_threshold=float(threshold))
        pass_through(block, tf.identity(y), context, inverse=True)
        printed = capfd.readouterr().err
        assert (f"number of examples: {expected}" in printed) == (expected > 0) and ("WARNING" in printed) == (
            expected > 0
        )
    factor = 1 / (1 - block.lipschitz_constant)
    block.inverse(tf.identity(y))
    assert f"at most {factor:.2g} times as large" in capfd.readouterr().err
