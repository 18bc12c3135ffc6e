"""Flow: order, names, arguments, seeds and variables."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.bijectors.flow import parts_by_name

tfb = tfp.bijectors
EXACT = resflow.logdet.Exact()
# Probes of which no two draws agree by chance.
GAUSSIAN = resflow.logdet.RussianRoulette(probes="gaussian")
Flow = resflow.bijectors.Flow


@pytest.fixture(scope="module")
def flow(make_block):
    """Two stochastic blocks of equal parameters, so that only the salt tells them apart."""
    return Flow(
        [
            make_block("first", GAUSSIAN, size=3),
            resflow.bijectors.ActNorm([3]),
            tfb.Scale(2.0),
            make_block("second", GAUSSIAN, size=3),
        ]
    )


@pytest.fixture(scope="module")
def x():
    return tf.random.stateless_normal([4, 3], [5, 6])


def fldj(bijector, x, **kwargs):
    return bijector.forward_log_det_jacobian(tf.identity(x), 1, **kwargs).numpy()


def test_reading_order():
    flow = Flow([tfb.Shift(1.0), tfb.Scale(3.0)])
    np.testing.assert_allclose(flow.forward([1.0, 2.0]), [6.0, 9.0])
    np.testing.assert_allclose(flow.inverse([6.0, 9.0]), [1.0, 2.0])


def test_event_ndims_grow_to_the_largest_of_the_members(make_block):
    flow = Flow([tfb.Scale(2.0), tfb.Reshape([2], [2, 1]), make_block(log_det=EXACT)])
    assert (flow.forward_min_event_ndims, flow.inverse_min_event_ndims) == (2, 1)
    x = tf.random.stateless_normal([5, 2, 1], [1, 2])
    assert flow.forward_log_det_jacobian(x, 2).shape == [5]
    assert flow.forward(tf.identity(x)).shape == [5, 2]


def test_batch_shape_is_that_of_the_members(make_block):
    scale = tfb.Scale([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    flow = Flow([Flow([scale], name="inner"), make_block(log_det=resflow.logdet.Exact())])
    assert flow.experimental_batch_shape(x_event_ndims=1) == [3]
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    distribution = tfp.distributions.TransformedDistribution(base, tfb.Invert(flow))
    x = distribution.sample(4, seed=1)
    assert distribution.batch_shape == [3] and x.shape == [4, 3, 2]
    np.testing.assert_allclose(distribution.log_prob(x), distribution.log_prob(tf.identity(x)), rtol=1e-4)


def test_a_member_without_a_log_det_has_a_value():
    doubled = tfb.Inline(lambda x: 2 * x, lambda y: y / 2, forward_min_event_ndims=1)
    flow = Flow([tfb.Scale(3.0), Flow([doubled], name="inner")])
    np.testing.assert_array_equal(flow.forward([1.0, 2.0]), [6.0, 12.0])
    np.testing.assert_array_equal(flow.inverse([6.0, 12.0]), [1.0, 2.0])
    with pytest.raises(NotImplementedError):
        flow.forward_log_det_jacobian([1.0, 2.0], 1)


def test_parts_are_evaluated_once(make_branch, counter):
    """By a log-determinant, in the direction that solves nothing."""
    block = resflow.bijectors.ResidualBlock(make_branch(counter=counter), GAUSSIAN)
    inner = Flow([tfb.JointMap([block, tfb.Exp()])], name="inner")
    flow = Flow([inner, tfb.JointMap([tfb.Scale(2.0), tfb.Scale(3.0)])])
    flow.forward_log_det_jacobian([tf.zeros([4, 2]), tf.zeros([4, 1])], [1, 1])
    assert counter.take() == 1


@pytest.mark.parametrize("size", [1, 3])
def test_parts_have_ranks_of_their_own(size, make_block):
    block = make_block(log_det=EXACT)
    inner = Flow([tfb.JointMap([block, tfb.Exp()])], name="inner")
    flow = Flow([inner, tfb.JointMap([tfb.Scale(2.0), tfb.Scale(3.0)])])
    x = [tf.random.stateless_normal([4, n], [0, n]) for n in (2, size)]
    expected = block.forward_log_det_jacobian(x[0], 1) + tf.reduce_sum(x[1], 1) + np.log(2) * 2 + np.log(3) * size
    y = flow.forward([tf.identity(part) for part in x])
    np.testing.assert_allclose(flow.forward_log_det_jacobian(x, [1, 1]), expected, rtol=1e-5)
    np.testing.assert_allclose(tfb.Chain([flow]).forward_log_det_jacobian(x, [1, 1]), expected, rtol=1e-5)
    y = [tf.identity(part) for part in y]
    np.testing.assert_allclose(flow.inverse_log_det_jacobian(y, [1, 1]), -expected, rtol=1e-4)


def test_same_seed_same_value(flow, x):
    for seed in (3, [1, 2], tf.constant([1, 2])):
        np.testing.assert_array_equal(fldj(flow, x, seed=seed), fldj(flow, x, seed=seed))
    assert np.all(fldj(flow, x, seed=3) != fldj(flow, x, seed=4))
    assert np.all(fldj(flow, x, seed=[1, 2]) != fldj(flow, x, seed=[1, 3]))


def test_seed_in_a_function_equals_seed_in_eager(flow, x):
    call = tf.function(lambda x, seed: flow.forward_log_det_jacobian(x, 1, seed=seed), autograph=False)
    seed = tf.constant([1, 2])
    np.testing.assert_allclose(call(x, seed), fldj(flow, x, seed=seed), rtol=1e-5)
    assert np.all(call(x, tf.constant([1, 3])) != fldj(flow, x, seed=seed))


def test_no_seed_is_random(flow, x):
    assert np.all(fldj(flow, x) != fldj(flow, x))
    call = tf.function(lambda x: flow.forward_log_det_jacobian(x, 1), autograph=False)
    values = [call(x).numpy() for _ in range(3)]
    assert np.all(values[0] != values[1])
    assert np.all(values[1] != values[2])


def test_bad_seeds(flow, x):
    for seed in (1.5, [1, 2, 3], tf.constant([0.5, 1.0])):
        with pytest.raises(ValueError, match="A seed is None, an integer"):
            flow.forward(x, seed=seed)


def test_blocks_draw_independently_under_one_seed(make_branch, x):
    blocks = [resflow.bijectors.ResidualBlock(make_branch(3), GAUSSIAN, name=name) for name in ("first", "second")]
    one, other = (fldj(block, x, seed=1) for block in blocks)
    assert np.all(one != other)
    # Over many seeds the two estimates are uncorrelated: 400 draws, 4 standard errors.
    call = tf.function(
        lambda seed: [b.forward_log_det_jacobian(tf.identity(x[:1]), 1, seed=seed) for b in blocks],
        autograph=False,
    )
    draws = np.array([[v[0] for v in call(tf.constant([0, i]))] for i in range(400)])
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4 / np.sqrt(400)


def test_seed_of_one_block(flow, x):
    both = fldj(flow, x, first={"seed": 1}, second={"seed": 1})
    np.testing.assert_array_equal(both, fldj(flow, x, seed=1))
    assert np.all(fldj(flow, x, seed=1, second={"seed": 2}) != both)


def test_nested_flows_get_the_seed(make_block, x):
    inner = Flow([make_block("a", GAUSSIAN, size=3)], name="inner")
    for middle in (inner, tfb.Chain([inner]), tfb.Invert(tfb.Invert(inner))):
        outer = Flow([tfb.Scale(2.0), middle])
        one, same, other = (fldj(outer, x, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert np.all(one != other)


def test_condition_reaches_the_conditional_blocks(make_block):
    flow = Flow(
        [
            make_block("plain", EXACT),
            Flow([make_block("deep", EXACT, condition_size=1)], name="inner"),
            tfb.Scale(2.0),
        ]
    )
    x = tf.random.stateless_normal([4, 2], [0, 1])
    condition = tf.random.stateless_normal([4, 1], [0, 2])
    plain, inner, _ = flow.bijectors
    h = x + plain.branch(x)
    expected = 2 * (h + inner.bijectors[0].branch([h, condition]))
    y = flow.forward(x, conditional_input=condition)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    back = flow.inverse(tf.identity(y), conditional_input=condition)
    np.testing.assert_allclose(back, x, atol=1e-5)
    with pytest.raises(ValueError, match="deep needs conditional_input"):
        flow.forward(tf.identity(x))
    # A nested flow without conditional blocks is not given the condition, nor refused.
    outer = Flow([Flow([make_block("alone", EXACT)], name="unconditional"), flow])
    assert outer.forward(tf.identity(x), conditional_input=condition).shape == [4, 2]


def test_arguments_that_nobody_takes(flow, x):
    with pytest.raises(ValueError, match="got sed"):
        flow.forward(x, sed=1)
    with pytest.raises(ValueError, match="got third"):
        flow.inverse(x, third={"seed": 1})
    with pytest.raises(ValueError, match="none of its blocks is conditional"):
        flow.forward(x, conditional_input=x)


class Recorder(resflow.logdet.LogDetEstimator):
    """Keeps the seeds that it is given, and estimates nothing."""

    def __init__(self):
        self.seeds = []

    def __call__(self, branch, x, conditional_input=None, *, seed=None):
        self.seeds.append(tuple(seed.numpy()))
        return x + branch(x), tf.zeros(len(x))


def alike(estimator, count, name="block"):
    """Blocks that nothing but their place tells apart."""
    branch = resflow.flows.dense_branch([2], (4,))
    return [resflow.bijectors.ResidualBlock(branch, estimator, name=name) for _ in range(count)]


NESTS = {
    "flow": lambda a, b, c: Flow([a, tfb.Scale(2.0), b, tfb.Scale(3.0), c]),
    "flow_in_flow": lambda a, b, c: Flow([a, Flow([b, c])]),
    "flows_of_one_name": lambda a, b, c: Flow([Flow([a]), Flow([b]), Flow([c])]),
    "chain": lambda a, b, c: Flow([a, tfb.Chain([Flow([b]), c])]),
    "chains_of_one_name": lambda a, b, c: Flow([tfb.Chain([part]) for part in (a, b, c)]),
    "invert": lambda a, b, c: Flow([tfb.Invert(tfb.Invert(a)), tfb.Invert(tfb.Invert(b)), c]),
}


@pytest.mark.parametrize("name", NESTS)
def test_blocks_of_one_name_draw_independently(name):
    recorder = Recorder()
    flow = NESTS[name](*alike(recorder, 3))
    for seed in (1, tf.constant([3, 4])):
        recorder.seeds.clear()
        flow.forward(tf.ones([1, 2]), seed=seed)
        assert len(set(recorder.seeds)) == 3
        # The first draws as if it were alone.
        assert tuple(resflow.stateless_seed(seed, salt="block").numpy()) in recorder.seeds


def test_blocks_of_different_names_draw_what_their_names_say():
    recorder = Recorder()
    a, b, c = (alike(recorder, 1, name)[0] for name in "abc")
    Flow([a, tfb.Scale(2.0), Flow([b]), tfb.Chain([c])]).forward(tf.ones([1, 2]), seed=5)
    assert recorder.seeds == [tuple(resflow.stateless_seed(5, salt=name).numpy()) for name in "abc"]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_block_of_a_taken_name_is_evaluated_once(mode, make_branch, counter, density):
    blocks = [resflow.bijectors.ResidualBlock(make_branch(counter=c), EXACT, name="block") for c in (None, counter)]
    log_prob = density(Flow([blocks[0], Flow([blocks[1]])])).log_prob
    log_prob = tf.function(log_prob, autograph=False) if mode == "graph" else log_prob
    for seed in (1, tf.constant([1, 2])):
        log_prob(tf.ones([3, 2]), bijector_kwargs={"seed": seed})
        assert counter.take() == 1


def test_parts_have_the_keys_of_the_flow():
    blocks = alike(EXACT, 12)
    parts = parts_by_name(Flow([*blocks[:11], Flow([blocks[11]], name="inner")]))
    names = ["block", *(f"block_{i}" for i in range(1, 12))]
    assert all(parts[name] is block for name, block in zip(names, blocks, strict=True))


def test_arguments_of_numbered_members():
    recorder = Recorder()
    first, second, third, fourth = alike(recorder, 4)
    flow = Flow([first, second, tfb.Invert(tfb.Invert(third), name="twice"), tfb.Chain([fourth])])
    for key in ("block", "block_1", "twice", "chain_of_block"):
        seeds = []
        for seed in (1, 2):
            recorder.seeds.clear()
            flow.forward_log_det_jacobian(tf.ones([1, 2]), 1, seed=0, **{key: {"seed": seed}})
            seeds.append(set(recorder.seeds))
        assert len(seeds[0] ^ seeds[1]) == 2, key
    with pytest.raises(ValueError, match="got sed"):
        flow.forward(tf.ones([1, 2]), chain_of_block={"sed": 1})


def test_names(make_block):
    scales = [tfb.Scale(2.0), tfb.Scale(3.0), tfb.Scale(4.0, name="scale_1"), tfb.Scale(5.0)]
    np.testing.assert_allclose(Flow(scales).forward([1.0]), [120.0])
    np.testing.assert_allclose(Flow(scales).inverse([120.0]), [1.0])
    with pytest.raises(ValueError, match=r"\(scale, scale_2, scale_1, scale_3\); got third"):
        Flow(scales).forward([1.0], third={})
    with pytest.raises(ValueError, match="name alone.*more than once: block.*Flow"):
        Flow([tfb.Invert(tfb.Chain([make_block("block"), make_block("block")]))])
    Flow([make_block("block"), tfb.Chain(scales[:2])])
    with pytest.raises(ValueError, match="at least one"):
        Flow([])


def test_a_bijector_of_the_users_with_a_condition():
    """TFP's methods get the condition, that of the log-determinant too."""

    class ScaleByCondition(resflow.bijectors.FlowBijector):
        takes = ("conditional_input",)

        def __init__(self):
            super().__init__(forward_min_event_ndims=0, parameters={}, name="scale_by_condition")

        def _forward(self, x, conditional_input):
            return x * tf.exp(conditional_input)

        def _inverse(self, y, conditional_input):
            return y * tf.exp(-conditional_input)

        def _forward_log_det_jacobian(self, x, conditional_input):
            return conditional_input * tf.ones_like(x)

    flow, x = Flow([ScaleByCondition()]), tf.ones([3, 2])
    for method, expected in (("forward_log_det_jacobian", 1.0), ("inverse_log_det_jacobian", -1.0)):
        found = getattr(flow, method)(tf.identity(x), 1, conditional_input=tf.constant(0.5))
        np.testing.assert_allclose(found, [expected] * 3)


def test_names_depend_on_nothing_else(make_branch, make_coupling):
    def flow():
        block, other, nested = (resflow.bijectors.ResidualBlock(make_branch()) for _ in range(3))
        coupling = resflow.bijectors.AffineCoupling(make_coupling().network)
        return Flow([block, other, coupling, Flow([nested])])

    def views():
        return [resflow.bijectors.with_log_det(plain, EXACT) for _ in range(2)]

    plain = flow()
    with tf.name_scope("outer"):
        scoped = flow()
    with tf.Graph().as_default():  # where a scope whose name is taken gets another
        flows = [plain, scoped, *views()]
    names = [[part.name for part in (f, *f.submodules) if not isinstance(part, tfb.Identity)] for f in flows]
    blocks = ["residual_block"] * 2
    assert names == [["flow", *blocks, "affine_coupling", "flow", "residual_block"]] * 4


@pytest.mark.parametrize("view", ["flow", "density", "invert", "chain"])
def test_variables_are_exact_and_unique(view, flow, density):
    obj = {
        "flow": flow,
        "density": density(flow, 3),
        "invert": tfb.Invert(flow),
        "chain": tfb.Chain([tfb.Scale(3.0), flow]),
    }[view]
    first, act_norm, _, second = flow.bijectors
    for kind in ("variables", "trainable_variables"):
        expected = [v.value for b in (first, second) for v in getattr(b.branch, kind)]
        expected += [act_norm.log_scale, act_norm.shift]
        found = [id(v) for v in getattr(obj, kind)]
        assert len(found) == len(set(found))
        assert set(found) == {id(v) for v in expected}


def test_keras_optimizer_takes_the_variables(flow, density, x):
    distribution = density(flow, 3)
    weights = distribution.trainable_variables
    start = [tf.identity(w) for w in weights]
    optimizer = keras.optimizers.AdamW(1e-2)
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            log_prob = distribution.log_prob(tf.identity(x), bijector_kwargs={"seed": [1, 2]})
            loss = -tf.reduce_mean(log_prob)
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    losses = [float(step()) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(np.any(w != s) for w, s in zip(weights, start, strict=True))
    for weight, value in zip(weights, start, strict=True):
        weight.assign(value)


def vector_flow(**kwargs):
    options = {"num_blocks": 2, "hidden": (4,), **kwargs}
    return resflow.flows.vector_flow(2, **options)


def perturbed(flow, seed=0):
    generator = np.random.default_rng(seed)
    for variable in flow.variables:
        variable.assign(generator.normal(size=variable.shape))
    return flow


def snapshot(flow):
    """Values by the bijector that they belong to, in the order of the architecture."""
    values = []
    for bijector in flow.bijectors:
        if isinstance(bijector, resflow.bijectors.ActNorm):
            values += [bijector.log_scale.numpy(), bijector.shift.numpy()]
        else:
            values += [v.numpy() for v in bijector.branch.variables]
    return values


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, density):
    flow = perturbed(vector_flow())
    directory = tmp_path_factory.mktemp("checkpoint")
    path = tf.train.Checkpoint(density=density(flow)).write(str(directory / "flow"))
    return path, snapshot(flow)


def test_checkpoint_round_trip_after_other_models(checkpoint, density):
    path, values = checkpoint
    # Keras numbers names throughout a process: the new flow's differ from the old one's.
    vector_flow(num_blocks=3)
    keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    flow = perturbed(vector_flow(), seed=1)
    status = tf.train.Checkpoint(density=density(flow)).read(path)
    status.assert_consumed()
    restored = snapshot(flow)
    assert len(restored) == len(values) > 10
    for value, expected in zip(restored, values, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_automatic_names_do_not_matter(make_branch, tmp_path):
    """The second model of an architecture in one process restores the first, and draws the same numbers."""

    def flow():
        layers = resflow.layers
        branch = keras.Sequential(
            [
                keras.Input([2]),
                layers.LipschitzDense(4),
                layers.LipSwish(),
                layers.LipschitzDense(4),
                layers.LipSwish(),
                layers.LipschitzDense(2),
            ]
        )
        other = resflow.bijectors.ResidualBlock(make_branch(seed=1))
        return Flow([resflow.bijectors.ActNorm([2]), resflow.bijectors.ResidualBlock(branch), other])

    first, second = perturbed(flow()), perturbed(flow(), 1)
    names = [[v.path for v in f.bijectors[1].branch.variables] for f in (first, second)]
    assert names[0] != names[1]
    path = tf.train.Checkpoint(flow=first).write(str(tmp_path / "flow"))
    tf.train.Checkpoint(flow=second).read(path).assert_consumed()
    for value, expected in zip(snapshot(second), snapshot(first), strict=True):
        np.testing.assert_array_equal(value, expected)
    x = tf.ones([3, 2])
    np.testing.assert_array_equal(fldj(first, x, seed=1), fldj(second, x, seed=1))


@pytest.mark.parametrize(
    "edit",
    [
        {"num_blocks": 3},
        {"num_blocks": 1},
        {"hidden": (4, 4)},
        {"hidden": (5,)},
        {"act_norm": False},
        {"activation": "elu"},
    ],
    ids=["more", "fewer", "deeper", "wider", "no_act_norm", "activation"],
)
def test_edited_architecture_does_not_restore(edit, checkpoint, density):
    target = tf.train.Checkpoint(density=density(vector_flow(**edit)))
    with pytest.raises((AssertionError, ValueError)):
        target.read(checkpoint[0]).assert_consumed()


def test_inserted_block_leaves_the_others_theirs(make_block, tmp_path):
    flow = Flow([make_block("a", seed=1), make_block("b", seed=2)])
    path = tf.train.Checkpoint(flow=flow).write(str(tmp_path / "flow"))
    edited = Flow([make_block("a", seed=3), make_block("new", seed=4), make_block("b", seed=5)])
    status = tf.train.Checkpoint(flow=edited).read(path)
    with pytest.raises(AssertionError):
        status.assert_existing_objects_matched()
    for block, other in (
        (flow.bijectors[0], edited.bijectors[0]),
        (flow.bijectors[1], edited.bijectors[2]),
    ):
        for v, w in zip(block.branch.variables, other.branch.variables, strict=True):
            np.testing.assert_array_equal(v, w)


class Noisy(resflow.bijectors.FlowBijector):
    """Shifts by a number that it draws and by a condition."""

    takes = ("seed", "conditional_input")

    def __init__(self, name="noisy"):
        super().__init__(forward_min_event_ndims=0, parameters=dict(locals()), name=name)

    def run(self, x, context, sign=1.0):
        _, condition = context.take(self.name, *self.takes)
        shift = tf.random.stateless_normal([], context.seed(self.name)) + (0.0 if condition is None else condition)
        return resflow.bijectors.Pass(x + sign * shift, tf.zeros_like(x))

    def undo(self, y, context):
        return self.run(y, context, -1.0)


def test_a_bijector_of_the_users_takes_seed_and_condition():
    def shift(bijector, **kwargs):
        x = tf.constant([1.0, 2.0])
        y = bijector.forward(x, **kwargs)
        np.testing.assert_allclose(bijector.inverse(tf.identity(y), **kwargs), x, rtol=1e-6)
        return float(y[0] - x[0])

    one = shift(Noisy(), seed=1)
    assert shift(Flow([Noisy()]), seed=1) == one
    assert shift(Flow([tfb.Invert(tfb.Chain([Noisy()]))]), seed=1) == pytest.approx(-one)
    assert shift(Flow([Noisy()]), seed=1, conditional_input=2.0) == pytest.approx(one + 2.0)
    assert shift(Flow([tfb.Chain([Noisy()])]), seed=1, conditional_input=2.0) == pytest.approx(one + 2.0)
    two = shift(Flow([Noisy(), Noisy()]), seed=1)
    assert abs(two - 2 * one) > 1e-3  # they draw independently
    assert shift(Flow([Noisy(), tfb.Scale(1.0)]), noisy={"seed": 1}) == pytest.approx(one)
    with pytest.raises(ValueError, match="takes seed, conditional_input besides the value; got sed"):
        Noisy().forward([1.0], sed=1)
    with pytest.raises(ValueError, match="more than once: noisy"):
        Flow([tfb.Chain([Noisy(), Noisy()])])


class Unfinished(resflow.bijectors.FlowBijector):
    def __init__(self, name="unfinished"):
        super().__init__(forward_min_event_ndims=1, parameters=dict(locals()), name=name)

    def run(self, x, context):
        return tf.identity(x)

    undo = run


def test_a_bijector_of_the_users_must_return_a_pass():
    """A tensor of three rows would pass for a value, a log-determinant and features."""
    message = "Unfinished.run must return a tf_resflow.bijectors.Pass.* it returned a"
    for bijector in (Unfinished(), Flow([Unfinished()])):
        for method in (bijector.forward, bijector.inverse, bijector.forward_log_det_jacobian):
            with pytest.raises(ValueError, match=message):
                method(tf.ones([3, 2]))


def test_members_that_are_no_bijectors():
    with pytest.raises(ValueError, match="takes a list of bijectors; got a single one"):
        Flow(tfb.Scale(2.0))
    with pytest.raises(ValueError, match="takes a list of bijectors; got 'scale' in it"):
        Flow([tfb.Scale(2.0), "scale"])


def test_members_of_different_dtypes():
    branch = resflow.flows.dense_branch([2], (4,), dtype="mixed_bfloat16")
    members = [resflow.bijectors.ActNorm([2], dtype="float64"), resflow.bijectors.ResidualBlock(branch)]
    with pytest.raises(ValueError, match="float64 in act_norm, float32 in residual_block.*'mixed_bfloat16' have"):
        Flow(members)


class Halving(resflow.bijectors.FlowBijector):
    """Has no log-determinant of its inverse."""

    def __init__(self, name="halving"):
        super().__init__(forward_min_event_ndims=0, parameters=dict(locals()), name=name)

    def run(self, x, context):
        return resflow.bijectors.Pass(x / 2.0, tf.fill(tf.shape(x), -math.log(2.0)))

    def undo(self, y, context):
        return resflow.bijectors.Pass(2.0 * y)


@pytest.mark.parametrize("make", [Halving, lambda: Flow([Halving()])])
def test_a_pass_without_a_log_determinant_is_an_error_only_where_one_is_wanted(make):
    y = tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(make().inverse(y), [2.0, 4.0])
    np.testing.assert_allclose(make().forward_log_det_jacobian(y, 0), [-math.log(2.0)] * 2)
    with pytest.raises(NotImplementedError, match="halving.undo returned a Pass without a log-determinant"):
        make().inverse_log_det_jacobian(tf.identity(y), 0)
