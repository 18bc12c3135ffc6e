"""Conditional models compared with linear algebra: densities, samples, `fit`, weights and wrong input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import tf_resflow as resflow
from tf_resflow import evaluation
from tf_resflow.models.flow_model import sample_latent

EXACT = resflow.logdet.Exact()
A = np.array([[0.3, -0.2], [0.1, 0.4]])
B = np.array([[1.0, -0.5], [0.0, 2.0], [0.5, 0.5]])
MEAN, STD = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 1.5])


def affine_model(**kwargs):
    """The density of x such that x + A' x + B' c + (0.1, 0.2) is standard normal."""
    x, c = keras.Input([2]), keras.Input([3])
    dense, condition = resflow.layers.LipschitzDense(2, 0.9), keras.layers.Dense(2, name="condition")
    branch = keras.Model([x, c], keras.layers.Add()([dense(x), condition(c)]))
    dense.kernel.assign(A)
    condition.kernel.assign(B)
    condition.bias.assign([0.1, 0.2])
    block = resflow.bijectors.ResidualBlock(branch, EXACT, has_condition=True, name="block")
    options = {"evaluation_log_det_estimator": EXACT, **(kwargs or {"condition_shape": [3]})}
    return resflow.FlowModel(resflow.bijectors.Flow([block]), [2], **options)


def plain_model():
    return resflow.FlowModel(resflow.bijectors.Flow([resflow.bijectors.ActNorm([2])]), [2])


def latents(x, c):
    return x @ (np.eye(2) + A) + c @ B + [0.1, 0.2]


def expected_log_prob(x, c):
    return stats.norm.logpdf(latents(x, c)).sum(-1) + np.linalg.slogdet(np.eye(2) + A)[1]


@pytest.fixture(scope="module")
def model():
    return affine_model()


@pytest.fixture(scope="module")
def labeled():
    return affine_model(num_classes=3)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    x, c = generator.normal(size=[16, 2]), generator.normal(size=[16, 3])
    return x.astype("float32"), c.astype("float32"), generator.integers(3, size=16)


def test_log_prob_of_each_kind_of_condition(model, labeled, data):
    x, c, labels = data
    standardized, one_hot = affine_model(condition_shape=[3], condition_mean=MEAN, condition_std=STD), np.eye(3)
    cases = [(model, c, c), (model, c[0], c[:1]), (model, c[:1], c[:1]), (standardized, MEAN + STD * c, c)]
    cases += [(labeled, each, one_hot[labels]) for each in (labels, labels.astype("uint8"))]
    cases += [(model, np.round(c).astype(int), np.round(c))]
    for each, given, seen in cases:
        found = each.log_prob(x, condition=given)
        np.testing.assert_allclose(found, expected_log_prob(x, seen), rtol=3e-5)


def test_a_network_of_the_condition(data, tmp_path, refused):
    """It receives standardized conditions, is trained with the flow, and is saved with the model."""
    x, c, _ = data
    images = np.random.default_rng(1).normal(1.0, 2.0, size=[16, 2, 2]).astype("float32")

    def build(**changes):
        layers = [keras.layers.Flatten(), keras.layers.Dense(3, **changes)]
        network = keras.Sequential([keras.Input([2, 2]), *layers])
        statistics = {"condition_mean": np.ones([2, 2]), "condition_std": np.full([2, 2], 2)}
        return affine_model(condition_shape=[2, 2], condition_network=network, **statistics)

    model = build()
    kernel = model.condition.network.layers[1].kernel
    before = kernel.numpy()
    expected = expected_log_prob(x, ((images - 1) / 2).reshape([-1, 4]) @ before)
    np.testing.assert_allclose(model.log_prob(x, condition=images), expected, rtol=1e-4)
    fitted([x, images], model)
    assert np.min(np.max(np.abs(kernel.numpy() - before), axis=0)) > 1e-3
    log_probs = model.log_prob(x, condition=images)
    model.save_weights(tmp_path / "a.weights.h5")
    other = build(kernel_initializer="zeros")
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(other.log_prob(x, condition=images), log_probs, rtol=1e-5)
    message = "activation is 'linear' in the file, 'relu' in the model"
    refused(message, build(activation="relu").load_weights, tmp_path / "a.weights.h5")
    path = resflow.serving.export(model, tmp_path / "served", signatures=["serving_default"])
    served = tf.saved_model.load(path).signatures["serving_default"]
    found = served(x=tf.constant(x), condition=tf.constant(images))["log_prob"]
    np.testing.assert_allclose(found, log_probs, rtol=1e-4)


def test_latents_and_samples(model, labeled, data):
    x, c, labels = data
    z = latents(x, c)
    np.testing.assert_allclose(model.encode(x, condition=c), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.decode(z, condition=c), x, rtol=1e-4, atol=1e-5)
    z, inverse = sample_latent(model.distribution.distribution, 16, seed=3).numpy(), np.linalg.inv(np.eye(2) + A)
    drawn = np.concatenate(list(evaluation.Sampler(labeled)(16, seed=3, condition=labels)))
    pairs = [(model.sample([], 3, condition=c), c @ B), (labeled.sample(16, 3, condition=2), B[2])]
    for sample, shift in [*pairs, (drawn, B[labels])]:
        np.testing.assert_allclose(sample, (z - shift - [0.1, 0.2]) @ inverse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_conditions_are_a_batch_of_distributions(model, labeled, data, compiled):
    """As in TFP: the shapes of samples, and log-densities of x for each shape that broadcasts with 3 conditions."""
    c = data[1][:3]
    run = tf.function if compiled else lambda function, **_: function
    cases = [((5, 3), c, c), ((5, 1), c, c), ((1,), c, c), ((3,), c, c), ((5, 1), [2, 0], np.eye(3)[[2, 0]])]
    cases += [((5,), c[0], c[0]), ((5,), c[:1], c[:1]), ((2, 5), c[0], c[0]), ((5, 3), c[np.newaxis], c)]
    for batch, given, seen in cases:
        which = labeled if isinstance(given, list) else model
        x = np.random.default_rng(1).normal(size=[*batch, 2]).astype("float32")
        expected = expected_log_prob(x, seen)
        log_prob = run(lambda x, c, which=which: which.log_prob(x, condition=c), autograph=False)
        np.testing.assert_allclose(log_prob(tf.constant(x), tf.constant(given)), expected, rtol=1e-4)
        np.testing.assert_allclose(which.as_distribution(given).log_prob(x), expected, rtol=1e-4)
        z = which.encode(x, condition=given)
        np.testing.assert_allclose(z, latents(x, seen), rtol=1e-4, atol=1e-5)
        full = np.broadcast_to(x, z.shape)
        np.testing.assert_allclose(which.decode(z, condition=given), full, rtol=1e-4, atol=1e-5)
    for num, given, shape in [
        (4, c, [4, 3]),
        ([], c, [3]),
        (3, c, [3, 3]),
        ([4, 2], c[0], [4, 2]),
        (4, c[:1], [4, 1]),
    ]:
        draw = run(lambda num=num, given=given: model.sample(num, 1, condition=given), autograph=False)
        assert draw().shape == [*shape, 2] == model.as_distribution(given).sample(num, seed=1).shape
    # The mean of each distribution is at the latent 0. 4 standard errors of 1,000 draws of at most unit variance.
    means = -(c @ B + [0.1, 0.2]) @ np.linalg.inv(np.eye(2) + A)
    draws = model.sample(1000, 1, condition=c).numpy()
    np.testing.assert_allclose(draws.mean(0), means, atol=4 / np.sqrt(1000))
    assert len(np.unique((draws - means).round(4)[..., 0])) > 2500  # independent over the batch


def test_a_distribution_given_conditions(model, data, refused):
    """It is differentiable in c inside of a tf.function, and its one-dimensional relatives have quantiles."""
    x, c, _ = data

    @tf.function(autograph=False)
    def gradient(c):
        with tf.GradientTape() as tape:
            tape.watch(c)
            log_prob = model.as_distribution(c).log_prob(x)
        return tape.gradient(log_prob, c)

    np.testing.assert_allclose(gradient(tf.constant(c)), -latents(x, c) @ B.T, rtol=1e-3, atol=1e-4)
    levels = np.array([[0.05], [0.5], [0.95]])
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
        flow = resflow.flows.vector_flow(1, 2, (8,), condition_size=3, dtype=dtype)
        density = resflow.FlowModel(flow, 1, condition_shape=[3]).as_distribution(c)
        quantiles = density.quantile(levels)
        assert quantiles.shape == [3, 16, 1] and quantiles.dtype == dtype
        np.testing.assert_allclose(density.cdf(quantiles), np.broadcast_to(levels, [3, 16]), atol=tolerance)
    unconditional = resflow.FlowModel(resflow.flows.vector_flow(1, 1, (8,)), 1).as_distribution()
    np.testing.assert_allclose(unconditional.cdf(unconditional.quantile(0.3)), 0.3, atol=1e-5)
    refused("Only one coordinate has quantiles", model.as_distribution(c).quantile, 0.5, error=NotImplementedError)
    refused("models integers", affine_model(num_classes=3, levels=4).as_distribution, 1)


def test_classes_by_bayes_and_scores_of_their_mixture(model, labeled, data):
    x, c, labels = data
    every = np.stack([expected_log_prob(x, np.eye(3)[k]) for k in range(3)], axis=1)
    np.testing.assert_allclose(evaluation.LogLikelihood(labeled).by_class(x), every, rtol=1e-5)
    mixed, given = special.logsumexp(every, axis=1, b=1 / 3), every[np.arange(16), labels]
    cases = [(labeled, x, mixed), (labeled, (x, labels), given), (model, (x, c), expected_log_prob(x, c))]
    for scored, batch, expected in cases:
        found = evaluation.LogLikelihood(scored).score_examples([batch], seed=0)["log_prob"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Classes share random numbers, so their estimates are equal if the flow ignores the class.
    model, x = affine_model(num_classes=3, levels=4), np.random.default_rng(0).integers(4, size=[5, 2])
    kernel = model.flow.bijectors[0].branch.get_layer("condition").kernel
    kernel.assign(tf.zeros_like(kernel))
    likelihood = evaluation.LogLikelihood(model)
    values = likelihood.by_class(x, seed=1).numpy()
    np.testing.assert_allclose(values, np.tile(values[:, :1], [1, 3]), rtol=1e-5)
    assert np.all(values[:, 0] != likelihood.by_class(x, seed=2)[:, 0])


def fitted(arguments, model=None, batch_size=8, **kwargs):
    """Returns the weights after two steps of gradient descent, and the losses."""
    model = model or affine_model()
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
    history = model.fit(*arguments, batch_size=batch_size, shuffle=False, verbose=0, **kwargs)
    return [w.numpy() for w in model.trainable_weights], history.history


def assert_same(one, other, rtol=1e-5):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def test_what_fit_and_evaluate_take(data):
    """Two arguments, a pair, and a data set of pairs give the same steps. Labels are one-hot conditions."""
    x, c, labels = data
    expected, _ = fitted([x, c])
    start = [w.numpy() for w in affine_model().trainable_weights]
    assert max(np.max(np.abs(a - b)) for a, b in zip(expected, start, strict=True)) > 0.01
    pairs = tf.data.Dataset.from_tensor_slices((x, c)).batch(8)
    fresh = affine_model()
    fresh.compile(optimizer="sgd", run_eagerly=True)
    for arguments, size in (([x, c], 8), ([(x, c)], 8), ([pairs], None)):
        assert_same(fitted(arguments, batch_size=size)[0], expected)
        loss = fresh.evaluate(*arguments, batch_size=size, verbose=0)
        assert loss == pytest.approx(-np.mean(expected_log_prob(x, c)), rel=1e-5)
    one_hot = np.eye(3, dtype="float32")[labels]
    assert_same(fitted([x, labels], affine_model(num_classes=3))[0], fitted([x, one_hot])[0])
    assert fresh((x, c)).shape == fresh.predict((x, c), verbose=0).shape == (16,)


def test_weights_of_examples(data):
    """The gradient and the reported loss are those of the mean weighted loss."""
    x, c, _ = data
    weights = np.random.default_rng(1).uniform(0, 2, size=16).astype("float32")
    model = affine_model()
    variables = [w.value for w in model.trainable_weights]
    with tf.GradientTape() as tape:
        expected = -tf.reduce_mean(weights * model.log_prob(x, condition=c))
    gradients = tape.gradient(expected, variables)
    model.compile(optimizer=keras.optimizers.SGD(1.0), run_eagerly=True)
    for given in (weights, weights[:, np.newaxis]):
        loss = model.evaluate(x, c, sample_weight=given, verbose=0)
        assert loss == pytest.approx(-np.mean(weights * expected_log_prob(x, c)), rel=1e-5)
    start = [v.numpy() for v in variables]
    metrics = resflow.models.train_step(model, (x, c), tf.constant([0, 1]), weights)
    moved = [a - v.numpy() for a, v in zip(start, variables, strict=True)]
    assert_same(moved, gradients, rtol=1e-4)
    assert float(metrics["nats"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("make", [lambda: affine_model(num_classes=3), plain_model])
def test_class_weights_and_sample_weights_of_fit(data, make):
    """One class has weight 0. In an unconditional model, labels only select weights."""
    x, _, labels = data
    weights = np.array([1.0, 0.0, 2.0])[labels]
    expected, history = fitted([x, labels], make(), sample_weight=weights)
    assert_same(fitted([x, labels], make(), class_weight={0: 1.0, 1: 0.0, 2: 2.0})[0], expected)
    unweighted, plain = fitted([x, labels], make())
    assert any(np.any(np.abs(a - b) > 1e-3) for a, b in zip(unweighted, expected, strict=True))
    assert abs(history["loss"][0] - plain["loss"][0]) > 1e-2
    if make is plain_model:
        assert_same(fitted([x], make(), sample_weight=weights)[0], expected)


def test_weights_of_validation_data(data):
    """Checks each form of the data, with and without a condition, for a learning rate of 0."""
    x, c, _ = data
    weights = np.random.default_rng(1).uniform(0, 2, size=16).astype("float32")
    initialized = -stats.norm.logpdf(x, x.mean(0), x.std(0)).sum(-1)  # by fit
    as_triples = tf.data.Dataset.from_tensor_slices((x, c, weights)).batch(16)
    for model, arguments, losses, forms in (
        (plain_model(), [x], initialized, [(x, None, weights), [x, None, weights]]),
        (affine_model(), [x, c], -expected_log_prob(x, c), [((x, c), None, weights), as_triples]),
    ):
        model.compile(optimizer=keras.optimizers.SGD(0.0), run_eagerly=True)
        for form in forms:
            history = model.fit(*arguments, validation_data=form, batch_size=16, verbose=0).history
            assert history["val_loss"] == pytest.approx([np.mean(weights * losses)], rel=1e-5)


def test_wrong_arguments_of_a_model(refused):
    plain, has_condition = (resflow.flows.vector_flow(2, 1, (4,), condition_size=size) for size in (None, 3))
    mean, zero = {"condition_mean": [0.0] * 3}, {"condition_std": [1.0, 0.0, 1.0]}
    for message, flow, arguments in [
        ("expect conditions of shape .*block0.* but the model passes None", has_condition, {}),
        ("expect conditions of shape None, but the model passes \\(3,\\)", plain, {"condition_shape": [3]}),
        ("For labels, give num_classes= alone", has_condition, {"num_classes": 3, **mean}),
        ("give condition_shape= .and condition_mean= with", has_condition, {"condition_shape": [3], **mean}),
        ("condition_std is .*, but must be positive", has_condition, {"condition_shape": [3], **mean, **zero}),
    ]:
        refused(message, resflow.FlowModel, flow, [2], **arguments)


def test_wrong_conditions_of_a_call(model, labeled, data, refused):
    x, c, labels = data
    errors = (ValueError, tf.errors.InvalidArgumentError)
    for message, which, condition in [
        ("is conditional. Give condition=, .* numbers of shape \\(3,\\)", model, None),
        ("float32 and the shape \\(16, 2\\).* real numbers of shape \\(3,\\)", model, c[:, :2]),
        ("conditions (with|of).* shape \\(5,.*Give one", model, c[:5]),
        ("dtype float32 .* a label 0, ..., 2", labeled, c[:, 0]),
        ("labels must be integers 0, ..., 2", labeled, [-1, 2] * 8),
        ("is not conditional. Leave out condition=", plain_model(), c),
    ]:
        for call in (which.log_prob, which.encode, which.decode, which.initialize):
            refused(message, call, x, condition=condition, error=errors)
    refused(
        "has no classes. Pass a model that was built with num_classes=", evaluation.LogLikelihood(model).by_class, x
    )


def test_conditions_that_do_not_broadcast(model, labeled, data, refused):
    """Training needs a condition for each example: labels in a column would pair each example with each label."""
    x, c, labels = data
    refused("batch shape \\(16,\\), but conditions .* \\(3,\\). Give one", model.log_prob, x, condition=c[:3])
    labeled.compile(optimizer="sgd", run_eagerly=True)
    refused("needs one batch axis, with a condition for each", labeled.fit, x, labels[:, np.newaxis], verbose=0)


def test_wrong_arguments_of_fit(data, refused):
    x, c, _ = data
    model, plain = affine_model(), plain_model()
    for each in (model, plain):
        each.compile(optimizer="sgd", run_eagerly=True)
    errors = (ValueError, tf.errors.InvalidArgumentError)
    for message, which, arguments, options in [
        ("conditions or labels, but y is missing. Call fit\\(x, y\\)", model, [x], {}),
        ("examples and their conditions or labels", model, [x, c], {"validation_data": (x,)}),
        ("class_weight, but no labels. Give sample_weight", model, [x, c], {"class_weight": {0: 1.0}}),
        ("class_weight, but no labels. Give sample_weight", plain, [x], {"class_weight": {0: 1.0}}),
        (r"has the shape \(.*2\). Pass one number", model, [x, c], {"sample_weight": np.ones([16, 2], "float32")}),
        (r"has the shape \(.*3\). Pass one number", plain, [x], {"sample_weight": np.ones([16, 3], "float32")}),
    ]:
        refused(message, which.fit, *arguments, verbose=0, error=errors, **options)
