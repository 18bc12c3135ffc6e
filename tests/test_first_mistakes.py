"""Mistakes in the first lines that a user writes, and the remedies that the messages name."""

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
ResidualBlock, Flow = resflow.bijectors.ResidualBlock, resflow.bijectors.Flow


def flow_of(*args, name="flow", **options):
    return resflow.flows.vector_flow(2, *args, **{"num_blocks": 1, "hidden": (4,)} | options if not args else {})


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
    "data as shape": (lambda: resflow.FlowModel(flow_of(), tf.zeros([3, 2])), "Give integers"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_names_the_remedy(mistake):
    function, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        function()


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
    linear_branch = branch_of(resflow.layers.LipschitzDense(2, coefficient=0.9, kernel_initializer="ones"))
    kind(linear_branch, lipschitz_constant=0.9).forward(1e4 * x)  # the slope is 0.9, up to rounding
