"""The builders: the architectures that they promise, seeds, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

import tf_resflow as resflow
from tf_resflow import bijectors, flows, layers

EXACT = resflow.logdet.Exact()


def kinds(flow):
    return [type(b).__name__ for b in flow.bijectors]


def blocks(flow):
    return [b for b in flow.bijectors if isinstance(b, bijectors.ResidualBlock)]


def layer_kinds(block):
    return [type(layer).__name__ for layer in block.branch.layers]


def test_vector_flow():
    flow = flows.vector_flow(3, 2, (5, 4), coefficient=0.8, log_det=EXACT)
    assert kinds(flow) == ["ActNorm", "ResidualBlock", "ActNorm", "ResidualBlock", "ActNorm"]
    for block in blocks(flow):
        assert layer_kinds(block) == ["LipschitzDense", "LipSwish"] * 2 + ["LipschitzDense"]
        assert [layer.units for layer in layers.lipschitz_layers(block)] == [5, 4, 3]
        np.testing.assert_allclose(block.lipschitz_constant, 0.8**3)
        assert block.log_det is EXACT
    assert kinds(flows.vector_flow(3, 1, (4,), act_norm=False)) == ["ResidualBlock"]
    normalized = flows.vector_flow(2, 1, (4,), mean=[1.0, 2.0], std=[3.0, 4.0])
    assert kinds(normalized)[0] == "Normalize"
    np.testing.assert_allclose(normalized.bijectors[0].forward([4.0, 6.0]), [1.0, 1.0])


@pytest.mark.parametrize("dense_net", [None, (2, 4)])
def test_conditional_vector_flow(dense_net):
    options = {"condition_size": 3, "log_det": EXACT, "dtype": "float64"}
    flow = flows.vector_flow(2, 2, (4,), dense_net=dense_net, **options)
    x, c = (tf.random.stateless_normal([5, n], [0, n], dtype=tf.float64) for n in (2, 3))
    y = flow.forward(x, conditional_input=c)
    assert np.all(y != flow.forward(tf.identity(x), conditional_input=2 * c))
    back = flow.inverse(tf.identity(y), conditional_input=c)
    np.testing.assert_allclose(back, x, atol=1e-12)


def test_dense_nets():
    """Kernels, and the constant of each layer and concatenation; a stem and half its width on flat images."""
    block = flows.residual_image_block(activation="cpila", dense_net=(2, 6), coefficient=0.9, log_det=EXACT)
    flow = flows.image_flow((4, 4, 1), (1, 1), 5, num_fc_blocks=1, fc_width=8, block=block)
    first, second, flat = blocks(flow)
    shapes = [[layer.kernel.shape for layer in layers.lipschitz_layers(b)] for b in (first, second, flat)]
    assert shapes[0] == [(3, 3, 1, 3), (3, 3, 7, 3), (1, 1, 13, 1)]
    assert shapes[1] == [(3, 3, 4, 3), (3, 3, 10, 3), (1, 1, 16, 4)]
    assert shapes[2] == [(16, 8), (8, 2), (12, 2), (16, 16)]
    assert [b.lipschitz_constant for b in (first, second, flat)] == pytest.approx([0.9**3, 0.9**3, 0.9**4])
    (vectors,) = blocks(flows.vector_flow(3, 1, dense_net=(2, 4), activation="lipswish"))
    assert [layer.kernel.shape for layer in layers.lipschitz_layers(vectors)] == [(3, 4), (7, 4), (11, 3)]
    x = tf.random.stateless_uniform([2, 4, 4, 1], [0, 1], 0.1, 0.9)
    y, log_det = flow.forward(x), flow.forward_log_det_jacobian(x)
    np.testing.assert_allclose(flow.inverse(tf.identity(y)), x, atol=1e-4)
    copies = tf.repeat(x, 16, 0)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        y = bijectors.with_log_det(flow, resflow.logdet.PowerSeries(1)).forward(copies)
    rows = tape.gradient(y, copies, tf.reshape(tf.tile(tf.eye(16), [2, 1]), y.shape))
    np.testing.assert_allclose(log_det, np.linalg.slogdet(tf.reshape(rows, [2, 16, 16]))[1], atol=1e-3)


def test_wrong_dense_nets_are_errors():
    for depth, growth in ((0, 4), (1, 3), (1, 0)):
        with pytest.raises(
            ValueError, match=f"'clipswish' a growth .* multiple of 2; got depth={depth} and growth"
        ):
            flows.dense_net_branch([2], depth, growth)
    for norms in ("learned", (2.0, 1.0, 2.0)):
        with pytest.raises(ValueError, match="norm of order 2 only: leave norms out; got"):
            flows.residual_image_block(norms=norms, dense_net=(2, 4))
        with pytest.raises(ValueError, match="norm of order 2 only: leave norms out; got"):
            flows.vector_flow(2, 1, norms=norms, dense_net=(2, 4))


def test_image_flow_architecture():
    flow = flows.image_flow((8, 8, 1), (2, 1), 4, kernels=(3, 1, 3), num_fc_blocks=1, fc_width=5, logit_alpha=0.05)
    block = ["ResidualBlock", "ActNorm"]
    assert kinds(flow) == ["Logit", "ActNorm", *block * 2, "Squeeze2D", *block * 2]
    convs = ["LipschitzConv2D", "LipSwish"] * 2 + ["LipschitzConv2D"]
    first, second, third, fully_connected = blocks(flow)
    # The very first block has no pre-activation.
    assert layer_kinds(first) == convs
    assert layer_kinds(second) == layer_kinds(third) == ["LipSwish", *convs]
    dense = ["LipschitzDense", "LipSwish"] * 2 + ["LipschitzDense"]
    assert layer_kinds(fully_connected) == ["Flatten", "LipSwish", *dense, "Reshape"]
    for b, channels in ((first, 1), (second, 1), (third, 4)):
        found = layers.lipschitz_layers(b)
        assert [layer.kernel.shape[:2] for layer in found] == [(3, 3), (1, 1), (3, 3)]
        assert [layer.kernel.shape[3] for layer in found] == [4, 4, channels]
        np.testing.assert_allclose(b.lipschitz_constant, 0.98**3)
    assert [layer.units for layer in layers.lipschitz_layers(fully_connected)] == [5, 5, 64]
    act_norms = [b for b in flow.bijectors if isinstance(b, bijectors.ActNorm)]
    shapes = [a.shift.shape.as_list() for a in act_norms]
    assert shapes == [[1], [1], [1], [4], [4, 4, 4]]
    assert flow.forward_event_shape([8, 8, 1]) == [4, 4, 4]


COUPLINGS = [bijectors.AffineCoupling, bijectors.AdditiveCoupling]


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_image_flow_of_couplings(coupling):
    options = {"kernels": (3, 1, 3), "num_fc_blocks": 2, "fc_width": 5, "inv_1x1_conv": True}
    flow = flows.image_flow((8, 8, 1), (2, 1), 4, block=flows.coupling_image_block(coupling), **options)
    step = ["InvertibleConv1x1", coupling.__name__, "ActNorm"]
    expected = ["Logit", "ActNorm", *step * 2, "Squeeze2D", *step, *step[1:] * 2]
    assert kinds(flow) == expected
    couplings = [b for b in flow.bijectors if isinstance(b, bijectors.Coupling)]
    parameters = couplings[0].num_parameters
    # One channel has no half, so the first scale is split by a checkerboard; of four channels two are kept, and two
    # are mapped.
    inputs = [c.network.input_shape[1:] for c in couplings]
    assert inputs == [(8, 8, 1)] * 2 + [(4, 4, 2)] * 3
    outputs = [c.network.output_shape[1:] for c in couplings]
    assert outputs == [(8, 8, parameters)] * 2 + [(4, 4, 2 * parameters)] * 3
    for c in couplings[:3]:
        kernels = [w.shape for w in c.network.get_weights() if w.ndim == 4]
        assert [k[:2] for k in kernels] == [(3, 3), (1, 1), (3, 3)]
        assert [k[3] for k in kernels[:2]] == [4, 4]
    for c in couplings[3:]:
        hidden = [w.shape[1] for w in c.network.get_weights() if w.ndim == 2]
        assert hidden == [5, 5, 32 * parameters]


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("num_blocks", [(2,), (0, 2)])
def test_two_couplings_map_every_element(coupling, num_blocks):
    """By a checkerboard in the first scale, by channels in the second: each maps what the other keeps."""
    event_shape = (4, 4, 1)
    options = {"kernels": (1, 1), "num_fc_blocks": 0, "act_norm": False, "logit_alpha": None}
    flow = flows.image_flow(event_shape, num_blocks, 4, block=flows.coupling_image_block(coupling), **options)
    x = tf.random.stateless_normal([1, *flow.forward_event_shape(event_shape)], [0, 1])
    changed = []
    for coupling in flow.bijectors[-2:]:
        for variable in coupling.network.trainable_variables:
            variable.assign(variable + 0.5)
        changed.append(np.abs(coupling.forward(x) - x) > 1e-6)
    assert np.all(changed[0] ^ changed[1])
    assert np.sum(changed[0]) == np.sum(changed[1]) == 8


@pytest.mark.parametrize(
    "coupling, factor_out, event_shape",
    [
        (None, False, (4, 6, 3)),
        (None, True, (4, 4, 1)),
        (COUPLINGS[0], True, (4, 6, 3)),
        (COUPLINGS[0], False, (4, 4, 1)),
        (COUPLINGS[1], False, (4, 6, 3)),
        (COUPLINGS[1], True, (4, 4, 1)),
    ],
)
def test_trunk_of_every_block(coupling, factor_out, event_shape):
    """Its parts are tested elsewhere: here that they fit, and that 1x1 convolutions go with every block."""
    residual = flows.residual_image_block(log_det=EXACT)
    block = flows.coupling_image_block(coupling) if coupling else residual
    options = {"kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 2, "block": block}
    flow = flows.image_flow(event_shape, (1, 1), 2, **options, factor_out=factor_out, inv_1x1_conv=True)
    x = tf.random.stateless_uniform([2, *event_shape], [0, 1], 0.1, 0.9)
    resflow.bijectors.initialize(flow, x)
    h, w, c = event_shape
    latent = [h * w * c] if factor_out else [h // 2, w // 2, 4 * c]
    y = bijectors.with_log_det(flow, resflow.logdet.PowerSeries(1)).forward(x)
    assert y.shape == [2, *latent]
    np.testing.assert_allclose(flow.inverse(tf.identity(y)), x, atol=1e-4)


def test_coupling_networks():
    """They start at zero through their last layer alone; the others are as the seed says."""
    for make in (
        lambda seed: flows.coupling_network((4, 4, 3), 6, seed=seed),
        lambda seed: flows.dense_coupling_network((4, 4, 3), (6, 6), seed=seed),
    ):
        one, same, other = make(1), make(1), make(2)
        # Of three channels one is kept, two are mapped.
        assert one.input_shape == (None, 4, 4, 1) and one.output_shape == (None, 4, 4, 4)
        x = tf.random.stateless_normal([5, 4, 4, 1], [0, 1])
        np.testing.assert_array_equal(one(x), np.zeros([5, 4, 4, 4]))
        for a, b in zip(one.get_weights(), same.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        kernels = [[w for w in n.get_weights() if w.ndim > 1][:-1] for n in (one, other)]
        assert len(kernels[0]) == 2
        assert all(np.all(a != b) for a, b in zip(*kernels, strict=True))
        *_, last = [v for v in one.trainable_variables if v.path.endswith("kernel")]
        last.assign(tf.ones_like(last))
        assert np.std(one(x)) > 1e-2
    assert flows.dense_coupling_network([5], (4,), num_parameters=1).output_shape == (None, 3)
    assert flows.coupling_network((4, 4, 1), 2, split="checkerboard").output_shape == (None, 4, 4, 2)


def test_image_flow_of_blocks_of_a_user():
    specs = []

    def block(spec):
        specs.append(spec)
        return bijectors.ActNorm(spec.event_shape, name=spec.name)

    flow = flows.image_flow((4, 4, 1), (1, 1), 3, fc_width=2, num_fc_blocks=1, block=block, logit_alpha=None)
    assert kinds(flow) == [*["ActNorm"] * 3, "Squeeze2D", *["ActNorm"] * 4]
    assert [spec.name for spec in specs] == ["scale0_block0", "scale1_block0", "fc_block0"]
    found = [(spec.event_shape, spec.width, spec.dense, spec.scale, spec.index) for spec in specs]
    last = (2, 2, 4)
    assert found == [((4, 4, 1), 3, False, 0, 0), (last, 3, False, 1, 0), (last, 2, True, 1, 1)]
    assert len({spec.seed for spec in specs}) == 3


def test_squeeze_first_and_normalize():
    flow = flows.image_flow(
        (4, 4, 3), (1,), 4, kernels=(1,), num_fc_blocks=0, logit_alpha=None, mean=[0.5] * 3, std=[2.0] * 3,
        squeeze_first=True,
    )  # fmt: skip
    assert kinds(flow) == ["Normalize", "Squeeze2D", "ActNorm", "ResidualBlock", "ActNorm"]
    assert flow.forward_event_shape([4, 4, 3]) == [2, 2, 12]


def test_factor_out():
    fc_blocks = {"num_fc_blocks": 1, "fc_width": 4}
    flow = flows.image_flow((8, 8, 1), (1, 1, 1), 4, kernels=(1, 1), **fc_blocks, factor_out=True)
    assert isinstance(flow, bijectors.MultiscaleFlow)
    assert [kinds(f)[-1] for f in flow.flows] == ["Squeeze2D", "Squeeze2D", "ActNorm"]
    # 1 channel -> 4, half of which go on -> 8, half of which go on.
    shapes = [layers.lipschitz_layers(blocks(f)[0])[0].kernel.shape[2] for f in flow.flows]
    assert shapes == [1, 2, 4]
    assert flow.forward_event_shape([8, 8, 1]) == [64]
    single = flows.image_flow((4, 4, 1), (1,), 4, kernels=(1,), num_fc_blocks=0, factor_out=True)
    assert isinstance(single, bijectors.Flow)


def test_norms_of_the_layers():
    (block,) = blocks(flows.vector_flow(2, 1, (4,), norms=(float("inf"), 3.0, float("inf"))))
    first, last = layers.lipschitz_layers(block)
    assert (first.domain, first.codomain) == (float("inf"), 3.0)
    assert (last.domain, last.codomain) == (3.0, float("inf"))
    with pytest.raises(ValueError, match="2 layers need 3 norms"):
        flows.vector_flow(2, 1, (4,), norms=(2.0, 2.0))


def test_normalization_of_the_layers():
    """Residual blocks of every builder take it; blocks of the default are tested everywhere else."""
    make = {"normalization": "schatten"}
    flow = flows.vector_flow(2, 1, (4,), condition_size=1, **make)
    block = flows.residual_image_block(**make)
    images = flows.image_flow((4, 4, 1), (1,), 4, kernels=(3, 1, 3), num_fc_blocks=1, fc_width=4, block=block)
    found = layers.lipschitz_layers([flow, images])
    assert len(found) == 2 + 3 + 3
    assert all(layer.normalization == "schatten" and layer.vector is None for layer in found)
    with pytest.raises(ValueError, match="bounds the norm 2 -> 2"):
        flows.vector_flow(2, 1, (4,), norms="learned", **make)


def test_learned_norms():
    """Each block has its own orders, in a cycle, and inverts whatever they are."""
    block = flows.residual_image_block(norms="learned")
    options = {"num_fc_blocks": 1, "fc_width": 16, "dtype": "float64"}
    flow = flows.image_flow((4, 4, 1), (1,), 1, kernels=(3, 3, 3), block=block, **options)
    orders = layers.learned_orders(flow)
    np.testing.assert_allclose([order.order() for order in orders], np.full(6, 2.0), rtol=1e-6)
    for block in blocks(flow):
        first, second, third = layers.lipschitz_layers(block)
        assert first.codomain is second.domain and second.codomain is third.domain
        assert third.codomain is first.domain
    for i, order in enumerate(orders):
        order.theta.assign(0.4 * i - 1.5)
    layers.update_norms(flow, 1e-6, 500)
    x = tf.random.stateless_uniform([2, 4, 4, 1], [0, 1], 0.1, 0.9, dtype=tf.float64)
    y = flow.forward(x, seed=1)
    np.testing.assert_allclose(flow.inverse(tf.identity(y)), x, atol=1e-11)


def image_flow_of_large_coefficient(**bound):
    block = flows.residual_image_block(coefficient=1.1, **bound)
    return flows.image_flow((4, 4, 1), (1,), 2, kernels=(1, 1), num_fc_blocks=1, fc_width=2, block=block)


def test_a_bound_that_is_not_verified():
    """It is needed if the coefficients give none below 1."""
    for build in (
        lambda **bound: flows.vector_flow(2, 1, (4,), coefficient=1.1, **bound),
        image_flow_of_large_coefficient,
    ):
        with pytest.raises(ValueError, match="has Lipschitz constant 1.21"):
            build()
        assert {block.lipschitz_constant for block in blocks(build(lipschitz_constant=0.9))} == {0.9}


@pytest.mark.parametrize("activation", sorted(flows.ACTIVATIONS))
def test_every_activation(activation):
    branch = flows.dense_branch([4], (6,), activation=activation)
    assert layers.lipschitz_constant(branch) <= 0.98**2 + 1e-12
    x = tf.random.stateless_normal([3, 4], [0, 1])
    y = bijectors.ResidualBlock(branch, EXACT).forward(x)
    assert np.all(np.isfinite(y))
    assert np.max(np.abs(y - x)) > 1e-4


@pytest.mark.parametrize("activation", ["clipswish", "elu", "fullsort"])
def test_activations_on_images_of_any_number_in_a_graph(activation):
    """The whole series with the exact trace is the logarithm of the determinant of a dense Jacobian."""
    branch = flows.conv_branch((2, 3, 4), 6, (3, 1), activation=activation, coefficient=0.5)
    series = resflow.logdet.PowerSeries(12, probes="basis")
    block = bijectors.ResidualBlock(branch, series)
    x = tf.random.stateless_normal([2, 2, 3, 4], [0, 1])
    signature = [tf.TensorSpec([None, 2, 3, 4])]
    log_det = tf.function(lambda x: block.forward_log_det_jacobian(x), signature)(x)
    exact = bijectors.ResidualBlock(branch, EXACT).forward_log_det_jacobian(tf.identity(x))
    np.testing.assert_allclose(log_det, exact, atol=1e-3)


def weights(flow):
    return [v.numpy() for b in blocks(flow) for v in b.branch.trainable_variables]


def test_seed_decides_the_parameters():
    one, same, other = (flows.vector_flow(2, 2, (4,), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(weights(one), weights(same), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [[w for w in weights(flow) if w.ndim == 2] for flow in (one, other)]
    assert all(np.all(a != b) for a, b in zip(*kernels, strict=True))
    # Blocks of one flow differ, too.
    assert np.all(kernels[0][0] != kernels[0][2])


def test_float64():
    options = {"num_fc_blocks": 1, "fc_width": 4, "block": flows.residual_image_block(log_det=EXACT)}
    flow = flows.image_flow((4, 4, 1), (1, 1), 4, kernels=(3, 1), **options, dtype="float64")
    assert {v.dtype for v in flow.variables} == {tf.float64}
    x = tf.random.stateless_uniform([2, 4, 4, 1], [0, 1], 0.1, 0.9, dtype=tf.float64)
    y = flow.forward(x)
    np.testing.assert_allclose(flow.inverse(tf.identity(y)), x, atol=1e-11)


def test_global_floatx_does_not_matter():
    keras.config.set_floatx("float64")
    try:
        flow = flows.vector_flow(2, 1, (4,), condition_size=1, dtype="float32")
    finally:
        keras.config.set_floatx("float32")
    assert {v.dtype for v in flow.variables} == {tf.float32}


def test_wrong_arguments():
    with pytest.raises(ValueError, match="activation must be one of"):
        flows.vector_flow(2, 1, (4,), activation="swich")
    with pytest.raises(ValueError, match="at least one inner layer"):
        flows.vector_flow(2, 1, ())
    for block, message in (
        ("affine_coupling", "block must be a function of a BlockSpec, .* got 'affine_coupling'"),
        (
            resflow.bijectors.AffineCoupling,
            "function of a BlockSpec, .*coupling_image_block.* got .*AffineCoupling",
        ),
        (lambda spec: None, "block must return a bijector .* for scale0_block0 it returned None"),
    ):
        with pytest.raises(ValueError, match=message):
            flows.image_flow((4, 4, 1), (1,), 4, num_fc_blocks=0, block=block)
    with pytest.raises(ValueError, match="one channel, which cannot be split"):
        flows.coupling_network((4, 4, 1), 4)
    with pytest.raises(ValueError, match="multiples of 2; got 3 x 4"):
        flows.image_flow((3, 4, 1), (1, 1), 4, kernels=(1,), num_fc_blocks=0)


NETWORKS = {
    "dense nets": lambda **dtype: flows.image_flow(
        (4, 4, 1), (1,), num_fc_blocks=1, fc_width=4, block=flows.residual_image_block(dense_net=(1, 4)), **dtype
    ),
    "vector": lambda **dtype: flows.vector_flow(2, 1, (2,), norms="learned", condition_size=3, **dtype),
    "image": lambda **dtype: flows.image_flow((4, 4, 1), (1, 1), 4, num_fc_blocks=1, fc_width=4, **dtype),
    "couplings": lambda **dtype: flows.image_flow(
        (4, 4, 1), (1, 1), 4, num_fc_blocks=1, fc_width=4, block=flows.coupling_image_block(), **dtype
    ),
}


@pytest.mark.parametrize(
    ("kind", "given", "policy"),
    [
        *((kind, True, policy) for kind in NETWORKS for policy in ("float64", "mixed_bfloat16")),
        *((kind, False, "mixed_bfloat16") for kind in ("vector", "image")),
    ],
)
def test_policies(kind, given, policy, dtype_policy):
    """As an argument, or of Keras: in training the networks compute in it, and all variables have its dtype."""
    if given:
        flow = NETWORKS[kind](dtype=policy)
    else:
        with dtype_policy(policy):
            flow = NETWORKS[kind]()
    networks = [b.keras_parts for b in flow.bijectors if isinstance(getattr(b, "keras_parts", None), keras.Layer)]
    variables, computed = ("float64",) * 2 if policy == "float64" else ("float32", "bfloat16")
    assert {v.dtype.name for v in flow.variables} == {variables}
    assert networks
    for network in networks:
        inputs = [tf.zeros([2, *x.shape[1:]], variables) for x in network.inputs]
        inputs = inputs if len(inputs) > 1 else inputs[0]
        assert network(inputs).dtype == variables
        assert layers.bind(network, training=True)(inputs).dtype == computed


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "bfloat16"])
def test_policies_that_cannot_train_are_errors(policy, dtype_policy):
    message = f"dtype_policy.., which is '{policy}'.*take 'mixed_bfloat16'"
    with dtype_policy(policy), pytest.raises(ValueError, match=message):
        flows.vector_flow(2, 1, (4,))
    for build in (flows.conv_branch, flows.dense_branch, flows.coupling_network, flows.dense_coupling_network):
        with pytest.raises(ValueError, match=f"dtype of a flow is '{policy}'"):
            build((4, 4, 2), 4 if "dense" not in build.__name__ else (4,), dtype=policy)


@pytest.fixture
def config():
    config = resflow.training.default_config().model
    config.num_blocks = (1, 1)
    config.width = config.fc_width = 4
    config.num_fc_blocks = 1
    return config


def test_image_flow_of_a_config(config):
    flow = flows.build_flow(config, (4, 4, 1))
    assert [len(b.branch.layers) for b in blocks(flow)] == [5, 6, 8]
    (estimator,) = {b.log_det for b in blocks(flow)}
    assert (estimator.num_exact_terms, estimator.distribution.p) == (2, 0.5)
    assert not estimator.per_example
    config.num_blocks, config.num_fc_blocks, config.learned_norms = (1,), 0, True
    assert len(layers.learned_orders(flows.build_flow(config, (4, 4, 1)))) == 3
    config.learned_norms, config.normalization = False, "schatten"
    built = layers.lipschitz_layers(flows.build_flow(config, (4, 4, 1)))
    assert {layer.normalization for layer in built} == {"schatten"}


def test_dense_nets_of_a_config(config):
    config.branch, config.depth, config.growth, config.activation = "dense_net", 2, 4, "clipswish"
    for block in blocks(flows.build_flow(config, (4, 4, 1))):
        assert layer_kinds(block).count("LearnableConcatenation") == 2
    config.kind, config.block = "vector", "monotone"
    (block, _) = blocks(flows.build_flow(config, (3,)))
    assert [layer.units for layer in layers.lipschitz_layers(block)] == [2, 2, 3]


def test_power_series_of_a_config(config):
    config.estimator.train.kind = "power_series"
    config.estimator.train.num_terms = 3
    (estimator,) = {b.log_det for b in blocks(flows.build_flow(config, (4, 4, 1)))}
    assert isinstance(estimator, resflow.logdet.PowerSeries) and estimator.num_terms == 3


def test_couplings_of_a_config(config):
    config.block = "additive_coupling"
    config.inv_1x1_conv = True
    found = kinds(flows.build_flow(config, (4, 4, 1)))
    assert (found.count("AdditiveCoupling"), found.count("InvertibleConv1x1")) == (3, 2)
    assert "ResidualBlock" not in found


def test_vector_flow_of_a_config(config):
    config.kind = "vector"
    config.hidden = (4,)
    config.norms = (2.0, 2.0)
    config.num_blocks = (2,)
    with pytest.raises(ValueError, match="3 norms"):
        flows.build_flow(config, (3,))
    config.norms = (2.0, 2.0, 2.0)
    flow = flows.build_flow(config, (3,), [0.0] * 3, [1.0] * 3)
    assert kinds(flow)[0] == "Normalize"
    assert len(blocks(flow)) == 2
    with pytest.raises(ValueError, match="rank 1, but the data have shape"):
        flows.build_flow(config, (4, 4, 1))


@pytest.mark.parametrize(("name", "number"), [("geometric", 0.25), ("poisson", 3.0)])
def test_estimator_of_a_config(name, number, config):
    config.estimator.eval.distribution = name
    config.estimator.eval.p = number
    default = flows.build_estimator(config.estimator.eval, per_example=False)
    assert (default.rtol, default.probes, default.per_example) == (0.01, "colored", False)
    estimator = flows.build_estimator(config.estimator.eval, per_example=True, kind="russian_roulette")
    assert (estimator.num_exact_terms, estimator.per_example) == (20, True)
    distribution = estimator.distribution
    assert number in (getattr(distribution, "p", None), getattr(distribution, "rate", None))
    assert type(distribution).__name__.lower() == name


def test_images_that_cannot_be_halved_are_errors(config):
    for shape, squeeze_first in [((6, 5, 1), False), ((5, 6, 1), False), ((6, 6, 1), True)]:
        config.squeeze_first = squeeze_first
        times, sides = (2, 4) if squeeze_first else (1, 2)
        with pytest.raises(ValueError, match=f"cannot be halved {times} times, .* multiples of {sides}, as by"):
            flows.build_flow(config, shape)


@pytest.mark.parametrize("build", ["images", "flat images", "dense nets", "flat dense nets"])
def test_conditional_branches_of_images(build):
    """Lipschitz in x alone: dense Jacobians at several conditions, which change them, and their determinants."""
    shape, size = (2, 3, 2), 12
    make = {
        "images": lambda **kwargs: flows.conv_branch(shape, 6, (3, 1), **kwargs),
        "flat images": lambda **kwargs: flows.dense_branch(shape, (6,), preactivation=True, **kwargs),
        "dense nets": lambda **kwargs: flows.dense_net_branch(shape, 1, 6, **kwargs),
        "flat dense nets": lambda **kwargs: flows.dense_net_branch(
            shape, 1, 4, kernel_size=None, stem=5, activation="cpila", **kwargs
        ),
    }[build]
    constant = 0.7**3 if build == "flat dense nets" else 0.7**2
    branch = make(condition_size=3, coefficient=0.7, seed=1, dtype="float64")
    for layer in layers.lipschitz_layers(branch):
        layer.kernel.assign(3 * layer.kernel)
    layers.converge_norms(branch)
    assert layers.lipschitz_constant(branch) == pytest.approx(constant)
    assert layers.lipschitz_constant(branch, certified=True) < constant + 1e-3
    x = tf.constant(np.random.default_rng(0).normal(size=[1, *shape]))
    block = bijectors.ResidualBlock(branch, EXACT, conditional=True)
    jacobians = []
    for scale in (0.0, 3.0, 30.0):
        c = scale * tf.constant([[1.0, -1.0, 0.5]], tf.float64)
        copies = tf.repeat(x, size, 0)  # each tells the gradient of one output
        with tf.GradientTape() as tape:
            tape.watch(copies)
            g = branch([copies, tf.repeat(c, size, 0)])
        rows = tape.gradient(g, copies, tf.reshape(tf.eye(size, dtype=x.dtype), copies.shape))
        jacobian = rows.numpy().reshape(size, size)
        assert np.linalg.norm(jacobian, 2) < constant
        expected = np.linalg.slogdet(np.eye(size) + jacobian)[1]
        log_det = block.forward_log_det_jacobian(tf.identity(x), conditional_input=c)
        np.testing.assert_allclose(log_det, [expected], rtol=1e-9)
        jacobians.append(jacobian)
    assert np.linalg.norm(jacobians[0] - jacobians[1]) > 1e-2
    y = block.forward(tf.identity(x), conditional_input=c)
    np.testing.assert_allclose(block.inverse(tf.identity(y), conditional_input=c), x, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("hidden", lambda: flows.vector_flow(2, 1, hidden=8)),
        ("norms", lambda: flows.vector_flow(2, 1, (8,), norms=2)),
        ("dense_net", lambda: flows.vector_flow(2, 1, dense_net=3)),
        ("dense_net", lambda: flows.residual_image_block(dense_net=3)),
        ("event_shape", lambda: flows.dense_branch(2, (8,))),
        ("event_shape", lambda: flows.dense_net_branch(2, 1, 2)),
        ("event_shape", lambda: flows.conv_branch(8, 8)),
        ("kernels", lambda: flows.conv_branch((8, 8, 1), 8, 3)),
        ("event_shape", lambda: flows.coupling_network(8, 8)),
        ("kernels", lambda: flows.coupling_network((8, 8, 2), 8, 3)),
        ("event_shape", lambda: flows.dense_coupling_network(8, (8,))),
        ("hidden", lambda: flows.dense_coupling_network((8,), 8)),
        ("event_shape", lambda: flows.image_flow(8)),
        ("num_blocks", lambda: flows.image_flow((8, 8, 1), 16)),
        ("kernels", lambda: flows.image_flow((8, 8, 1), (1,), kernels=3)),
        ("event_shape", lambda: bijectors.ActNorm(2)),
    ],
)
def test_a_number_is_no_sequence(name, build):
    with pytest.raises(
        ValueError, match=rf"^{name} must be (a sequence|a depth and a growth), such as .*; got \d+"
    ):
        build()


@pytest.mark.parametrize("block", [flows.residual_image_block(log_det=EXACT), flows.coupling_image_block()])
def test_conditional_image_flow(block):
    """Every block takes the condition."""
    options = {"num_fc_blocks": 1, "fc_width": 4, "condition_size": 2, "factor_out": True}
    flow = flows.image_flow((4, 4, 1), (1, 1), 4, **options, block=block)
    kinds = (bijectors.ResidualBlock, bijectors.Coupling)
    found = [block for block in flow.submodules if isinstance(block, kinds)]
    assert len(found) == 3 and all(block.condition_shape == [2] for block in found)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, [1, i], 0.0, 0.1))
    x = tf.random.stateless_uniform([3, 4, 4, 1], [0, 1], 0.1, 0.9)
    c = tf.constant([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    z = flow.forward(x, conditional_input=c)
    np.testing.assert_allclose(flow.inverse(tf.identity(z), conditional_input=c), x, atol=1e-4)
    assert np.all(np.max(np.abs(z - flow.forward(tf.identity(x), conditional_input=c[::-1])), 1)[[0, 2]] > 1e-3)


def test_a_condition_of_one_layer():
    with pytest.raises(ValueError, match="needs two layers: give two kernels"):
        flows.conv_branch((2, 2, 1), 4, (3,), condition_size=2)


SMALL_FLOWS = {
    "vector_flow": lambda **name: flows.vector_flow(2, 1, (4,), **name),
    "image_flow": lambda **name: flows.image_flow((4, 4, 1), (1,), 4, num_fc_blocks=0, **name),
    "multiscale": lambda **name: flows.image_flow((4, 4, 2), (1, 1), 4, num_fc_blocks=0, factor_out=True, **name),
}


@pytest.mark.parametrize("builder", SMALL_FLOWS)
def test_names_in_a_stock_composition(builder):
    """Two flows of one name are an error, and its advice works."""
    build = SMALL_FLOWS[builder]
    with pytest.raises(ValueError, match=r"more than once: flow. Pass name= "):
        bijectors.Flow([tfb.JointMap([build(), build()])])
    flow = bijectors.Flow([tfb.JointMap([build(name="first"), build(name="second")])])
    assert [member.name for member in flow.bijectors[0].bijectors] == ["first", "second"]


def test_names_of_a_config(config):
    assert flows.build_flow(config, (4, 4, 1), name="first").name == "first"
    config.factor_out = True
    assert flows.build_flow(config, (4, 4, 2), name="second").name == "second"
