"""Mistakes in the first lines that a user writes, and the remedies that the messages name."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
ResidualBlock, Flow = resflow.bijectors.ResidualBlock, resflow.bijectors.Flow


def flow_of(*args, name="flow", **options):
    return resflow.flows.vector_flow(2, *args, **{"num_blocks": 1, "hidden": (4,)} | options if not args else {})


def image_flow_of(block):
    return resflow.flows.image_flow((4, 4, 1), (1,), width=4, num_fc_blocks=0, block=block)


def branch_of(*layers):
    return keras.Sequential([keras.Input([2]), *layers])


def linear():
    return branch_of(resflow.layers.LipschitzDense(2))


def density_of(base):
    return tfd.TransformedDistribution(base, tfb.Invert(flow_of()))


MISTAKES = {
    "an unknown estimator": (lambda: flow_of(log_det_estimator="exakt"), r"'exakt'.* Exact\(\), .*power_series"),
    "the class of an estimator": (lambda: ResidualBlock(linear(), resflow.logdet.Exact), r"such as Exact\(\)"),
    "a solver as estimator": (
        lambda: ResidualBlock(linear(), resflow.solvers.Anderson()),
        "log_det_estimator is And",
    ),
    "an estimator as solver": (lambda: flow_of(inverse_solver=resflow.logdet.Exact()), "inverse_solver is Exact"),
    "the class of a solver": (lambda: flow_of(inverse_solver=resflow.solvers.Anderson), r"such as Anderson\(\)"),
    "an unknown activation": (lambda: flow_of(activation="lipswich"), "did you mean 'lipswish'"),
    "a view with a class": (
        lambda: resflow.bijectors.with_log_det_estimator(flow_of(), resflow.logdet.Exact),
        r"such as Exact\(\)",
    ),
    "no branch": (lambda: ResidualBlock(resflow.logdet.Exact(), linear()), "branch is Exact.* first argument"),
    "a dense branch": (lambda: ResidualBlock(branch_of(keras.layers.Dense(2))), "Use .*LipschitzDense"),
    "a convolution": (
        lambda: ResidualBlock(
            keras.Sequential([keras.Input([4, 4, 1]), keras.layers.Conv2D(1, 3, padding="same")])
        ),
        "Use .*LipschitzConv2D",
    ),
    "a convolution with strides": (
        lambda: ResidualBlock(
            keras.Sequential([keras.Input([4, 4, 1]), resflow.layers.LipschitzConv2D(1, 3, strides=2)])
        ),
        r"maps shape \(4, 4, 1\) to \(2, 2, 1\); the shapes must be equal",
    ),
    "a scalar base": (lambda: density_of(tfd.Normal([0.0, 0.0], 1.0)).log_prob(tf.zeros([3, 2])), "Independent"),
    "a scalar base of a model": (
        lambda: resflow.FlowModel(flow_of(), [2], base=tfd.Normal([0.0, 0.0], 1.0)),
        r"shape \(\).* \(2,\), .*MultivariateNormalDiag.*Independent",
    ),
    "the name of a base": (lambda: resflow.FlowModel(flow_of(), [2], base="normal"), "is 'normal'.*MultivariateN"),
    "an instance as surrogate base": (
        lambda: resflow.vi.flow_surrogate_posterior([2], base_distribution=tfd.Normal(0.0, 1.0)),
        "'Normal'.*such as tfd.Normal",
    ),
    "widths as number of blocks": (lambda: flow_of((8, 8)), r"num_blocks is \(8, 8\).*hidden=\("),
    "a width as widths": (lambda: flow_of(hidden=8), r"hidden is 8.*hidden=\("),
    "bijectors without a list": (
        lambda: Flow(tfb.Scale(2.0), tfb.Exp()),
        r"Got scale, exp\..*Flow\(\[first, second",
    ),
    "one bijector without a list": (lambda: Flow(tfb.Exp()), r"Got exp\..*Flow\(\["),
    "arguments in the wrong order": (lambda: resflow.FlowModel([2], flow_of()), r"FlowModel\(flow, event_shape\)"),
    "an unknown block": (lambda: flow_of(block="monoton"), "block is 'monoton'.*residual, monotone"),
    "an instance as block": (lambda: flow_of(block=ResidualBlock(linear())), "block is .*residual, monotone"),
    "an unknown affine layer": (lambda: flow_of(affine="spline"), "affine is 'spline'.*spline_coupling"),
    "one number of affine layers": (lambda: flow_of(affine_layers=3), r"is 3\. .*affine_layers=\(3, 0\)"),
    "a negative number of affine layers": (lambda: flow_of(affine_layers=(1, -1)), r"affine_layers=\(3, 0\)"),
    "an unknown image block": (lambda: image_flow_of("mono"), "block is 'mono'.*spline_coupling"),
    "the class of an image block": (lambda: image_flow_of(ResidualBlock), r"residual_image_block\(\.\.\.\)"),
    "an unknown block of images": (lambda: resflow.flows.residual_image_block("mono"), "residual, monotone"),
    "an unknown coupling": (lambda: resflow.flows.coupling_image_block("spline"), "spline_coupling"),
    "a block as coupling": (lambda: resflow.flows.coupling_image_block(ResidualBlock), "spline_coupling"),
    "a forgotten has_condition": (
        lambda: ResidualBlock(resflow.flows.dense_branch(2, (4,), condition_size=3)),
        "has 2 inputs.*has_condition=True",
    ),
    "data as shape": (lambda: resflow.FlowModel(flow_of(), tf.zeros([3, 2])), "Give integers"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_names_the_remedy(mistake):
    function, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        function()


def test_blocks_are_given_by_name_or_as_partials():
    """The layers have the class of the name, or the settings of the partial, and are inverted."""
    names = resflow.flows.names
    spline = functools.partial(resflow.bijectors.SplineCoupling, num_bins=3, bound=2.0)
    vectors = [(flow_of(block=name), kind) for name, kind in names.RESIDUAL_BLOCKS.items()]
    vectors += [(flow_of(affine=name, affine_layers=(1, 0)), kind) for name, kind in names.AFFINE_LAYERS.items()]
    vectors.append((flow_of(affine=spline, affine_layers=(1, 0)), "SplineCoupling"))
    kinds = names.RESIDUAL_BLOCKS | names.COUPLINGS
    images = [(image_flow_of(name), kind) for name, kind in kinds.items()]
    images.append((image_flow_of(resflow.flows.coupling_image_block(spline)), "SplineCoupling"))
    x = tf.random.stateless_uniform([5, 2], [0, 1])
    for flow, kind in vectors:
        assert kind in [type(member).__name__ for member in flow.bijectors]
        tf.debugging.assert_near(flow.inverse(tf.identity(flow.forward(x))), x, atol=1e-4)
    for flow, kind in images:
        assert kind in [type(member).__name__ for member in flow.bijectors]
    for flow in (vectors[-1][0], images[-1][0]):
        (coupling,) = [member for member in flow.bijectors if isinstance(member, spline.func)]
        assert coupling.parameters["num_bins"] == 3 and coupling.parameters["bound"] == 2.0


def test_names_of_configs_are_accepted():
    """Each name gives the estimator of this name, with its default settings."""
    for name in resflow.flows.names.ESTIMATORS:
        block = ResidualBlock(linear(), name)
        kind = getattr(resflow.logdet, name.title().replace("_", ""))
        assert block.log_det_estimator == kind() and block.parameters["log_det_estimator"] == kind()
    model = resflow.FlowModel(flow_of(), 2, evaluation_log_det_estimator="exact")
    assert model.evaluation_log_det_estimator == resflow.logdet.Exact() and model.data_space.event_shape == (2,)


class Tripled(keras.layers.Layer):
    """3 tanh(x), or 3 tanh(x) times a condition."""

    def call(self, x):
        return 3.0 * tf.tanh(x) if tf.is_tensor(x) else 3.0 * tf.tanh(x[0]) * x[1]

    def compute_output_shape(self, shape):
        return shape if isinstance(shape[-1], int) else shape[0]


@pytest.mark.parametrize("kind", [ResidualBlock, resflow.bijectors.MonotoneBlock])
def test_a_false_lipschitz_constant_is_found(kind):
    """The slope at 0 is 3, also for the first inverse, initialize and a condition. A true constant passes."""
    x, false = 0.1 * tf.random.stateless_normal([20, 2], [0, 1]), r"lipschitz_constant=0.9, .* slope of 2.9|.* of 3"
    for method in ("forward", "inverse"):
        block = kind(branch_of(Tripled()), lipschitz_constant=0.9)
        with pytest.raises(ValueError, match=false):
            getattr(block, method)(x)
    with pytest.raises(ValueError, match=false):
        resflow.bijectors.initialize(Flow([kind(branch_of(Tripled()), lipschitz_constant=0.9)]), x)
    inputs = [keras.Input([2]), keras.Input([1])]
    network = keras.Model(inputs, Tripled()(inputs))
    block = kind(network, lipschitz_constant=0.9, has_condition=True)
    with pytest.raises(ValueError, match=r"slope of (5\.9|6\.)"):
        block.forward(x, condition=tf.constant([2.0]))
    true = kind(network, lipschitz_constant=0.9, has_condition=True)
    condition = tf.constant([0.2999])
    root = true.inverse(tf.identity(true.forward(x, condition=condition)), condition=condition)
    tf.debugging.assert_near(root, x, atol=1e-4)


class Plain(tf.Module):
    """A branch of the user that is not a Keras layer."""

    def __init__(self, function, order=None):
        super().__init__()
        self.function = function
        if order is not None:
            self.lipschitz_order = order

    def __call__(self, inputs):
        return self.function(inputs)


class Custom(keras.layers.Layer):
    """A Keras layer of the user."""

    def __init__(self, function, order=None, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        if order is not None:
            self.lipschitz_order = order

    def call(self, inputs):
        return self.function(inputs)

    def compute_output_shape(self, shape):
        return shape


BRANCHES = "module", "layer", "model", "model with the attribute"


def branch_of_kind(kind, function, order, size, dtype):
    """Returns the function as a branch. Its constant holds in the norm of this order."""
    if kind == "module":
        return Plain(function, order)
    layer = Custom(function, order, dtype=dtype)
    if kind == "layer":
        layer.build([None, size])
        return layer
    inner = Custom(function, dtype=dtype) if kind == "model with the attribute" else layer
    network = keras.Sequential([keras.Input([size], dtype=dtype), inner])
    if kind == "model with the attribute" and order is not None:
        network.lipschitz_order = order
    return network


def check(kind, function, order, x, constant, dtype="float32"):
    """Runs the check of a given constant."""
    x = tf.constant(x, dtype)
    branch = branch_of_kind(kind, function, order, x.shape[1], dtype)
    block = ResidualBlock(branch, "power_series", lipschitz_constant=constant, event_shape=x.shape[1:])
    block.forward(x, seed=1)


@tf.custom_gradient
def without_forward_mode(x):
    @tf.custom_gradient
    def first_derivative(upstream):
        def second_derivative(_):
            raise NotImplementedError

        return upstream * 2.5 * (1.0 - tf.tanh(x) ** 2), second_derivative

    return 2.5 * tf.tanh(x), first_derivative


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("order", [1.0, 2.0, math.inf, 3.0, None, "learned"])
def test_a_given_constant_is_checked_in_the_norm_of_the_branch(order, dtype):
    """Random linear branches with the norm 0.9 in their order. The constant 0.9 is accepted, and 0.7 is refused.

    For orders other than 1, 2 and infinity, only one row of a matrix is not zero, so its norm has a closed form.
    """
    generator = np.random.default_rng(0)
    p = {None: 2.0, "learned": 1.5}.get(order, order)
    for case, kind in enumerate(BRANCHES):
        if order == "learned":
            order = resflow.layers.LearnedOrder(1.5, dtype="float64" if dtype == "float64" else "float32")
        if isinstance(order, resflow.layers.LearnedOrder) and dtype in ("float16", "bfloat16"):
            continue  # the block has the dtype of the order
        matrix = np.tril(generator.normal(size=[5, 5]) + 1.0)
        if p in (1.0, 2.0, math.inf):
            norm = np.linalg.norm(matrix, p)
        else:
            matrix[1:] = 0.0
            matrix[0] = generator.normal(size=5)
            norm = np.linalg.norm(matrix[0], p / (p - 1.0))
        matrix *= 0.9 / norm
        x = generator.normal(size=[(1, 20)[case % 2], 5]) + 1e3 * (case > 1)
        function = lambda x, matrix=matrix: tf.matmul(x, tf.constant(matrix.T, x.dtype)) + 7.0  # noqa: E731
        check(kind, function, order, x, 0.9, dtype)
        with pytest.raises(ValueError, match=r"lipschitz_constant=0\.7, .* slope of 0\.[89]"):
            check(kind, function, order, x, 0.7, dtype)


SHIFTS = {"near": 0.0, "far": 1e3, "very far": 2.0**20}
STEEP = {
    "tanh": lambda x: 3.0 * tf.tanh(x),
    "a kink": lambda x: 3.0 * tf.nn.relu(x),
    "one direction": lambda x: x * tf.constant([0.1] * 6 + [2.5], x.dtype),
    "no forward mode": without_forward_mode,
    "a loop": lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, 1.4 * y), (0, tf.tanh(x)))[1],
}
FLAT = {
    "linear": lambda x: 0.5 * x,
    "tanh": lambda x: 0.5 * tf.tanh(x),
    "constant": lambda x: 0.0 * x,
    "independent": lambda x: tf.ones_like(x),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_only_false_constants_are_refused(shift):
    """Rows are zero, random, integers, far from zero, or not finite, and so are the values of the branch."""
    far = SHIFTS[shift]
    generator = np.random.default_rng(0)
    rows = 0.1 * generator.normal(size=[20, 7])
    with_gaps = rows.copy()
    with_gaps[[0, 3, 4]] = [[np.nan], [np.inf], [-np.inf]]
    integers = np.round(10 * rows)
    for x in (np.zeros([4, 7]), rows, rows[:1], with_gaps, integers):
        kind = str(generator.choice(BRANCHES))
        for function in FLAT.values():
            check(kind, lambda x, f=function: f(x - far) + far, None, x + far, 0.5)
        for function in STEEP.values():
            with pytest.raises(ValueError, match=r"slope of [1-4]"):
                check(kind, lambda x, f=function: f(x - far) + far, None, x + far, 0.9)


@pytest.mark.parametrize("kind", [ResidualBlock, resflow.bijectors.MonotoneBlock])
def test_a_false_constant_stays_refused_and_a_declared_order_is_used(kind):
    block = kind(branch_of(Tripled()), lipschitz_constant=0.9)
    for _ in range(2):
        with pytest.raises(ValueError, match="slope of"):
            block.forward(tf.zeros([2, 2]))
    block.forward(tf.zeros([0, 2]))
    half = Custom(lambda x: tf.matmul(x, [[0.25, 0.25], [0.25, 0.25]]), 1.0)
    half.lipschitz_constant = 0.5  # a branch whose constant holds in the 1-norm needs no argument
    for block in (kind(branch_of(half)), kind(branch_of(half), lipschitz_constant=0.5)):
        assert block.lipschitz_constant == 0.5 and block.lipschitz_constants().order == 1.0
    linear_branch = branch_of(resflow.layers.LipschitzDense(2, coefficient=0.9, kernel_initializer="ones"))
    far = 1e3 * tf.random.stateless_normal([20, 2], [0, 1])
    kind(linear_branch, lipschitz_constant=0.9).forward(far)  # the slope is 0.9, up to rounding
