"""FlowModel in Keras's fit and evaluate: losses, callbacks, seeds, XLA, optimizers and wrong data."""

import contextlib
import copy
import math
import re
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow


def affine_flow():
    return resflow.bijectors.Flow([resflow.bijectors.ActNorm([2])])


def affine_model(data, **compiling):
    """Builds a model of one ActNorm, away from the optimum. Its steps are fast to trace."""
    model = resflow.FlowModel(affine_flow(), [2])
    model.initialize(data / 2.0)
    model.compile(**compiling)
    return model


@pytest.fixture(scope="module")
def data():
    z = np.random.default_rng(0).normal(size=[512, 2])
    return (z @ [[2.0, 1.0], [0.0, 0.3]] + [1.0, -2.0]).astype("float32")


def test_a_fit(data, tmp_path):
    """`fit` lowers the loss, changes all weights, and updates the norms."""
    flow, exact = resflow.flows.vector_flow(2, 1, (8,)), resflow.logdet.Exact()
    model = resflow.FlowModel(flow, [2], evaluation_log_det_estimator=exact)
    model.initialize(data)
    start = [weight.numpy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.AdamW(1e-2, global_clipnorm=1.0))
    last = str(tmp_path / "{epoch}.weights.h5")
    callbacks = [keras.callbacks.ModelCheckpoint(last, save_weights_only=True), resflow.models.AverageWeights(0.9)]
    history = model.fit(data, batch_size=64, epochs=6, verbose=0, callbacks=callbacks).history
    losses = history["loss"]
    assert sorted(history) == ["loss"] and losses[-1] < losses[0] - 0.05
    # No loss is below the entropy of the data, up to the noise of 512 examples.
    entropy = math.log(2 * math.pi * math.e) + math.log(0.6)
    assert entropy - 0.3 < losses[-1] < entropy + 1.0
    for weight, value in zip(model.trainable_weights, start, strict=True):
        assert np.any(weight.numpy() != value), weight.path
    for layer in resflow.layers.norm_updates.lipschitz_layers(model.flow):
        np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(layer.kernel.numpy(), 2), rtol=1e-3)
    loss = model.evaluate(data, batch_size=128, verbose=0)
    np.testing.assert_allclose(loss, np.mean(model.example_losses(data)[model.objective]), rtol=1e-5)
    expected = [weight.numpy() for weight in model.weights]
    model.load_weights(last.format(epoch=6))  # the callback saves the final weights of the fit
    for weight, value in zip(model.weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5)


def test_fit_with_xla_has_the_same_steps_and_skips_nan(data, monkeypatch):
    """XLA is used only on request, unlike in Keras with a GPU. Uses SGD, as Adam amplifies rounding errors."""
    with monkeypatch.context() as patch:
        devices = [types.SimpleNamespace(device_type="GPU", name="GPU:0")]
        patch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)
        assert affine_model(data, optimizer="sgd").jit_compile is False
    x, found, series = data[:16].copy(), [], resflow.logdet.PowerSeries(2)
    for jit in (False, True):
        model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,), seed=1, log_det_estimator=series), [2])
        model.initialize(data[:64])
        optimizer = keras.optimizers.SGD(0.1, 0.9, global_clipnorm=1.0)
        model.compile(optimizer=optimizer, jit_compile=jit, run_eagerly=not jit)
        losses = model.fit(x, batch_size=8, shuffle=False, verbose=0).history["loss"]
        variables = [*model.trainable_weights, *model.optimizer.variables]
        found.append([losses, *(v.numpy() for v in variables)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    x[3] = math.nan  # in the first of two batches
    assert math.isnan(model.fit(x, batch_size=8, shuffle=False, verbose=0).history["loss"][0])
    assert all(np.all(np.isfinite(v)) for v in variables)
    assert model.optimizer.iterations == 3


@pytest.mark.parametrize("kind", ["arrays", "dataset", "generator", "py_dataset", "replicas"])
def test_fit_initializes_act_norms_once(data, two_replicas, caplog, kind):
    """All 64 examples set them, in batches of 16. A second fit, or one after loading, does not set them again."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return (data[16 * i : 16 * i + 16],)

    def batches():
        kinds = {
            "dataset": lambda: tf.data.Dataset.from_tensor_slices(data[:64]).batch(16),
            "generator": lambda: ((part,) for part in np.split(data[:64], 4)),
            "py_dataset": Batches,
        }
        return kinds.get(kind, lambda: data[:64])()

    with two_replicas.scope() if kind == "replicas" else contextlib.nullcontext():
        model = resflow.FlowModel(affine_flow(), [2])
        model.compile(keras.optimizers.SGD(0.0))
    norm = model.flow.bijectors[0]
    with caplog.at_level("INFO", logger="tf_resflow"):
        history = model.fit(batches(), verbose=0).history
        assert len([line for line in caplog.messages if "initialized the ActNorms from its first 64" in line]) == 1
    for replica in getattr(norm.shift, "values", [norm.shift]):
        np.testing.assert_allclose(replica, -data[:64].mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.log_scale, -np.log(data[:64].std(0)), rtol=1e-3)
    # No batch is lost: the loss is the mean over all examples.
    np.testing.assert_allclose(history["loss"], -np.mean(model.log_prob(data[:64])), rtol=1e-4)
    again = model
    if kind == "arrays":
        again = copy.deepcopy(model)
        again.compile(keras.optimizers.SGD(0.0))
    expected = [weight.numpy() for weight in again.weights]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*initialize")
        again.fit(data[64:128], verbose=0)
    for weight, value in zip(again.weights, expected, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_fit_initializes_from_random_rows_of_arrays_and_from_conditions(data):
    """The first 64 of these sorted rows are far from the mean. A flow without ActNorms has nothing to set."""
    rows = data[np.argsort(data[:, 0])]
    model = resflow.FlowModel(affine_flow(), [2])
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(rows, batch_size=256, verbose=0)
    # 4 standard errors of a mean of 256 examples with variance 4 and 1.09.
    np.testing.assert_array_less(np.abs(model.flow.bijectors[0].shift + data.mean(0)), 4 * np.array([2, 1.05]) / 16)
    flow = resflow.flows.vector_flow(2, 1, (4,), condition_size=3)
    model, labels = resflow.FlowModel(flow, [2], num_classes=3), np.arange(len(data)) % 3
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(data, labels, batch_size=512, verbose=0)
    latent = model.encode(data, condition=labels)
    np.testing.assert_allclose(np.mean(latent, 0), 0.0, atol=1e-3)
    flow = resflow.flows.vector_flow(2, 1, (4,), act_norm=False)
    model = resflow.FlowModel(flow, [2])
    model.compile(keras.optimizers.SGD(0.0))
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(data[:1], verbose=0)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_labels_that_are_ignored_give_a_warning(data, as_dataset):
    labels = np.arange(len(data)) % 2
    pairs = tf.data.Dataset.from_tensor_slices((data, labels)).batch(512)
    arguments = [pairs] if as_dataset else [data, labels]
    for name in ("fit", "evaluate"):
        model = affine_model(data)
        with pytest.warns(UserWarning, match="ignores the labels .* class_weight, .* num_classes="):
            getattr(model, name)(*arguments, verbose=0)
    model = affine_model(data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*ignores the labels")
        model.fit(data, labels, class_weight={0: 1.0, 1: 2.0}, verbose=0)
        model.evaluate(data, verbose=0)


def record_seeds(monkeypatch, model):
    """Returns a list that records the seed of each step."""
    seeds, losses = [], model.example_losses

    def recorded(batch, seed=None, **kwargs):
        keep = tf.numpy_function(lambda seed: seeds.append(tuple(seed.tolist())), [seed], [])
        with tf.control_dependencies(tf.nest.flatten(keep)):
            return losses(tf.identity(batch), seed, **kwargs)

    monkeypatch.setattr(model, "example_losses", recorded)
    return seeds


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_step_of_every_replica_has_its_own_seed(monkeypatch, data, two_replicas, replicas):
    if replicas == 1:
        optimizer = keras.optimizers.Adam(gradient_accumulation_steps=3)
        model = affine_model(data, optimizer=optimizer, steps_per_execution=2)
    else:
        with two_replicas.scope():
            model = affine_model(data, optimizer="adam")
    seeds = record_seeds(monkeypatch, model)
    model.fit(data[:64], batch_size=16, epochs=2, verbose=0)
    assert len(set(seeds)) == len(seeds) == 8 * replicas


def test_a_resumed_fit_continues_the_seeds(monkeypatch, data, tmp_path):
    """The fit stops between batches whose gradients the optimizer accumulates."""

    def build():
        model = affine_model(data, optimizer=keras.optimizers.Adam(gradient_accumulation_steps=4))
        return model, record_seeds(monkeypatch, model), tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    options = {"x": data[:96], "batch_size": 16, "shuffle": False, "verbose": 0}
    model, seeds, checkpoint = build()
    model.fit(**options)
    path = checkpoint.write(str(tmp_path / "c"))
    model.fit(**options)
    again, resumed, checkpoint = build()
    checkpoint.read(path).assert_consumed()
    again.fit(**options)
    assert len(resumed) == 6 and resumed == seeds[6:]
    for weight, expected in zip(again.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_data_of_fit_in_predict(data):
    """`predict` returns the exact log-densities for arrays, data sets and pairs with labels, without a warning."""
    model = affine_model(data)
    labels, expected = np.zeros(len(data)), model.log_prob(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for x in (
            data,
            tf.data.Dataset.from_tensor_slices(data),
            tf.data.Dataset.from_tensor_slices((data, labels)),
        ):
            batches = x.batch(100) if isinstance(x, tf.data.Dataset) else x
            model.fit(batches, epochs=0, verbose=0)
            np.testing.assert_allclose(model.predict(batches, verbose=0), expected, rtol=1e-5)
    flow = resflow.flows.vector_flow(2, 1, (4,), condition_size=2)
    model = resflow.FlowModel(flow, 2, num_classes=2)
    labels = np.arange(len(data)) % 2
    pairs = tf.data.Dataset.from_tensor_slices((data, labels)).batch(100)
    expected = model.log_prob(data, condition=labels, log_det_estimator="exact")
    for x in ((data, labels), pairs):
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_a_train_step_of_ones_own(data):
    """The history has the results of the last step, and those that update the metrics."""

    class Constant(resflow.FlowModel):
        def train_step(self, x):
            return {"loss": tf.constant(3.0), "size": tf.shape(x)[0]}

    model = Constant(affine_flow(), [2])
    model.initialize(data)
    model.compile()
    assert model.fit(data, batch_size=500, verbose=0).history == {"loss": [3.0], "size": [12]}

    class Loss(resflow.FlowModel):
        def train_step(self, x):
            return {"loss": tf.constant(3.0)}

    model = Loss(affine_flow(), [2])
    model.initialize(data)
    model.compile()
    history = model.fit(data, verbose=0, validation_data=(data, None)).history
    assert history["loss"] == [3.0] and abs(history["val_loss"][0] - model.evaluate(data, verbose=0)) < 1e-4


def test_wrong_data_between_valid_calls(data, refused):
    """This includes a step that Keras has traced and retraces for any shape."""
    model = affine_model(data[:16], optimizer="adamw")
    right, wrong = (tf.data.Dataset.from_tensors(x) for x in (data[:16], np.zeros([16, 3], "float32")))
    model.fit(right, verbose=0)
    for _ in range(2):
        refused("shape", model.fit, wrong, verbose=0, error=(ValueError, tf.errors.InvalidArgumentError))
    model.fit(right, verbose=0)


def test_wrong_arguments_of_compile(refused):
    """Covers optimizers that scale the loss, nested float16 layers, and other losses and metrics."""
    half = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, dtype="mixed_float16", name="half")])
    coupling = resflow.bijectors.Flow([resflow.bijectors.AffineCoupling(half)])
    adam = keras.optimizers.Adam
    for flow, arguments, message in [
        (affine_flow(), {"optimizer": keras.optimizers.LossScaleOptimizer(adam())}, "leave out loss_scale_factor"),
        (affine_flow(), {"optimizer": adam(loss_scale_factor=128.0)}, "leave out loss_scale_factor"),
        (coupling, {"optimizer": "adam"}, "float16 layers \\['half'\\]"),
        (affine_flow(), {"metrics": ["mse"]}, "FlowModel has its own loss.* Leave out metrics"),
    ]:
        refused(message, resflow.FlowModel(flow, [2]).compile, **arguments)


def shown_rows(model, **options):
    """Returns the names in `model.summary()` and the numbers of parameters, and the total."""
    lines: list[str] = []
    model.summary(print_fn=lines.append, **options)
    text = "\n".join(lines)
    rows = re.findall(r"│ +(\S+) \((\w+)…?\)? *│ *([^│]*?) *│ *([\d,]+) │", text)
    total = re.search(r"Total params: ([\d,]+)", text)[1]
    return [(name, kind, int(num.replace(",", ""))) for name, kind, _, num in rows], int(total.replace(",", ""))


def test_summary(monkeypatch):
    """Members have their names, also an ActNorm, a shared branch and a classifier. The parameters add up."""
    monkeypatch.setenv("COLUMNS", "200")
    flow = resflow.flows.vector_flow(2, 1, (4,))
    branch = resflow.flows.dense_branch([2], (4,))
    tied = [resflow.bijectors.ResidualBlock(branch, name=name) for name in ("left", "right")]
    model = resflow.FlowModel(resflow.bijectors.Flow([flow, *tied]), 2)
    branch.trainable = False
    rows, total = shown_rows(model)
    own, num = flow.bijectors[1].branch.count_params(), branch.count_params()
    assert {name: size for name, _, size in rows} == {
        "act_norm": 4, "block0_act_norm": 4, "block0": own, "left": num, "right": 0
    }  # fmt: skip
    assert {kind for _, kind, _ in rows} == {"ActNorm", "ResidualBlock"} and total == own + num + 8
    assert not branch.trainable
    model.compile("adam")
    assert sum(size for *_, size in shown_rows(model)[0]) == total  # the optimizer has a line of its own
    x = keras.Input([2])
    hybrid = resflow.HybridModel(flow, keras.Model([x], keras.layers.Dense(3)(x), name="classes"), (2,))
    rows, total = shown_rows(hybrid)
    assert rows[-1] == ("classes", "Functional", 9) and sum(size for *_, size in rows) == total == own + 8 + 9
    assert [name for name, *_ in rows] == ["act_norm", "block0", "block0_act_norm", "classes"]
    noise = resflow.models.FlowDequantizer((2, 2, 1), num_blocks=1, width=4)
    flow = resflow.flows.image_flow((2, 2, 1), (1,), 4, num_fc_blocks=0)
    rows, total = shown_rows(resflow.FlowModel(flow, (2, 2, 1), levels=4, dequantizer=noise))
    assert rows[-1][1] == "FlowDequantizer" and sum(size for *_, size in rows) == total


def test_evaluation_has_fixed_random_numbers():
    """Two passes and all epochs of a validation draw the same noise. Batches and models of other seeds do not."""
    images = np.random.default_rng(0).integers(0, 4, [8, 2, 2, 1])

    def compiled(seed):
        flow = resflow.bijectors.Flow([resflow.bijectors.Logit(0.05), resflow.bijectors.ActNorm([2, 2, 1])])
        model = resflow.FlowModel(flow, (2, 2, 1), levels=4, seed=seed)
        model.initialize(images)
        model.compile(keras.optimizers.SGD(0.0))
        return model

    model = compiled(0)
    first = model.evaluate(images, batch_size=4, verbose=0)
    data = tf.data.Dataset.from_tensor_slices(images).batch(4)
    options = {"epochs": 3, "verbose": 0, "validation_data": data}
    history = model.fit(images, **options).history
    assert history["val_loss"] == [first] * 3 and len(set(history["loss"])) == 3
    assert model.evaluate(data, verbose=0) == first
    model.compile("adam", jit_compile=True)
    assert model.evaluate(data, verbose=0) == pytest.approx(first, rel=1e-5)
    assert abs(compiled(1).evaluate(images, batch_size=4, verbose=0) - first) > 1e-4
    one = images[:1].repeat(2, axis=0)
    losses = [model.evaluate(one[:num], batch_size=1, verbose=0) for num in (1, 2)]
    assert abs(losses[0] - losses[1]) > 1e-4  # the second batch has noise of its own


@pytest.mark.parametrize(("epochs", "num_warnings"), [(4, 2), (7, 0)])
def test_a_short_average_of_keras(data, epochs, num_warnings):
    """With a momentum of .9, the average needs 50 steps. There is no warning without it, or without a step."""
    model = affine_model(data, optimizer=keras.optimizers.SGD(1e-3, use_ema=True, ema_momentum=0.9))
    options = {"batch_size": 64, "verbose": 0}  # 8 steps per epoch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit(data, epochs=0, **options)
        affine_model(data, optimizer="sgd").fit(data, epochs=1, **options)
        assert not [warning for warning in caught if "use_ema" in str(warning.message)]
        for _ in range(2):
            model.fit(data, epochs=epochs, **options)
    found = [warning for warning in caught if "use_ema" in str(warning.message)]
    assert len(found) == num_warnings and all(warning.filename == __file__ for warning in found)
    assert all(re.search(r"After 32 steps.* 3\.4%.*AverageWeights\(\)", str(each.message)) for each in found)
    assert model.optimizer.use_ema and model.optimizer.ema_momentum == 0.9


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}, {"jit_compile": True}])
def test_a_nan_in_fit(data, mode, refused):
    """As the guide says: `fit` stops with an error, or with XLA continues. No weight changes. `val_loss` is NaN."""
    rows = data[:32]
    model = affine_model(data, optimizer="sgd", **mode)
    bad = np.where(np.arange(32)[:, np.newaxis] == 5, np.float32(math.nan), rows)
    before, options = model.get_weights(), {"batch_size": 32, "shuffle": False, "verbose": 0}
    if "jit_compile" in mode:
        assert math.isnan(model.fit(bad, **options).history["loss"][0])
    else:
        refused("loss or its gradient is NaN", model.fit, bad, error=tf.errors.InvalidArgumentError, **options)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    history = model.fit(rows, validation_data=(bad,), **options).history
    assert math.isfinite(history["loss"][0]) and math.isnan(history["val_loss"][0])
