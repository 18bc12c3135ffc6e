"""Flow builders: layers, parameters, estimators and wrong arguments."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import bijectors, flows, layers
from tf_resflow.flows.names import COUPLINGS, ESTIMATORS, RESIDUAL_BLOCKS
from tf_resflow.training.build import build_estimator, build_flow

pytestmark = pytest.mark.quick

EXACT = resflow.logdet.Exact()
residual = flows.residual_image_block


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    """Builds layers without searching the maximizers of their norms, which no test here needs."""
    monkeypatch.setattr(layers.lipschitz_layer.LipschitzLayer, "_new_vector", lambda layer: None)


def kinds(flow):
    return [type(b).__name__ for b in flow.bijectors]


def blocks(flow):
    return [b for b in flow.bijectors if isinstance(b, bijectors.ResidualBlock)]


def layer_kinds(block):
    return [type(layer).__name__ for layer in block.branch.layers]


def kernel_shapes(block):
    return [tuple(layer.kernel.shape) for layer in layers.norm_updates.lipschitz_layers(block)]


def test_vector_flow():
    flow = flows.vector_flow(3, 2, (5, 4), coefficient=0.8, log_det_estimator=EXACT)
    assert kinds(flow) == ["ActNorm", "ResidualBlock", "ActNorm", "ResidualBlock", "ActNorm"]
    for block in blocks(flow):
        assert layer_kinds(block) == ["LipschitzDense", "CPila"] * 2 + ["LipschitzDense"]
        assert kernel_shapes(block) == [(3, 5), (10, 4), (8, 3)]
        np.testing.assert_allclose(block.lipschitz_constant, 0.8**3)
        assert block.log_det_estimator is EXACT
    normalized = flows.vector_flow(2, 1, (4,), mean=[1.0, 2.0], std=[3.0, 4.0], act_norm=False)
    assert kinds(normalized) == ["Normalize", "ResidualBlock"]
    np.testing.assert_allclose(normalized.bijectors[0].forward([4.0, 6.0]), [1.0, 1.0])


def test_dense_nets():
    """Checks kernels, Lipschitz constants, and the stem and growth of fully connected blocks."""
    block = residual(activation="cpila", dense_net=(2, 6), coefficient=0.9)
    first, second, flat = blocks(flows.image_flow((4, 4, 1), (1, 1), 5, num_fc_blocks=1, fc_width=8, block=block))
    assert kernel_shapes(first) == [(3, 3, 1, 3), (3, 3, 7, 3), (1, 1, 13, 1)]
    assert kernel_shapes(second) == [(3, 3, 4, 3), (3, 3, 10, 3), (1, 1, 16, 4)]
    assert kernel_shapes(flat) == [(16, 8), (8, 2), (12, 2), (16, 16)]
    assert [b.lipschitz_constant for b in (first, second, flat)] == pytest.approx([0.9**3, 0.9**3, 0.9**4])
    options = {"dense_net": (2, 4), "activation": "lipswish", "condition_size": 2}
    (vectors,) = blocks(flows.vector_flow(3, 1, **options))
    assert kernel_shapes(vectors) == [(3, 4), (7, 4), (11, 3)] and vectors.condition_shape == [2]


def test_image_flow():
    flow = flows.image_flow((8, 8, 1), (2, 1), 4, kernels=(3, 1, 3), num_fc_blocks=1, fc_width=5, logit_alpha=0.05)
    block = ["ResidualBlock", "ActNorm"]
    assert kinds(flow) == ["Logit", "ActNorm", *block * 2, "Squeeze2D", *block * 2]
    convs = ["LipschitzConv2D", "LipSwish"] * 2 + ["LipschitzConv2D"]
    first, second, third, fully_connected = blocks(flow)
    # The first block of the flow has no pre-activation.
    assert layer_kinds(first) == convs
    assert layer_kinds(second) == layer_kinds(third) == ["LipSwish", *convs]
    dense = ["LipschitzDense", "LipSwish"] * 2 + ["LipschitzDense"]
    assert layer_kinds(fully_connected) == ["Flatten", "LipSwish", *dense, "Reshape"]
    for b, c in ((first, 1), (second, 1), (third, 4)):
        assert kernel_shapes(b) == [(3, 3, c, 4), (1, 1, 4, 4), (3, 3, 4, c)]
        np.testing.assert_allclose(b.lipschitz_constant, 0.98**3)
    assert kernel_shapes(fully_connected) == [(64, 5), (5, 5), (5, 64)]
    act_norms = [b for b in flow.bijectors if isinstance(b, bijectors.ActNorm)]
    assert [a.shift.shape.as_list() for a in act_norms] == [[1], [1], [1], [4], [4, 4, 4]]
    assert flow.forward_event_shape([8, 8, 1]) == [4, 4, 4]
    statistics = {"logit_alpha": None, "mean": [0.5] * 3, "std": [2.0] * 3}
    options = {"kernels": (1,), "num_fc_blocks": 0, "squeeze_first": True, **statistics}
    flow = flows.image_flow((4, 4, 3), (1,), 4, **options)
    assert kinds(flow) == ["Normalize", "Squeeze2D", "ActNorm", "ResidualBlock", "ActNorm"]
    assert flow.forward_event_shape([4, 4, 3]) == [2, 2, 12]
    flow = flows.image_flow((4, 4, 3), (1,), 4, whiten=True, **options)
    assert kinds(flow)[:4] == ["Normalize", "ActNorm", "DCTConv", "Squeeze2D"]
    assert [variable.shape for variable in flow.bijectors[1].trainable_variables] == [(4, 4, 3)] * 2


@pytest.mark.parametrize(
    "coupling", [bijectors.AffineCoupling, bijectors.AdditiveCoupling, bijectors.SplineCoupling]
)
def test_image_flow_of_couplings(coupling):
    options = {"kernels": (3, 1, 3), "num_fc_blocks": 2, "fc_width": 5, "inv_1x1_conv": True}
    flow = flows.image_flow((8, 8, 1), (2, 1), 4, block=flows.coupling_image_block(coupling), **options)
    step = ["InvertibleConv1x1", coupling.__name__, "ActNorm"]
    assert kinds(flow) == ["Logit", "ActNorm", *step * 2, "Squeeze2D", *step, *step[1:] * 2]
    couplings = [b for b in flow.bijectors if isinstance(b, bijectors.couplings.Coupling)]
    parameters = couplings[0].num_parameters
    # One channel cannot be split in halves, so the first scale uses a checkerboard.
    assert [c.network.input_shape[1:] for c in couplings] == [(8, 8, 1)] * 2 + [(4, 4, 2)] * 3
    outputs = [(8, 8, parameters)] * 2 + [(4, 4, 2 * parameters)] * 3
    assert [c.network.output_shape[1:] for c in couplings] == outputs
    # Each coupling maps the part that the previous one keeps.
    assert [c.parameters["split"] for c in couplings] == ["checkerboard"] * 2 + ["channels"] * 3
    assert [c.parameters["swap"] for c in couplings] == [False, True, False, True, False]
    widths = [[w.shape[-1] for w in c.network.get_weights() if w.ndim > 1] for c in couplings]
    assert widths == [[4, 4, parameters]] * 2 + [[4, 4, 2 * parameters]] + [[5, 5, 32 * parameters]] * 2


def assert_seeded(one, same, other):
    """Checks that equal seeds give equal weights, and another seed gives different kernels."""
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [[w for w in weights if w.ndim > 1] for weights in (one, other)]
    assert len(kernels[0]) > 1 and all(np.all(a != b) for a, b in zip(*kernels, strict=True))


@pytest.mark.parametrize("make, width", [(flows.coupling_network, 6), (flows.dense_coupling_network, (6, 6))])
def test_coupling_networks(make, width):
    """Only the last layer is initialized to zero. Of three channels, one is kept and two are mapped."""
    one, same, other = (make((4, 4, 3), width, seed=seed) for seed in (1, 1, 2))
    assert one.input_shape == (None, 4, 4, 1) and one.output_shape == (None, 4, 4, 4)
    x = tf.random.stateless_normal([5, 4, 4, 1], [0, 1])
    np.testing.assert_array_equal(one(x), np.zeros([5, 4, 4, 4]))
    assert_seeded(*(network.get_weights()[:-2] for network in (one, same, other)))
    *_, last = [v for v in one.trainable_variables if v.path.endswith("kernel")]
    last.assign(tf.ones_like(last))
    assert np.std(one(x)) > 1e-2
    assert flows.dense_coupling_network([5], (4,), num_parameters=1).output_shape == (None, 3)
    assert flows.coupling_network((4, 4, 1), 2, split="checkerboard").output_shape == (None, 4, 4, 2)


def test_image_flow_with_custom_blocks():
    specs = []
    block = lambda spec: specs.append(spec) or bijectors.ActNorm(spec.event_shape, name=spec.name)  # noqa: E731
    flow = flows.image_flow((4, 4, 1), (1, 1), 3, fc_width=2, num_fc_blocks=1, block=block, logit_alpha=None)
    assert kinds(flow) == [*["ActNorm"] * 3, "Squeeze2D", *["ActNorm"] * 4]
    found = [(s.name, s.event_shape, s.width, s.dense, s.scale, s.index) for s in specs]
    expected = [("scale0_block0", (4, 4, 1), 3, False, 0, 0), ("scale1_block0", (2, 2, 4), 3, False, 1, 0)]
    assert found == [*expected, ("fc_block0", (2, 2, 4), 2, True, 1, 1)]
    assert len({spec.seed for spec in specs}) == 3


def test_factor_out():
    options = {"kernels": (1, 1), "num_fc_blocks": 1, "fc_width": 4, "factor_out": True}
    flow = flows.image_flow((8, 8, 1), (1, 1, 1), 4, **options)
    assert isinstance(flow, bijectors.MultiscaleFlow)
    assert [kinds(f)[-1] for f in flow.flows] == ["Squeeze2D", "Squeeze2D", "ActNorm"]
    # The first squeeze makes 4 channels, 2 continue; the second makes 8 channels, 4 continue.
    assert [kernel_shapes(blocks(f)[0])[0][2] for f in flow.flows] == [1, 2, 4]
    assert flow.forward_event_shape([8, 8, 1]) == [64]
    assert isinstance(flows.image_flow((4, 4, 1), (1,), 4, **options), bijectors.Flow)


def test_norms_of_the_layers():
    (block,) = blocks(flows.vector_flow(2, 1, (4,), norms=(float("inf"), 3.0, float("inf"))))
    first, last = layers.norm_updates.lipschitz_layers(block)
    assert (first.domain, first.codomain, last.domain, last.codomain) == (np.inf, 3.0, 3.0, np.inf)


def test_learned_norms():
    """Each block has its own orders, and the last order is the first one."""
    flow = small_images(4, {"dtype": "float64"}, norms="learned")
    orders = layers.norm_updates.learned_orders(flow)
    np.testing.assert_allclose([order.order() for order in orders], np.full(9, 2.0), rtol=1e-6)
    assert {order.theta.dtype for order in orders} == {"float64"}
    for block in blocks(flow):
        first, second, third = layers.norm_updates.lipschitz_layers(block)
        assert first.codomain is second.domain and second.codomain is third.domain
        assert third.codomain is first.domain


def test_a_bound_that_is_not_verified(refused):
    """`lipschitz_constant` is required if the product of the coefficients is not below 1."""
    build_images = functools.partial(small_images, 4, {"kernels": (1, 1)})
    for build in (functools.partial(flows.vector_flow, 2, 1, (4,)), build_images):
        refused("has Lipschitz constant 1.21", build, coefficient=1.1)
        found = blocks(build(coefficient=1.1, lipschitz_constant=0.9))
        assert {block.lipschitz_constant for block in found} == {0.9}


def test_seed_decides_the_parameters():
    found = [blocks(flows.vector_flow(2, 2, (4,), seed=seed)) for seed in (1, 1, 2)]
    assert_seeded(*([v.numpy() for block in each for v in block.branch.trainable_variables] for each in found))
    kernels = [block.branch.layers[0].kernel for block in found[0]]
    assert np.all(kernels[0] != kernels[1])


def configured(**fields):
    """Returns the `model` section of a config for small images."""
    config = resflow.training.default_config().model
    config.update(num_blocks=(1, 1), width=4, fc_width=4, num_fc_blocks=1)
    config.update_from_flattened_dict(fields)
    return config


def small_images(size=4, fields=None, **options):
    """Builds a flow of residual blocks with these options. `fields` are other arguments of `image_flow`."""
    block = residual(**{"log_det_estimator": ROULETTE, **options})
    fields = {"num_fc_blocks": 1, "fc_width": 4, "logit_alpha": None, "block": block, **(fields or {})}
    return flows.image_flow((size, size, 1), (1, 1), 4, **fields)


def described(flow):
    """Returns the settings of all branches, including seeds and names, the estimators, and all shapes."""
    found = {}
    for name, part in bijectors.flow.parts_by_name(flow).items():
        found[name] = [type(part), [variable.shape for variable in part.variables]]
        if isinstance(part, bijectors.ResidualBlock):
            inner = [layer for layer in part.branch.layers if not layer.name.startswith(NUMBERED_BY_KERAS)]
            found[name] += [repr(layer.get_config()) for layer in inner] + [repr(part.log_det_estimator)]
    return found


NUMBERED_BY_KERAS = "add", "flatten", "input_layer", "reshape"
ROULETTE, SERIES = resflow.logdet.RussianRoulette(probes="colored"), resflow.logdet.PowerSeries(3, probes="colored")
POISSON = resflow.logdet.RussianRoulette(2, resflow.logdet.Poisson(3.0), probes="colored")
DENSE_NET = {"branch": "dense_net", "depth": 2, "growth": 4, "activation": "clipswish"}
OF_DENSE_NETS = {"dense_net": (2, 4), "activation": "clipswish"}
ADDITIVE = {"inv_1x1_conv": True, "whiten": True, "act_norm": False}
OF_ADDITIVE = {**ADDITIVE, "block": flows.coupling_image_block(bijectors.AdditiveCoupling)}
FACTORED = {"factor_out": True, "squeeze_first": True, "logit_alpha": 0.1}
MONOTONE = {"hidden": (4,), "norms": (1.0, 2.0, 1.0), "affine_layers": (1, 2)}
OF_MONOTONE = {**MONOTONE, "block": bijectors.MonotoneBlock}
TRUNCATED = {"estimator.train.kind": "power_series", "estimator.train.num_terms": 3}
RANDOM = {"estimator.train.distribution": "poisson", "estimator.train.p": 3.0}
RANDOM |= {"estimator.train.kind": "russian_roulette", "lipschitz_constant": 0.9}
RANDOM |= {"compute_dtype": "mixed_bfloat16"}
OF_RANDOM = {"lipschitz_constant": 0.9, "log_det_estimator": POISSON}
FROM_CONFIG = [  # config fields, and a function that builds the same flow
    ({}, small_images),
    ({**FACTORED, "learned_norms": True}, lambda: small_images(8, FACTORED, norms="learned")),
    (TRUNCATED, lambda: small_images(log_det_estimator=SERIES)),
    ({"block": "additive_coupling", "logit_alpha": 0.0, **ADDITIVE}, lambda: small_images(4, OF_ADDITIVE)),
    (DENSE_NET, lambda: small_images(**OF_DENSE_NETS)),
    ({"kind": "vector", **DENSE_NET}, lambda: flows.vector_flow(3, 2, **OF_DENSE_NETS)),
    ({"kind": "vector", "block": "monotone", **MONOTONE}, lambda: flows.vector_flow(3, 2, **OF_MONOTONE)),
    ({"kind": "vector", **RANDOM}, lambda: flows.vector_flow(3, 2, dtype="mixed_bfloat16", **OF_RANDOM)),
]


@pytest.mark.parametrize(("fields", "build"), FROM_CONFIG)
def test_a_config_and_python_build_the_same_flow(fields, build):
    size = 8 if fields.get("squeeze_first") else 4
    shape = (3,) if fields.get("kind") == "vector" else (size, size, 1)
    assert described(build_flow(configured(**fields), shape)) == described(build())


def test_defaults_of_a_config_are_those_of_vector_flow():
    config = resflow.training.default_config()
    config.model.kind = "vector"
    options = {"mean": [0.0] * 3, "std": [1.0] * 3, "condition_size": 2, "seed": 4, "name": "first"}
    flow, expected = build_flow(config.model, (3,), **options), flows.vector_flow(3, **options)
    assert described(flow) == described(expected) and flow.name == "first"


def test_names_in_a_config():
    """Estimators have the names of their classes, and every name of an estimator or block can be built."""
    logdet = resflow.logdet
    options = {"event_shape": (4, 4, 1), "purpose": "evaluation", "num_probes": 3}
    found = {kind: build_estimator(configured(), name=kind, **options) for kind in ESTIMATORS}
    for kind, estimator in found.items():
        assert re.sub("(?<=[a-z])([A-Z])", r"_\1", type(estimator).__name__).lower() == kind
        assert kind == "exact" or (estimator.num_probes, estimator.probes) == (3, "colored")
    roulette, adaptive = found["russian_roulette"], found["adaptive_roulette"]
    assert (roulette.num_exact_terms, roulette.distribution.p, roulette.per_example) == (20, 0.5, True)
    assert (adaptive.rtol, adaptive.per_example) == (0.01, True)
    classes = [cls for cls in map(logdet.__dict__.get, logdet.__all__) if isinstance(cls, type)]
    classes = {cls for cls in classes if issubclass(cls, logdet.LogDetEstimator)} - {logdet.LogDetEstimator}
    assert set(map(type, found.values())) == classes
    for name, kind in (RESIDUAL_BLOCKS | COUPLINGS).items():
        assert kinds(build_flow(configured(block=name), (4, 4, 1))).count(kind) == 3


vectors = functools.partial(flows.vector_flow, 2, 1)
images = functools.partial(flows.image_flow, num_blocks=(1,), width=4, num_fc_blocks=0)
NORM_2 = "has norms of order 2. Leave out norms or dense_net"
REFUSALS = [
    ("activation is 'swich': did you mean 'lipswish'", lambda: vectors((4,), activation="swich")),
    ("Got 2 norms: .*2 layers need 3 norms", lambda: vectors((4,), norms=(2.0, 2.0))),
    ("needs at least two channels", lambda: flows.coupling_network((4, 4, 1), 4)),
    ("growth is 3.*'clipswish' needs a multiple of 2", lambda: flows.dense_net_branch([2], 1, 3)),
    (NORM_2, lambda: residual(norms="learned", dense_net=(2, 4))),
    (NORM_2, lambda: vectors(norms=(2.0, 1.0, 2.0), dense_net=(2, 4))),
    ("logit_alpha is 0.05. Set it to None", lambda: images((4, 4, 1), mean=[0.5], std=[0.25])),
    (r"is \(4, 4\), but must be the shape of a vector, such as \(5,\)", lambda: flows.vector_flow((4, 4))),
    (r"is 8, but must be the shape of an image, such as \(32, 32, 3\)", lambda: images(8)),
    ("is 'float16', but .*'float32', 'float64' or 'mixed_bfloat16'", lambda: vectors((4,), dtype="float16")),
]


def test_wrong_arguments(refused):
    for message, build in REFUSALS:
        refused(message, build)
