"""Couplings: the parts, one evaluation of the network, conditions, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

import tf_resflow as resflow

pytestmark = pytest.mark.quick
AffineCoupling = resflow.bijectors.AffineCoupling
AdditiveCoupling = resflow.bijectors.AdditiveCoupling
SplineCoupling = resflow.bijectors.SplineCoupling


def is_mapped(shape, split, swap):
    """Returns a mask of the elements of an event that change."""
    index = np.indices(shape)
    if split == "checkerboard":
        return (index[0] + index[1]) % 2 != swap
    mapped = index[-1] >= shape[-1] // 2
    return mapped[..., ::-1] if swap else mapped


@pytest.mark.parametrize(
    ("kind", "swap", "split", "shape", "condition_size", "batch"),
    [
        ("affine", False, "channels", (4, 3, 2), None, [2, 3]),
        ("affine", False, "channels", (5,), None, [6]),
        ("affine", True, "channels", (5,), 3, [6]),
        ("additive", True, "channels", (5,), None, [3, 2]),
        ("affine", True, "checkerboard", (3, 4, 2), None, []),
        ("additive", False, "checkerboard", (3, 4, 2), 2, [2, 3]),
    ],
)
def test_one_part_is_kept_and_determines_the_map_of_the_other(
    kind, swap, split, shape, condition_size, batch, make_coupling, normal
):
    coupling = make_coupling(kind, shape, split, swap, condition_size=condition_size)
    mapped, count = is_mapped(shape, split, swap), int(np.prod(batch))
    x = normal([count, *shape]).numpy()
    given = x[:, ~mapped].reshape(count, *shape[:-1], -1) if split == "channels" else np.where(mapped, 0.0, x)
    given = tf.constant(given)
    conditions = [] if condition_size is None else [0.3 * normal([count, condition_size], 1)]
    output = coupling.network([given, *conditions] if conditions else given).numpy()
    shift, logits = np.split(output, 2, axis=-1) if kind == "affine" else (output, np.full_like(output, np.inf))
    scale = special.expit(logits + 2)
    if split == "checkerboard":
        shift, scale = shift[:, mapped], scale[:, mapped]
    shift, scale = shift.reshape(count, -1), scale.reshape(count, -1)
    y = x.copy()
    y[:, mapped] = scale * x[:, mapped] + shift
    kwargs = {"condition": tf.reshape(conditions[0], [*batch, -1])} if conditions else {}
    x, y, log_det = (np.reshape(a, [*batch, *a.shape[1:]]) for a in (x, y, np.sum(np.log(scale), -1)))
    np.testing.assert_allclose(coupling.forward(x, **kwargs), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coupling.inverse(y, **kwargs), x, atol=1e-5)
    fldj = coupling.forward_log_det_jacobian(tf.identity(x), len(shape), **kwargs)
    assert fldj.shape == batch
    np.testing.assert_allclose(fldj, log_det, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", ["channels", "checkerboard"])
def test_images_of_another_size(split, make_coupling, normal):
    """A convolutional network accepts them, and the checkerboard has the size of the image."""
    small = make_coupling("affine", (2, 2, 2), split)
    channels = 2 if split == "checkerboard" else 1
    large = AffineCoupling(keras.Sequential([keras.Input([3, 5, channels]), *small.network.layers]), split)
    x = normal([2, 3, 5, 2])
    np.testing.assert_allclose(small.forward(x), large.forward(x), atol=1e-6)


def dense(inputs, outputs, dtype="float32", **kwargs):
    return keras.Sequential(
        [keras.Input([inputs], dtype=dtype), keras.layers.Dense(outputs, dtype=dtype, **kwargs)]
    )


def test_the_scale_is_bounded():
    """Logits of +-60 do not overflow: the scale tends to 1, or its logarithm to the logit plus 2."""
    network = dense(1, 2, kernel_initializer="zeros")
    coupling = AffineCoupling(network)
    x = tf.constant([[0.5, 1.0]])
    for logit, log_scale in ((60.0, 0.0), (-60.0, -58.0)):
        network.layers[-1].bias.assign([0.0, logit])
        np.testing.assert_allclose(coupling.forward(tf.identity(x))[0, 1], np.exp(log_scale), rtol=1e-5)
        fldj = coupling.forward_log_det_jacobian(tf.identity(x), 1)
        np.testing.assert_allclose(fldj, [log_scale], atol=1e-5)
        back = coupling.inverse(coupling.forward(tf.identity(x)) + 0.0)
        np.testing.assert_allclose(back, x, rtol=1e-5)


def spline_of(logits, **options):
    """Returns a spline coupling of pairs and its network, whose output is its bias."""
    network = dense(1, len(logits), logits.dtype.name, kernel_initializer="zeros")
    network.layers[-1].bias.assign(logits)
    return SplineCoupling(network, **options)


def pairs_of(values, dtype):
    return tf.stack([tf.zeros(len(values), dtype), tf.constant(values, dtype)], -1)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("jit", [False, True])
def test_a_spline_is_that_of_tfp_inside_the_bound_and_the_identity_outside(dtype, atol, jit):
    num, bound = 5, 3.0
    logits = np.random.default_rng(0).normal(size=3 * num - 1).astype(dtype)
    sizes = [2 * bound * (1e-3 + (1 - 1e-3 * num) * special.softmax(part)) for part in np.split(logits[:-4], 2)]
    slopes = 1e-3 + np.logaddexp(0, logits[-4:] + np.log(np.expm1(1 - 1e-3)))
    expected = tfp.bijectors.RationalQuadraticSpline(*sizes, slopes.astype(dtype), range_min=-bound)
    coupling, x = spline_of(logits, num_bins=num, bound=bound), np.linspace(-4.0, 4.0, 100)
    pairs = pairs_of(x, dtype)
    values = tf.function(lambda x: (coupling.forward(x), coupling.forward_log_det_jacobian(x, 1)), jit_compile=jit)
    y, log_det = values(pairs)
    np.testing.assert_allclose(y[:, 1], expected.forward(x.astype(dtype)), atol=atol)
    np.testing.assert_allclose(log_det, expected.forward_log_det_jacobian(x.astype(dtype)), atol=10 * atol)
    np.testing.assert_array_equal(y[np.abs(x) >= bound], pairs[np.abs(x) >= bound])
    np.testing.assert_allclose(tf.function(coupling.inverse, jit_compile=jit)(y + 0.0), pairs, atol=10 * atol)


@pytest.mark.parametrize("bound", [0.5, 5.0])
def test_a_spline_starts_as_the_identity(bound, normal):
    coupling = spline_of(np.zeros(23, "float32"), bound=bound)
    x = normal([100, 2])
    np.testing.assert_allclose(coupling.forward(x), x, atol=2e-6)
    np.testing.assert_allclose(coupling.inverse(x), x, atol=2e-6)
    np.testing.assert_allclose(coupling.forward_log_det_jacobian(tf.identity(x), 1), np.zeros(100), atol=2e-6)


@pytest.mark.parametrize("scale", [10.0, 1e4, 1e30])
def test_steep_splines_are_finite(scale):
    """For scale 10, the inverse of TFP's spline is NaN at some of these points."""
    rng = np.random.default_rng(0)
    logits = tf.constant(scale * rng.normal(size=[20_000, 23]), tf.float32)
    coupling = SplineCoupling(keras.Sequential([keras.Input([23]), keras.layers.Dense(23)]))
    x = np.concatenate([rng.uniform(-5.0, 5.0, 19_994), [-5.0, 5.0, 0.0, 1e30, -1e30, np.inf]])
    for inverse in (False, True):
        b = tf.constant(x, tf.float32)[:, tf.newaxis]
        if inverse:
            b, _ = coupling._map(b, logits, False)
        with tf.GradientTape() as tape:
            tape.watch([b, logits])
            value, log_slope = coupling._map(b, logits, inverse)
        gradients = tape.gradient([value, log_slope], [b, logits])
        np.testing.assert_array_equal(value[-3:], b[-3:])
        assert np.all(np.isfinite(value[:-1])) and np.all(np.isfinite(log_slope)), inverse
        assert scale > 1e4 or all(np.all(np.isfinite(gradient)) for gradient in gradients), inverse


def values_near(knots, bound):
    """Returns the knots, the three numbers next to them on both sides, and values on both sides and outside."""
    values = [knots]
    for direction in (np.inf, -np.inf):
        moved = knots
        for _ in range(3):
            moved = np.nextafter(moved, knots.dtype.type(direction))
            values.append(moved)
    values += [knots + 1e-4 * bound, knots - 1e-4 * bound, np.array([0.0, -2.0 * bound, 2.0 * bound])]
    return np.concatenate(values).astype(knots.dtype)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "scale", "rtol"), [("float32", 1.0, 1e-2), ("float64", 1.0, 1e-9), ("float64", 3.0, 1e-5)]
)
def test_the_slope_at_knots_is_that_of_the_log_determinant(dtype, scale, rtol, inverse):
    """Gradients in the parameters equal central differences. Bins of equal size have a knot at zero."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        num, bound = int(rng.integers(2, 12)), float(rng.choice([0.5, 3.0, 5.0]))
        logits = rng.normal(size=3 * num - 1) * (scale if seed else 0.0)
        logits[: 2 * num] *= seed % 3 > 0
        widths, heights = logits[:num], logits[num : 2 * num]
        sizes = 2 * bound * (1e-3 + (1 - 1e-3 * num) * special.softmax(heights if inverse else widths))
        knots = tf.cumsum(tf.constant(sizes, dtype), exclusive=True) - bound
        x = values_near(np.append(knots.numpy(), np.asarray(bound, dtype)), bound)[:, np.newaxis]
        coupling = spline_of(np.zeros(3 * num - 1, dtype), num_bins=num, bound=bound)
        b, tiled = tf.constant(x), tf.tile(tf.constant([logits], dtype), [len(x), 1])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([b, tiled])
            y, log_slope = coupling._map(b, tiled, inverse)
        np.testing.assert_allclose(tape.gradient(y, b), np.exp(log_slope), rtol=rtol, err_msg=f"seed {seed}")
        gradients = tape.gradient(y, tiled), tape.gradient(log_slope, tiled)
        assert np.all(np.isfinite(gradients))
        if dtype == "float64" and scale == 1.0:  # steeper splines bend too much for differences
            step = 1e-7 * rng.normal(size=logits.shape)
            ends = [coupling._map(b, tiled + sign * step, inverse) for sign in (1, -1)]
            change = (ends[0][0] - ends[1][0]) / 2.0
            found = tf.reduce_sum(gradients[0] * step, axis=-1, keepdims=True)
            np.testing.assert_allclose(found, change, rtol=1e-3, atol=1e-10, err_msg=f"seed {seed}")


def test_invalid_networks_and_inputs(make_coupling, refused):
    three = keras.Model(inputs := [keras.Input([1]) for _ in range(3)], keras.layers.Add()(inputs))
    to_image = r"maps \(2,\) to \(4,\)\..*\[H, W, C\] to \[H, W, 2 C\]"
    refused("split='rows'; .*'channels' or 'checkerboard'", AffineCoupling, dense(2, 4), split="rows")
    refused(r"maps \(2,\) to \(3,\).*\[..., 2 C_b\]", AffineCoupling, dense(2, 3))
    refused(to_image, AffineCoupling, dense(2, 4), split="checkerboard")
    refused(r"maps \(2,\) to \(4,\).*\[..., 23 C_b\]", SplineCoupling, dense(2, 4))
    refused("num_bins=1, bound=5.0. Use 2 to 500 bins", SplineCoupling, dense(1, 2), num_bins=1)
    refused("bound=0.0. Use .* a positive bound", SplineCoupling, dense(1, 23), bound=0.0)
    refused("at least two channels", resflow.flows.vector_flow, 1, affine_layers=(1, 0), affine=SplineCoupling)
    refused(r"one input, or two.* one output", AdditiveCoupling, three)
    refused(r"events of shape \(4, 4, 2\)", make_coupling("affine", (4, 4, 2)).inverse, tf.zeros([4, 2]))
