"""HybridModel: losses and gradients compared with dense Jacobians, classification and wrong arguments."""

import math
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import tf_resflow as resflow
from tf_resflow import bijectors, flows, models

SHAPE = (4, 4, 1)
SIZE = 16
EXACT = resflow.logdet.Exact()


def make_model(density_weight=1.0, levels=None, log_det_estimator=EXACT, dtype="float32"):
    """Builds a model of 4 x 4 images with two scales of one block, four features per head and three classes."""
    options = {"num_fc_blocks": 0, "logit_alpha": None, "mean": [0.5], "std": [0.25], "inv_1x1_conv": True}
    options |= {"block": flows.residual_image_block(log_det_estimator=log_det_estimator), "kernels": (3, 1)}
    flow = flows.image_flow(SHAPE, (1, 1), 4, dtype=dtype, **options)
    classifier = flows.multiscale_classifier(flow.feature_shapes(SHAPE), 3, num_features=4, dtype=dtype)
    options = {"levels": levels, "density_weight": density_weight}
    options["evaluation_log_det_estimator"] = log_det_estimator
    model = resflow.HybridModel(flow, classifier, SHAPE, **options)
    model.initialize(images(levels=levels)[0])
    return model


def images(num=8, levels=None):
    """Returns images, and labels of three classes."""
    random = np.random.default_rng(0)
    x, labels = random.uniform(size=[num, *SHAPE]), random.integers(3, size=num)
    return (x.astype("float32") if levels is None else np.floor(x * levels).astype("uint8")), labels


def test_a_classifier_of_another_dtype():
    """The losses have the dtype of the density, float64."""
    block = flows.residual_image_block(log_det_estimator=EXACT)
    options = {"num_fc_blocks": 0, "logit_alpha": None, "block": block, "kernels": (3, 1), "dtype": "float64"}
    flow = flows.image_flow(SHAPE, (1,), 4, **options)
    for dtype in ("float32", "mixed_bfloat16"):  # these would round the sums over examples
        classifier = flows.multiscale_classifier(flow.feature_shapes(SHAPE), 3, num_features=4, dtype=dtype)
        losses = resflow.HybridModel(flow, classifier, SHAPE).example_losses(images(), seed=[0, 1], training=True)
        assert {loss.dtype for loss in losses.values()} == {tf.float64}


def partial_values(model, x):
    """Returns the latent, and the values after each scale, by applying each member."""

    def through(members, x):
        for b in members:
            x = b.forward_pass(x, bijectors.base.Context(compute_log_det=False)).value
        return x

    members = model.flow.bijectors
    (squeeze,) = [i for i, b in enumerate(members) if isinstance(b, bijectors.Squeeze2D)]
    whole = through(members[: squeeze + 1], x)
    last = through(members[squeeze + 1 :], whole)
    return tf.reshape(last, [-1, SIZE]), [whole, last]


def direct_loss(model, x, labels):
    """Returns -log p(y | x) - weight / D log p(x) in nats, by dense Jacobians, and its parts."""
    latent, features = partial_values(model, x)
    copies = tf.repeat(x, SIZE, 0)  # each copy gives the gradient of one coordinate
    with tf.GradientTape() as tape:
        tape.watch(copies)
        outputs, _ = partial_values(model, copies)
    rows = tape.gradient(outputs, copies, tf.tile(tf.eye(SIZE, dtype=x.dtype), [len(x), 1]))
    log_det = tf.linalg.slogdet(tf.reshape(rows, [-1, SIZE, SIZE]))[1]
    log_prob = log_det - 0.5 * tf.reduce_sum(latent**2, -1) - 0.5 * SIZE * math.log(2 * math.pi)
    log_probabilities = tf.math.log_softmax(model.classifier(features))
    cross_entropy = -tf.gather(log_probabilities, labels, batch_dims=1)
    return cross_entropy - model.density_weight / SIZE * log_prob, cross_entropy, log_prob


def test_loss_and_gradients():
    model = make_model(10.0, dtype="float64")
    x, labels = images()
    x = tf.constant(x, tf.float64)
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        losses = model.example_losses((x, labels), seed=0, training=True)
        expected, cross_entropy, log_prob = direct_loss(model, x, labels)
    gradients, slopes = (
        tape.gradient(loss, variables, unconnected_gradients="zero") for loss in (losses["loss"], expected)
    )
    for name, value in (("loss", expected), ("cross_entropy", cross_entropy), ("nats", -log_prob)):
        np.testing.assert_allclose(losses[name], value, rtol=1e-9)
    for variable, gradient, slope in zip(variables, gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9, err_msg=variable.name)
    assert all(np.any(slope != 0) for slope in slopes[:3])


@pytest.fixture(scope="module")
def of_integers():
    model = make_model(3.0, levels=256, log_det_estimator=resflow.logdet.RussianRoulette(1), dtype="float64")
    return model, *images(levels=256)


def test_parts_in_bits_and_classes(of_integers):
    """bits/dim agree with the log-likelihood, and the cross entropy agrees with the softmax of the logits."""
    model, x, labels = of_integers
    losses = model.example_losses((x, labels), seed=[1, 2])
    log_prob = model.density.log_prob(x, seed=[1, 2]).numpy()
    np.testing.assert_allclose(losses["bits_per_dim"], -log_prob / (SIZE * math.log(2)), rtol=1e-5)
    loss = losses["cross_entropy"] + 3 * losses["bits_per_dim"]
    np.testing.assert_allclose(losses["loss"], loss, rtol=1e-6)
    # Dequantization changes the logits slightly compared with the centers of the cells.
    logits = model.classify(x)["logits"].numpy().astype(np.float64)
    expected = -special.log_softmax(logits, -1)[np.arange(len(labels)), labels] / math.log(2)
    np.testing.assert_allclose(losses["cross_entropy"], expected, atol=0.05)
    right = logits.argmax(-1) == labels
    assert 0 < right.mean() < 1
    np.testing.assert_array_equal(losses["accuracy"], right)
    _, features = partial_values(model, tf.constant((x + 0.5) / 256))
    np.testing.assert_allclose(logits, model.classifier(features), rtol=1e-4, atol=1e-5)
    probabilities = model.classify(x)["probabilities"]
    np.testing.assert_allclose(probabilities, special.softmax(logits, -1), rtol=1e-5)
    np.testing.assert_array_equal(model(x), probabilities)


def test_heads_are_initialized(of_integers):
    model, _, _ = of_integers
    x, _ = images(64, levels=256)
    model.initialize(x, seed=3)
    _, features = partial_values(model, model.density.prepare(x, resflow.stateless_seed(3)))
    for i, feature in enumerate(features):
        conv, act_norm = [model.classifier.get_layer(f"scale{i}_{name}") for name in ("conv", "act_norm")]
        value = act_norm(conv(feature))
        np.testing.assert_allclose(np.mean(value, (0, 1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(np.std(value, (0, 1, 2)), 1.0, rtol=1e-3)


def test_a_classifier_alone_evaluates_no_log_determinants():
    model = make_model(0.0, levels=256, log_det_estimator=mock.Mock(side_effect=AssertionError))
    model.compile(optimizer="sgd", run_eagerly=True)
    x, labels = images(levels=256)
    assert set(model.example_losses((x, labels), seed=0, training=True)) == {"loss", "cross_entropy", "accuracy"}
    history = model.fit(x, labels, batch_size=4, verbose=0).history
    assert sorted(history) == ["accuracy", "cross_entropy", "loss"]
    assert len(model.evaluate(x, labels, verbose=0)) == 3
    assert model.trained_density() is None


@pytest.fixture(scope="module")
def plane():
    """Builds a model of vectors."""
    feature = keras.Input([2])
    classifier = keras.Model([feature], keras.layers.Dense(2)(feature))
    flow = flows.vector_flow(2, 1, (6,), log_det_estimator=EXACT)
    model = resflow.HybridModel(flow, classifier, [2], evaluation_log_det_estimator=EXACT)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    return model


def test_example_weights_affect_only_the_loss(plane):
    model, x, y = plane, np.random.default_rng(0).normal(size=[6, 2]).astype("float32"), np.arange(6) % 2
    weights = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "float32")
    seed = tf.constant([0, 1])
    losses = {name: value.numpy() for name, value in model.example_losses((x, y), seed, training=True).items()}
    metrics = models.train_step(model, (x, y), seed, weights)
    assert float(metrics["loss"]) == pytest.approx(np.mean(weights * losses["loss"]), rel=1e-5)
    for name in ("accuracy", "cross_entropy", "nats"):
        assert float(metrics[name]) == pytest.approx(np.mean(losses[name]), rel=1e-5)


def test_wrong_arguments(plane, refused):
    refused(r"fit\(x, y\)", plane.fit, np.zeros([4, 2], "float32"), verbose=0)
    refused("not built", resflow.HybridModel, plane.flow, keras.layers.Dense(2), [2])
    for weight in (-1.0, math.inf, math.nan):
        message, arguments = "density_weight is .*, but must be at least 0", (plane.flow, plane.classifier, [2])
        refused(message, resflow.HybridModel, *arguments, density_weight=weight)
