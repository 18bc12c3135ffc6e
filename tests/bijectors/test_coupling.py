"""What the couplings share: the parts, one evaluation of the network, checkpoints by name, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

AffineCoupling = resflow.bijectors.AffineCoupling
AdditiveCoupling = resflow.bijectors.AdditiveCoupling


def normal(shape, seed=0, dtype="float32"):
    return tf.random.stateless_normal(shape, [7, seed], dtype=dtype)


def is_mapped(shape, split, swap):
    """Which elements of an event change, one by one."""
    mapped = np.zeros(shape, bool)
    for index in np.ndindex(*shape):
        mapped[index] = (index[0] + index[1]) % 2 if split == "checkerboard" else index[-1] >= shape[-1] // 2
    if swap and split == "checkerboard":
        return ~mapped
    return mapped[..., ::-1] if swap else mapped


@pytest.mark.parametrize("kind", ["affine", "additive"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("split", "shape", "condition_size"),
    [
        ("channels", (4, 3, 2), None),
        ("channels", (5,), 3),
        ("checkerboard", (3, 4, 2), None),
        ("checkerboard", (3, 4, 2), 2),
    ],
)
def test_one_part_is_kept_and_says_how_the_other_is_mapped(kind, swap, split, shape, condition_size, make_coupling):
    coupling = make_coupling(kind, shape, split, swap, condition_size=condition_size)
    mapped = is_mapped(shape, split, swap)
    x = normal([6, *shape]).numpy()
    given = np.where(mapped, 0.0, x)
    if split == "channels":
        given = x[..., ~mapped[(0,) * (len(shape) - 1)]]
    condition = {} if condition_size is None else {"conditional_input": 0.3 * normal([6, condition_size], 1)}
    output = coupling.network([tf.constant(given), *condition.values()] if condition else given).numpy()
    shift, scale = output, np.ones_like(output)
    if kind == "affine":
        shift, logits = np.split(output, 2, axis=-1)
        scale = 1 / (1 + np.exp(-(logits + 2)))
    assert np.min(np.abs(scale - 1)) > 1e-4 or kind == "additive"
    y = x.copy()
    if split == "channels":
        channels = mapped[(0,) * (len(shape) - 1)]
        y[..., channels] = scale * x[..., channels] + shift
    else:
        y[:, mapped] = (scale * x + shift)[:, mapped]
        scale = scale[:, mapped]
    np.testing.assert_allclose(coupling.forward(x, **condition), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coupling.inverse(y, **condition), x, atol=1e-5)
    fldj = coupling.forward_log_det_jacobian(tf.constant(x), len(shape), **condition)
    np.testing.assert_allclose(fldj, np.sum(np.log(scale.reshape(6, -1)), -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", ["channels", "checkerboard"])
@pytest.mark.parametrize("batch_shape", [[], [3], [2, 3]])
def test_any_batch_shape(split, batch_shape, make_coupling):
    coupling = make_coupling("affine", (3, 2, 2), split)
    x = normal([6, 3, 2, 2])
    y, fldj = coupling.forward(x), coupling.forward_log_det_jacobian(x, 3)
    count = int(np.prod(batch_shape))
    reshaped = tf.reshape(x[:count], [*batch_shape, 3, 2, 2])
    other = coupling.forward(reshaped)
    assert other.shape == reshaped.shape
    np.testing.assert_allclose(tf.reshape(other, [count, 3, 2, 2]), y[:count], atol=1e-6)
    other_fldj = coupling.forward_log_det_jacobian(tf.identity(reshaped), 3)
    assert other_fldj.shape == batch_shape
    np.testing.assert_allclose(tf.reshape(other_fldj, [-1]), fldj[:count], atol=1e-5)
    np.testing.assert_allclose(coupling.inverse(tf.identity(other)), reshaped, atol=1e-5)


@pytest.mark.parametrize("split", ["channels", "checkerboard"])
def test_images_of_another_size(split, make_coupling):
    """A network of convolutions takes them, and the checkerboard is as large as they are."""
    small = make_coupling("affine", (2, 2, 2), split)
    large = resflow.bijectors.AffineCoupling(
        keras.Sequential([keras.Input([3, 5, 2 if split == "checkerboard" else 1]), *small.network.layers]), split
    )
    x = normal([2, 3, 5, 2])
    np.testing.assert_allclose(small.forward(x), large.forward(x), atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_log_prob_evaluates_the_network_once(mode, make_coupling, counter, density):
    distribution = density(make_coupling("affine", (2,), counter=counter))
    log_prob = distribution.log_prob
    log_prob = tf.function(log_prob, autograph=False) if mode == "graph" else log_prob
    assert log_prob(normal([3, 2])).shape == [3]
    assert counter.take() == 1
    x = distribution.sample(3, seed=1)
    assert counter.take() == 1
    # The log-determinant came with the sample.
    distribution.log_prob(x)
    assert counter.take() == 0


def test_an_inverse_log_det_evaluates_the_network_once(make_coupling, counter):
    flow = resflow.bijectors.Flow([make_coupling("affine", (2,), counter=counter)])
    log_det = flow.inverse_log_det_jacobian(tf.ones([3, 2]), 1)
    assert counter.take() == 1
    x = flow.inverse(tf.ones([3, 2]))
    np.testing.assert_allclose(log_det, -flow.forward_log_det_jacobian(tf.identity(x), 1), rtol=1e-5)


def test_variables_are_those_of_the_network(make_coupling, density):
    coupling = make_coupling("affine", (4, 4, 2))
    expected = {id(v.value) for v in coupling.network.trainable_variables}
    assert {id(v) for v in density(coupling).trainable_variables} == expected
    assert len(coupling.trainable_variables) == len(expected) == 4


def test_checkpoint(make_coupling, tmp_path):
    path = tf.train.Checkpoint(coupling=make_coupling("affine", (3,))).write(str(tmp_path / "c"))
    other = make_coupling("affine", (3,), seed=5)
    x = normal([2, 3])
    expected = make_coupling("affine", (3,)).forward(x)
    assert np.max(np.abs(other.forward(tf.identity(x)) - expected)) > 1e-3
    tf.train.Checkpoint(coupling=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other.forward(tf.identity(x)), expected)
    deeper = AffineCoupling(resflow.flows.dense_coupling_network((3,), (5, 5)))
    with pytest.raises((AssertionError, ValueError)):
        tf.train.Checkpoint(coupling=deeper).read(path).assert_existing_objects_matched()


def test_mixed_precision():
    network = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(6, dtype="mixed_bfloat16", kernel_initializer="ones")]
    )
    coupling = AffineCoupling(network)
    x = normal([4, 6])
    y, fldj = coupling.forward(x), coupling.forward_log_det_jacobian(x, 1)
    assert (coupling.dtype, y.dtype, fldj.dtype) == (tf.float32,) * 3
    # The sum of the first three is both t and r, for each of the others; bfloat16 rounds to 2^-9 relative.
    r = np.sum(x[:, :3], -1, keepdims=True)
    np.testing.assert_allclose(y[:, 3:], x[:, 3:] / (1 + np.exp(-2 - r)) + r, atol=0.03)


def dense(inputs, outputs, **kwargs):
    return keras.Sequential([keras.Input([inputs]), keras.layers.Dense(outputs, **kwargs)])


def test_networks_that_are_rejected():
    with pytest.raises(ValueError, match="not built"):
        AffineCoupling(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="'channels' or 'checkerboard'; got 'rows'"):
        AffineCoupling(dense(2, 4), split="rows")
    with pytest.raises(ValueError, match=r"maps \(2,\) to \(3,\).*2 parameter.*\[..., 2 C_b\]"):
        AffineCoupling(dense(2, 3))
    with pytest.raises(ValueError, match=r"maps \(2,\) to \(4,\).*image \[H, W, C\] to \[H, W, 2 C\]"):
        AffineCoupling(dense(2, 4), split="checkerboard")
    strided = keras.Sequential([keras.Input([4, 4, 1]), keras.layers.Conv2D(2, 2, strides=2)])
    with pytest.raises(ValueError, match=r"maps \(4, 4, 1\) to \(2, 2, 2\)"):
        AffineCoupling(strided)
    half = resflow.flows.coupling_network((4, 4, 2), 3)
    with pytest.raises(ValueError, match=r"\(4, 4, 1\) to \(4, 4, 2\).*1 parameter.*\[H, W, 1 C\]"):
        AdditiveCoupling(half, split="checkerboard")
    three = keras.Model(inputs := [keras.Input([1]) for _ in range(3)], keras.layers.Add()(inputs))
    with pytest.raises(ValueError, match="one input of a known shape, or two with a condition; .* has 3"):
        AdditiveCoupling(three)
    with pytest.raises(ValueError, match="dtype='float64'"):
        AffineCoupling(dense(2, 4, dtype="float64"))


def test_wrong_inputs(make_coupling):
    coupling = make_coupling("affine", (4, 4, 2))
    for call in (coupling.forward, coupling.inverse):
        with pytest.raises(ValueError, match=r"events of shape \(4, 4, 2\).*shape \(3, 4, 4, 3\)"):
            call(tf.zeros([3, 4, 4, 3]))
        with pytest.raises(ValueError, match=r"events of shape \(4, 4, 2\).*shape \(4, 2\)"):
            call(tf.zeros([4, 2]))


def test_conditions(make_coupling):
    """Of any batch shape that broadcasts to that of the events, and of the same size."""
    coupling = make_coupling("affine", (3,), condition_size=2)
    assert coupling.conditional and coupling.condition_shape == [2] and not make_coupling().conditional
    x, c = normal([4, 5, 3]), normal([5, 2], 1)
    y = coupling.forward(x, conditional_input=c)
    for i in range(5):
        np.testing.assert_allclose(coupling.forward(x[:, i], conditional_input=c[i]), y[:, i], atol=1e-6)
    np.testing.assert_allclose(coupling.inverse(tf.identity(y), conditional_input=c), x, atol=1e-5)
    other = coupling.forward(x, conditional_input=c[::-1])
    assert np.min(np.max(np.abs(y - other), axis=(0, 2))[[0, 1, 3, 4]]) > 1e-3
    with pytest.raises(ValueError, match=r"affine_0 needs conditional_input: its network takes \[a, condition\]"):
        coupling.forward(x)
    with pytest.raises(ValueError, match=r"takes conditional_input of shape \(2,\).*shape \(5, 3\)"):
        coupling.forward(x, conditional_input=normal([5, 3]))
    with pytest.raises(ValueError, match="must broadcast to the batch"):
        coupling.inverse(x[0, 0], conditional_input=c)
    with pytest.raises(ValueError, match="takes networks besides the value; got conditional_input"):
        make_coupling().forward(normal([4, 2]), conditional_input=c)
