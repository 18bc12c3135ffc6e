"""Features: the values after each scale, from the pass that gives the log-density."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
Flow = resflow.bijectors.Flow
MultiscaleFlow = resflow.bijectors.MultiscaleFlow
Squeeze2D = resflow.bijectors.Squeeze2D
forward_features = resflow.bijectors.forward_features


class NoSeries:
    """An estimator that must not be asked."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("The log-determinant was evaluated.")


def scale_by(factor, name):
    return tfb.Scale(tf.constant(factor), name=name)


def image_flow(factor_out=False, block="residual", **kwargs):
    residual = resflow.flows.residual_image_block(log_det=resflow.logdet.RussianRoulette(1))
    make = residual if block == "residual" else resflow.flows.coupling_image_block()
    options = {"kernels": (3, 1), "num_fc_blocks": 0, "logit_alpha": None, "mean": [0.5], "std": [0.25]}
    options |= {"block": make, "factor_out": factor_out, "inv_1x1_conv": block != "residual"}
    flow = resflow.flows.image_flow((8, 8, 1), (1, 1, 1), 3, **options | kwargs)
    x = images()
    resflow.bijectors.initialize(flow, x)
    return flow


def images(num=3):
    return np.random.default_rng(0).uniform(size=[num, 8, 8, 1]).astype("float32")


def test_which_values_they_are():
    """Of flows that double, triple and negate, in NumPy: all channels, whether or not half of them leave."""
    x = np.arange(1.0, 17.0, dtype="float32").reshape(1, 4, 4, 1)

    def squeeze(x):
        """Space to channels of [1, H, W, C]."""
        _, h, w, c = x.shape
        x = x.reshape(1, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(1, h // 2, w // 2, 4 * c)

    first = [scale_by(2.0, "twice"), Squeeze2D(name="first_squeeze")]
    second = [scale_by(3.0, "thrice"), Squeeze2D(name="second_squeeze")]
    last = [scale_by(-1.0, "minus")]
    after_first = 2 * squeeze(x)
    half = after_first[..., :2]
    flows = [Flow(members, name=f"flow{i}") for i, members in enumerate((first, second, last))]
    latent, log_det, features = forward_features(MultiscaleFlow(flows, [4, 4, 1]), x)
    after_second = 3 * squeeze(half)
    for feature, expected in zip(features, [after_first, after_second, -after_second[..., :4]], strict=True):
        np.testing.assert_array_equal(feature, expected)
    left = [after_first[..., 2:], after_second[..., 4:], -after_second[..., :4]]
    np.testing.assert_array_equal(latent, np.concatenate([part.reshape(1, -1) for part in left], 1))
    np.testing.assert_allclose(log_det, 16 * np.log(2) + 8 * np.log(3), rtol=1e-6)

    act_norm = resflow.bijectors.ActNorm([4, 4, 1])
    latent, log_det, features = forward_features(Flow([act_norm, *first, *second, *last]), x)
    for feature, expected in zip(features, [after_first, 3 * squeeze(after_first)] + [latent], strict=True):
        np.testing.assert_array_equal(feature, expected)
    np.testing.assert_array_equal(latent, -3 * squeeze(after_first))
    np.testing.assert_allclose(log_det, 16 * np.log(6), rtol=1e-6)


@pytest.mark.parametrize(
    "factor_out, block, mode",
    [
        (False, "residual", "eager"),
        (True, "residual", "graph"),
        (False, "affine_coupling", "eager"),
        (True, "affine_coupling", "eager"),
    ],
)
def test_features_of_image_flows_are_partial_transforms(factor_out, block, mode):
    flow, x = image_flow(factor_out, block), images()
    forward = tf.function(forward_features, autograph=False) if mode == "graph" else forward_features
    latent, log_det, features = forward(flow, x, seed=1)
    if factor_out:
        value = tf.constant(x)
        for part, feature in zip(flow.flows, features, strict=True):
            value = part.forward(value)
            np.testing.assert_allclose(feature, value, atol=1e-5)
            value = value[..., : value.shape[-1] // 2]
    else:
        ends = [i for i, b in enumerate(flow.bijectors) if isinstance(b, Squeeze2D)] + [len(flow.bijectors) - 1]
        for end, feature in zip(ends, features, strict=True):
            part = Flow(flow.bijectors[: end + 1])
            np.testing.assert_allclose(feature, part.forward(tf.constant(x)), atol=1e-5)
    np.testing.assert_allclose(latent, flow.forward(tf.constant(x)), atol=1e-5)
    expected = flow.forward_log_det_jacobian(tf.constant(x), 3, seed=1)
    np.testing.assert_allclose(log_det + tf.zeros(3), expected, rtol=1e-4)
    shapes = resflow.bijectors.feature_shapes(flow, (8, 8, 1))
    assert shapes == [tuple(feature.shape[1:]) for feature in features]
    assert shapes == [(4, 4, 4), (2, 2, 8), (2, 2, 4)] if factor_out else [(4, 4, 4), (2, 2, 16), (2, 2, 16)]


def test_a_squeeze_before_the_first_scale_ends_none():
    flow = image_flow(squeeze_first=True)
    assert resflow.bijectors.feature_shapes(flow, (8, 8, 1)) == [(2, 2, 16), (1, 1, 64), (1, 1, 64)]


def test_squeezes_of_one_name():
    squeeze, norm = resflow.bijectors.Squeeze2D(), resflow.bijectors.ActNorm((4, 4, 4))
    flow = resflow.bijectors.Flow([squeeze, norm, squeeze, resflow.bijectors.Squeeze2D()])
    assert resflow.bijectors.feature_shapes(flow, (8, 8, 1)) == [(2, 2, 16), (1, 1, 64)]


def test_vectors_have_one_feature():
    flow = resflow.flows.vector_flow(2, 2, (4,))
    latent, _, (feature,) = forward_features(flow, np.ones([3, 2], "float32"), seed=1)
    np.testing.assert_array_equal(feature, latent)
    assert resflow.bijectors.feature_shapes(flow, [2]) == [(2,)]


@pytest.mark.parametrize("factor_out", [False, True])
def test_without_the_log_det_no_series_is_evaluated(factor_out):
    flow, x = image_flow(factor_out), images()
    expected = forward_features(flow, x, seed=1)
    silent = resflow.bijectors.with_log_det(flow, NoSeries())
    latent, log_det, features = forward_features(silent, x, log_det=False, seed=1)
    assert log_det is None
    np.testing.assert_allclose(latent, expected.latent, atol=1e-6)
    for feature, value in zip(features, expected.features, strict=True):
        np.testing.assert_allclose(feature, value, atol=1e-6)
    with pytest.raises(AssertionError, match="was evaluated"):
        forward_features(silent, x, seed=1)


@pytest.mark.parametrize(
    "factor_out, log_det, mode",
    [(False, False, "graph"), (False, True, "eager"), (True, False, "eager"), (True, True, "graph")],
)
def test_each_g_is_evaluated_once(factor_out, log_det, mode, counter):
    def block(name, channels):
        conv = resflow.flows.conv_branch((1, 1, channels), 4, kernels=(1, 1))
        branch = keras.Sequential([keras.Input([1, 1, channels]), counter, conv])
        return resflow.bijectors.ResidualBlock(branch, resflow.logdet.RussianRoulette(), name=name)

    first = [Squeeze2D(), block("a", 4), tfb.Scale(2.0)]
    if factor_out:
        second = Flow([block("b", 2)], name="second")
        flow = MultiscaleFlow([Flow(first, name="first"), second], [2, 2, 1])
    else:
        flow = Flow([*first, Flow([block("b", 4)], name="inner")])

    def forward(x):
        return forward_features(flow, x, log_det, seed=[0, 1])

    forward = tf.function(forward, autograph=False) if mode == "graph" else forward
    forward(tf.random.stateless_normal([3, 2, 2, 1], [0, 1]))
    assert counter.take() == 2


def test_no_value_of_an_earlier_call_is_found():
    """Eagerly, with the same tensor and its output still held, after a variable has changed."""
    flow, x = image_flow(), tf.constant(images())
    before = forward_features(flow, x, seed=1)
    act_norm = flow.bijectors[1]
    act_norm.shift.assign_add([1.0])
    after = forward_features(flow, x, seed=1)
    assert np.all(np.max(np.abs(before.features[0] - after.features[0]), axis=(1, 2, 3)) > 0.1)
    act_norm.shift.assign_sub([1.0])


def test_conditional_flows():
    flow = resflow.flows.vector_flow(2, 1, (4,), condition_size=1)
    x, c = np.ones([3, 2], "float32"), np.ones([3, 1], "float32")
    latent = forward_features(flow, x, conditional_input=c, seed=1).latent
    np.testing.assert_allclose(latent, flow.forward(x, conditional_input=c), rtol=1e-6)
    with pytest.raises(ValueError, match="got sed"):
        forward_features(flow, x, conditional_input=c, sed=1)
