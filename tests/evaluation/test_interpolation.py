import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from absl import logging

import tf_resflow as resflow
from tf_resflow.evaluation import interpolate_corners, interpolate_examples, interpolate_pairs, interpolation

tfd = tfp.distributions
MEAN = np.array([2.0, -1.0])
B = np.array([[1.0, -0.5], [0.0, 2.0], [0.5, 0.5]])


def linear_model():
    """z = 1.5 x with a base of mean MEAN, so that x = (MEAN + mixture of (1.5 x_i - MEAN)) / 1.5."""
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, 0.9)])
    branch.layers[0].kernel.assign(0.5 * np.eye(2))
    flow = resflow.bijectors.Flow([resflow.bijectors.ResidualBlock(branch)])
    base = tfd.MultivariateNormalDiag(MEAN.astype(np.float32), [1.0, 1.0])
    return resflow.FlowModel(flow, [2], base=base)


def mixture(weights, points):
    return (MEAN + sum(w * (1.5 * x - MEAN) for w, x in zip(weights, points, strict=True))) / 1.5


def test_pairs():
    first, second = np.random.default_rng(0).normal(size=[2, 5, 2]).astype(np.float32)
    paths = interpolate_pairs(linear_model(), first, second, num=4, seed=0)
    assert paths.shape == (5, 4, 2)
    for i, angle in enumerate([0, np.pi / 6, np.pi / 3, np.pi / 2]):
        expected = mixture([np.cos(angle), np.sin(angle)], [first, second])
        np.testing.assert_allclose(paths[:, i], expected, atol=1e-5)
    np.testing.assert_allclose(paths[:, 0], first, atol=1e-5)
    np.testing.assert_allclose(paths[:, -1], second, atol=1e-5)


def test_corners():
    corners = np.random.default_rng(1).normal(size=[4, 2]).astype(np.float32)
    square = interpolate_corners(linear_model(), corners, num=3, seed=0)
    assert square.shape == (3, 3, 2)
    ends = [square[0, 0], square[0, 2], square[2, 0], square[2, 2]]
    np.testing.assert_allclose(ends, corners, atol=1e-5)
    np.testing.assert_allclose(square[1, 1], mixture([0.5] * 4, corners), atol=1e-5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(square[0, 1], mixture([half, half, 0, 0], corners), atol=1e-5)
    np.testing.assert_allclose(square[1, 2], mixture([0, half, 0, half], corners), atol=1e-5)


def conditional_model(**kwargs):
    """z = 1.5 x + B' c, so that x = (z - B' c) / 1.5."""
    x, c = keras.Input([2]), keras.Input([3])
    dense, of_c = resflow.layers.LipschitzDense(2, 0.9), keras.layers.Dense(2)
    branch = keras.Model([x, c], keras.layers.Add()([dense(x), of_c(c)]))
    dense.kernel.assign(0.5 * np.eye(2))
    of_c.kernel.assign(B)
    flow = resflow.bijectors.Flow([resflow.bijectors.ResidualBlock(branch, conditional=True)])
    return resflow.FlowModel(flow, [2], **kwargs)


@pytest.mark.parametrize("labels", [False, True])
def test_conditions_of_a_path(labels):
    """Encoded each under its own; decoded between them: real ones by the squared weights, labels the nearest."""
    model = conditional_model(**({"num_classes": 3} if labels else {"condition_shape": [3]}))
    generator = np.random.default_rng(4)
    x = generator.normal(size=[4, 2]).astype(np.float32)
    given = np.array([2, 0, 1, 1]) if labels else generator.normal(size=[4, 3])
    c = np.eye(3)[given] if labels else given
    z = 1.5 * x + c @ B

    def expected(weights):
        squares = np.square(weights)
        between = c[np.argmax(squares)] if labels else squares @ c
        return (np.dot(weights, z) - between @ B) / 1.5

    paths = interpolate_pairs(model, x[:2], x[2:], num=4, seed=0, condition=(given[:2], given[2:]))
    square = interpolate_corners(model, x, num=4, seed=0, condition=given)
    for i, phi in enumerate(np.linspace(0, np.pi / 2, 4)):
        for k in range(2):
            weights = np.zeros(4)
            weights[[k, k + 2]] = np.cos(phi), np.sin(phi)
            np.testing.assert_allclose(paths[k, i], expected(weights), atol=1e-5)
        for j, psi in enumerate(np.linspace(0, np.pi / 2, 4)):
            weights = np.outer([np.cos(phi), np.sin(phi)], [np.cos(psi), np.sin(psi)]).ravel()
            np.testing.assert_allclose(square[i, j], expected(weights), atol=1e-5)
    if labels:
        chosen = interpolate_examples(model, x, kind="corners", num=2, length=2, condition=given)
        distances = np.linalg.norm(chosen.reshape(4, 1, 2) - x, axis=-1)
        assert sorted(distances.argmin(1)) == [0, 1, 2, 3] and np.all(distances.min(1) < 1e-5)


def test_wrong_conditions_of_a_path():
    model, x = conditional_model(num_classes=3), np.zeros([2, 2], np.float32)
    with pytest.raises(ValueError, match="is conditional: give condition=, for each example a label 0, ..., 2"):
        interpolate_pairs(model, x, x, num=2, seed=0)
    with pytest.raises(
        ValueError, match="condition must be a pair, of the first and of the second examples; got 1"
    ):
        interpolate_pairs(model, x, x, num=2, seed=0, condition=1)
    with pytest.raises(ValueError, match="one condition for each example"):
        interpolate_examples(model, x, kind="pairs", num=1, length=2, condition=np.zeros([3], int))
    with pytest.raises(ValueError, match="has no condition: leave out condition="):
        interpolate_pairs(linear_model(), x, x, num=2, seed=0, condition=(1, 1))


def test_paths_between_images_begin_and_end_with_them():
    flow = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, kernels=(3, 1), num_fc_blocks=0, factor_out=True)
    model = resflow.FlowModel(flow, (4, 4, 1), levels=17)
    images = np.random.default_rng(2).integers(17, size=[4, 4, 4, 1]).astype(np.uint8)
    square = interpolate_corners(model, images, num=2, seed=0)
    assert square.dtype == tf.uint8
    np.testing.assert_array_equal(tf.reshape(square, [4, 4, 4, 1]), images)


def test_wrong_numbers():
    with pytest.raises(ValueError, match="at least 2 points"):
        interpolate_pairs(linear_model(), np.zeros([1, 2]), np.zeros([1, 2]), num=1, seed=0)
    with pytest.raises(ValueError, match="4 corners; got 3"):
        interpolate_corners(linear_model(), np.zeros([3, 2], np.float32), num=2, seed=0)


def test_batches_of_paths_are_those_of_one_call(monkeypatch):
    model, examples = linear_model(), np.random.default_rng(3).normal(size=[9, 2]).astype(np.float32)
    for kind, num, length in (("pairs", 3, 5), ("corners", 4, 4)):
        whole = interpolate_examples(model, examples, kind=kind, num=num, length=length, seed=2**40)
        with monkeypatch.context() as patch:
            patch.setattr(interpolation, "batch_size", lambda shape: 4)
            parts = interpolate_examples(model, examples, kind=kind, num=num, length=length, seed=2**40)
        assert whole.shape == (num, length, 2)
        np.testing.assert_allclose(parts, whole, atol=1e-6)
        ends = whole[[0, -1]][:, [0, -1]] if kind == "corners" else whole[:, [0, -1]]
        distances = np.linalg.norm(ends.reshape(-1, 1, 2) - examples, axis=-1)
        assert np.all(distances.min(axis=1) < 1e-4) and len(set(distances.argmin(axis=1))) == len(distances)


def test_more_pairs_than_examples_make(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    assert (
        len(interpolate_examples(linear_model(), np.zeros([5, 2], np.float32), kind="pairs", num=3, length=2)) == 2
    )
    assert said == ["5 examples make 2 pairs, fewer than the 3 asked for."]
    with pytest.raises(ValueError, match="from one example to another; got 1"):
        interpolate_examples(linear_model(), np.zeros([1, 2], np.float32), kind="pairs", num=3, length=2)
