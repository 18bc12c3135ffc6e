"""HybridModel: loss and gradients against dense Jacobians, learning, saving, serving and replicas."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import tf_resflow as resflow
from tf_resflow import bijectors, flows, models

SHAPE = (4, 4, 1)
SIZE = 16
EXACT = resflow.logdet.Exact()


class NoSeries:
    """An estimator that must not be asked."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("The log-determinant was evaluated.")


def make_model(density_weight=1.0, levels=None, log_det=EXACT, name="residual", factor_out=False, **kwargs):
    """Two scales of one block, on 4 x 4 images, with four features a head and three classes."""
    blocks = {
        "residual": flows.residual_image_block(log_det=log_det),
        "affine_coupling": flows.coupling_image_block(bijectors.AffineCoupling),
        "additive_coupling": flows.coupling_image_block(bijectors.AdditiveCoupling),
    }
    options = {"num_fc_blocks": 0, "logit_alpha": None, "mean": [0.5], "std": [0.25], "block": blocks[name]}
    dtype = kwargs.pop("dtype", "float32")
    options |= {"kernels": (3, 1), "factor_out": factor_out, "dtype": dtype, "inv_1x1_conv": True}
    flow = flows.image_flow(SHAPE, (1, 1), 4, **options)
    shapes = bijectors.feature_shapes(flow, SHAPE)
    classifier = flows.multiscale_classifier(shapes, 3, num_features=4, dtype=dtype)
    kwargs.setdefault("evaluation_log_det", log_det)
    model = resflow.HybridModel(flow, classifier, SHAPE, levels=levels, density_weight=density_weight, **kwargs)
    model.initialize(images(levels=levels)[0])
    return model


def images(num=8, levels=None, seed=0):
    """Images of three classes, brighter at the left, at the right, or nowhere."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=num)
    brightness = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0.4, 0.4, 0.4, 0.4]])[labels]
    x = 0.2 + 0.6 * brightness[:, None, :, None] + 0.1 * random.normal(size=[num, *SHAPE])
    x = np.clip(x, 0.0, 0.999)
    return (x.astype("float32") if levels is None else np.floor(x * levels).astype("uint8")), labels


def test_a_classifier_of_another_dtype():
    """The scores have the dtype of the density, here float64."""
    block = flows.residual_image_block(log_det=EXACT)
    options = {"num_fc_blocks": 0, "logit_alpha": None, "block": block, "kernels": (3, 1), "dtype": "float64"}
    flow = flows.image_flow(SHAPE, (1,), 4, **options)
    classifier = flows.multiscale_classifier(bijectors.feature_shapes(flow, SHAPE), 3, num_features=4)
    scores = resflow.HybridModel(flow, classifier, SHAPE).scores(images(), seed=[0, 1])
    assert {scores[name].dtype for name in ("loss", "cross_entropy", "nats")} == {tf.float64}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_act_norm_of_a_classifier_has_its_policy(policy):
    layer = flows.ActNormLayer(3, dtype=policy)
    x = np.random.default_rng(0).normal(size=[64, 3])
    layer.initialize(tf.constant(x, tf.float32))
    y = layer(x)
    assert y.dtype == layer.compute_dtype
    np.testing.assert_allclose(np.std(tf.cast(y, tf.float32), axis=0), np.ones(3), rtol=1e-2)


def partial_values(model, x):
    """The latent, and the values after each scale, member by member."""

    def through(members, x):
        for b in members:
            x = b.run(x, bijectors.Context(log_det=False)).value
        return x

    if isinstance(model.flow, bijectors.MultiscaleFlow):
        first, second = model.flow.flows
        whole = through(first.bijectors, x)
        last = through(second.bijectors, whole[..., :2])
        latent = tf.concat([tf.reshape(part, [-1, 8]) for part in (whole[..., 2:], last)], -1)
        return latent, [whole, last]
    members = model.flow.bijectors
    (squeeze,) = [i for i, b in enumerate(members) if isinstance(b, bijectors.Squeeze2D)]
    whole = through(members[: squeeze + 1], x)
    last = through(members[squeeze + 1 :], whole)
    return tf.reshape(last, [-1, SIZE]), [whole, last]


def direct_loss(model, x, labels):
    """-log p(y | x) - weight / D log p(x) in nats, of dense Jacobians."""
    latent, features = partial_values(model, x)
    copies = tf.repeat(x, SIZE, 0)  # each tells the gradient of one coordinate
    with tf.GradientTape() as tape:
        tape.watch(copies)
        outputs, _ = partial_values(model, copies)
    rows = tape.gradient(outputs, copies, tf.tile(tf.eye(SIZE, dtype=x.dtype), [len(x), 1]))
    log_det = tf.linalg.slogdet(tf.reshape(rows, [-1, SIZE, SIZE]))[1]
    log_prob = log_det - 0.5 * tf.reduce_sum(latent**2, -1) - 0.5 * SIZE * math.log(2 * math.pi)
    log_probabilities = tf.math.log_softmax(model.classifier(features))
    cross_entropy = -tf.gather(log_probabilities, labels, batch_dims=1)
    return cross_entropy - model.density_weight / SIZE * log_prob, cross_entropy, log_prob


@pytest.mark.parametrize(("weight", "factor_out"), [(0.0, False), (1.0, True), (16.0, False)])
def test_loss_and_gradients(weight, factor_out):
    model = make_model(weight, factor_out=factor_out, dtype="float64")
    x, labels = images()
    x = tf.constant(x, tf.float64)
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        scores = model.scores((x, labels), seed=0)
        loss = tf.reduce_mean(scores["loss"])
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    with tf.GradientTape() as tape:
        expected, cross_entropy, log_prob = direct_loss(model, x, labels)
        loss = tf.reduce_mean(expected)
    slopes = tape.gradient(loss, variables, unconnected_gradients="zero")
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-9)
    np.testing.assert_allclose(scores["cross_entropy"], cross_entropy, rtol=1e-9)
    if weight:
        np.testing.assert_allclose(scores["nats"], -log_prob, rtol=1e-9)
    assert ("nats" in scores) == (weight > 0)
    for variable, gradient, slope in zip(variables, gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9, err_msg=variable.name)
    assert all(np.any(slope != 0) for slope in slopes[:3])


def test_parts_in_bits():
    """Of integers: the bits/dim are those of the log-likelihood, and the cross entropy has the logits' softmax."""
    model = make_model(3.0, levels=256, log_det=resflow.logdet.RussianRoulette(1))
    x, labels = images(levels=256)
    scores = model.scores((x, labels), seed=[1, 2])
    np.testing.assert_allclose(scores["bits_per_dim"], model.loss_per_example(x, seed=[1, 2]), rtol=1e-5)
    log_prob = model.log_prob(x, seed=[1, 2]).numpy()
    np.testing.assert_allclose(scores["bits_per_dim"], -log_prob / (SIZE * math.log(2)), rtol=1e-5)
    loss = scores["cross_entropy"] + 3 * scores["bits_per_dim"]
    np.testing.assert_allclose(scores["loss"], loss, rtol=1e-6)
    # The dequantization moves the logits a little from those of the cells' centers.
    logits = model.classify(x)["logits"].numpy().astype(np.float64)
    expected = -special.log_softmax(logits, -1)[np.arange(len(labels)), labels] / math.log(2)
    np.testing.assert_allclose(scores["cross_entropy"], expected, atol=0.05)
    right = logits.argmax(-1) == labels
    assert 0 < right.mean() < 1
    np.testing.assert_array_equal(scores["accuracy"], right)


def test_classify():
    model = make_model(levels=4)
    x, _ = images(levels=4)
    classes = model.classify(x)
    _, features = partial_values(model, tf.constant((x + 0.5) / 4, tf.float32))
    np.testing.assert_allclose(classes["logits"], model.classifier(features), rtol=1e-4, atol=1e-5)
    probabilities = special.softmax(classes["logits"].numpy(), -1)
    np.testing.assert_allclose(classes["probabilities"], probabilities, rtol=1e-5)


def test_heads_are_initialized():
    model = make_model(levels=256)
    x, _ = images(64, levels=256)
    model.initialize(x, seed=3)
    z = resflow.data.dequantize(x, 256, resflow.stateless_seed(3))
    _, features = partial_values(model, z)
    for i, feature in enumerate(features):
        conv, act_norm = [model.classifier.get_layer(f"scale{i}_{name}") for name in ("conv", "act_norm")]
        value = act_norm(conv(feature))
        np.testing.assert_allclose(np.mean(value, (0, 1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(np.std(value, (0, 1, 2)), 1.0, rtol=1e-3)


def test_without_a_density_no_series_is_evaluated():
    model = make_model(0.0, levels=256, log_det=NoSeries())
    model.compile(optimizer="sgd", run_eagerly=True)
    x, labels = images(levels=256)
    assert set(model.scores((x, labels), seed=0)) == {"loss", "cross_entropy", "accuracy"}
    history = model.fit(x, labels, batch_size=4, verbose=0).history
    assert sorted(history) == ["accuracy", "cross_entropy", "loss"]
    assert len(model.evaluate(x, labels, verbose=0)) == 3
    with pytest.raises(AssertionError, match="was evaluated"):
        model.log_prob(x)


def test_it_learns_both():
    """Three classes, told apart by their halves: above chance (1/3) after 32 steps, and more likely."""
    model = make_model(levels=64, log_det=resflow.logdet.RussianRoulette())
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    x, labels = images(256, levels=64)
    history = model.fit(x, labels, batch_size=32, epochs=4, verbose=0).history
    assert history["bits_per_dim"][-1] < history["bits_per_dim"][0] - 0.05
    unseen, truth = images(200, levels=64, seed=1)
    classes = np.argmax(model.classify(unseen)["logits"], -1)
    assert np.mean(classes == truth) > 0.8


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, its checkpoint, and a SavedModel of its classifier."""
    model = make_model(levels=64)
    path = tmp_path_factory.mktemp("saved")
    tf.train.Checkpoint(model=model).write(str(path / "checkpoint"))
    model.save_weights(path / "model.weights.h5")
    server = tf.Module()
    server.model = model
    spec = tf.TensorSpec([None, *SHAPE], tf.uint8)
    server.classify = tf.function(model.classify, input_signature=[spec], autograph=False)
    tf.saved_model.save(server, str(path / "1"), signatures={"classify": server.classify})
    return model, path


def test_weights_round_trip(saved):
    model, path = saved
    x, _ = images(levels=64)
    expected = model.classify(x)["logits"].numpy()
    variables = len(model.distribution.variables) - len(model.statistics)
    assert len(model.weights) == variables + len(model.classifier.weights)
    for load in (
        lambda other: tf.train.Checkpoint(model=other).read(str(path / "checkpoint")).assert_consumed(),
        lambda other: other.load_weights(path / "model.weights.h5"),
    ):
        other = make_model(levels=64)
        for weight in other.weights:
            weight.assign(tf.ones_like(weight))
        load(other)
        np.testing.assert_array_equal(other.classify(x)["logits"], expected)


def test_a_classifier_of_other_names_does_not_restore(saved):
    model, path = saved
    inputs = [keras.Input(tensor.shape[1:]) for tensor in model.classifier.inputs]
    pooled = []
    for x in inputs:
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{len(pooled)}")(x)
        x = flows.ActNormLayer(4, name=f"act_norm{len(pooled)}")(x)
        pooled.append(keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x)))
    logits = keras.layers.Dense(3, name="linear")(keras.layers.Concatenate()(pooled))
    other = resflow.HybridModel(make_model(levels=64).flow, keras.Model(inputs, logits), SHAPE, levels=64)
    with pytest.raises(AssertionError, match="(?s)not bound to checkpointed values.*linear/kernel"):
        tf.train.Checkpoint(model=other).read(str(path / "checkpoint")).assert_consumed()


def test_served_classifier(saved):
    model, path = saved
    classify = tf.saved_model.load(str(path / "1")).signatures["classify"]
    for num in (1, 5):
        x, _ = images(num, levels=64)
        classes = [classify(x=tf.constant(x)) for _ in range(2)]
        assert set(classes[0]) == {"logits", "probabilities"}
        for key, value in classes[0].items():
            np.testing.assert_array_equal(value, classes[1][key])
            np.testing.assert_allclose(value, model.classify(x)[key], rtol=1e-4, atol=1e-5)


def vector_model():
    """A model of the plane; deterministic."""
    log_det = resflow.logdet.PowerSeries(3, probes="basis")
    flow = flows.vector_flow(2, 1, (6,), log_det=log_det, seed=1)
    kernel = keras.initializers.GlorotUniform(seed=1)
    feature = keras.Input([2])
    classifier = keras.Model([feature], keras.layers.Dense(2, kernel_initializer=kernel)(feature))
    model = resflow.HybridModel(flow, classifier, [2], evaluation_log_det=log_det)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


def test_step_equals_that_of_one_device(two_replicas):
    random = np.random.default_rng(0)
    x, labels = random.normal(size=[8, 2]).astype("float32"), random.integers(2, size=8)
    single = vector_model()
    start = [v.numpy() for v in single.trainable_variables]
    step = tf.function(models.train_step, autograph=False)
    metrics = step(single, (tf.constant(x), tf.constant(labels)), tf.constant([0, 1]))
    with two_replicas.scope():
        mirrored = vector_model()
    batches = tf.data.Dataset.from_tensor_slices((x, labels)).batch(8)
    (batch,) = two_replicas.experimental_distribute_dataset(batches)

    @tf.function(autograph=False)
    def run(batch):
        return two_replicas.run(models.train_step, (mirrored, batch, tf.constant([0, 1])))

    both = run(batch)
    for name in ("loss", "cross_entropy", "accuracy", "nats"):
        values = two_replicas.experimental_local_results(both[name])
        np.testing.assert_allclose(np.mean(values), metrics[name], rtol=1e-5)
    for before, v, w in zip(start, single.trainable_variables, mirrored.trainable_variables, strict=True):
        np.testing.assert_allclose(w.numpy() - before, v.numpy() - before, atol=2e-6)
    moved = [np.max(np.abs(v.numpy() - s)) for v, s in zip(single.trainable_variables, start, strict=True)]
    assert max(moved) > 1e-2


def test_scores_of_vectors_in_closed_form():
    """Blocks that are the identity, and a classifier of known logits."""
    model = vector_model()
    for variable in model.distribution.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    model.classifier.set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.0, 0.5])])
    x = np.array([[1.0, 1.0], [-1.0, -2.0]], "float32")
    scores = model.scores((x, np.array([0, 1], "uint8")), seed=0)
    nats = -stats.norm.logpdf(x).sum(-1)
    cross_entropy = [np.log(1 + np.exp(1.5)), np.log(1 + np.exp(2.5))]
    np.testing.assert_allclose(scores["nats"], nats, rtol=1e-6)
    np.testing.assert_allclose(scores["cross_entropy"], cross_entropy, rtol=1e-6)
    np.testing.assert_allclose(scores["loss"], cross_entropy + nats / 2, rtol=1e-6)
    np.testing.assert_array_equal(scores["accuracy"], [0.0, 0.0])


def test_wrong_arguments():
    model = vector_model()
    x = np.zeros([4, 2], "float32")
    with pytest.raises(ValueError, match=r"fit\(x, y\)"):
        model.fit(x, verbose=0)
    with pytest.raises(ValueError, match="integers 0, ..., classes - 1.*float32"):
        model.scores((x, x[:, 0]))
    with pytest.raises(ValueError, match=r"shape \(4, 1\)"):
        model.scores((x, np.zeros([4, 1], int)))
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="density_weight is at least 0"):
            resflow.HybridModel(model.flow, model.classifier, [2], density_weight=weight)
    wrong = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"shapes \[\(2,\)\], but the classifier takes \[\(3,\)\]"):
        resflow.HybridModel(model.flow, wrong, [2])
    with pytest.raises(ValueError, match="not built"):
        resflow.HybridModel(model.flow, keras.layers.Dense(2), [2])
