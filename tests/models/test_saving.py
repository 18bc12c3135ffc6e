"""Saving of whole models, weights and checkpoints, and loading into a wrong model."""

import copy
import json
import pickle
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.models.saving import _differences

tfb = tfp.bijectors
tfd = tfp.distributions
bijectors = resflow.bijectors


def flow_of(*members, event_shape=(2,), **options):
    """Builds a model of the given bijectors and an ActNorm."""
    act_norm = bijectors.ActNorm(event_shape)
    return resflow.FlowModel(bijectors.Flow([*members, act_norm]), event_shape, **options)


def vector(**options):
    return resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,), act_norm=False, **options), [2])


class One(keras.layers.Layer):
    def __init__(self, function=None, **kwargs):  # Keras cannot serialize the function
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return x


class Spread(bijectors.FlowBijector):
    def __init__(self, std, name="spread"):
        parameters = dict(locals())
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)


class Two(One):
    pass


register = keras.saving.register_keras_serializable("tests")


@register
class StrongModel(resflow.FlowModel):
    def __init__(self, *args, strength=0.1, **kwargs):
        super().__init__(*args, **kwargs)
        self.strength = strength


@register
class StrongBlock(bijectors.ResidualBlock):
    def __init__(self, branch, strength, **kwargs):
        super().__init__(
            keras.Sequential([keras.Input([2]), branch]), **kwargs
        )  # not the branch that it was called with
        self.strength = strength


@register
class StrongEstimator(resflow.logdet.Exact):
    def __init__(self, strength=0.1):
        object.__setattr__(self, "strength", strength)


@register
class StrongSolver(resflow.solvers.Anderson):
    def __init__(self, strength=0.1, **kwargs):
        super().__init__(**kwargs)
        object.__setattr__(self, "strength", strength)


@register
class StrongDense(resflow.layers.LipschitzDense):
    def __init__(self, units, strength=0.1):
        super().__init__(units, 0.9)
        self.strength = strength


def coupling(layer=None, inputs=(1,), order=1, **options):
    x = [keras.Input([size]) for size in inputs]
    parts = [*x, keras.layers.Dense(1, activation="relu")(x[0])][::order]
    joined = keras.layers.Concatenate()(parts)
    joined = joined if layer is None else layer(joined)
    return bijectors.AdditiveCoupling(keras.Model(x, keras.layers.Dense(1)(joined)), **options)


def coupled(**options):
    return flow_of(coupling(**options))


def shifted(shift):
    return flow_of(tfb.Shift(np.float32(shift)), event_shape=[len(shift)])


def has_condition(**statistics):
    return flow_of(coupling(inputs=(1, 2)), condition_shape=[2], **statistics)


def variational(**options):
    noise = resflow.models.FlowDequantizer((2, 2, 1), width=4, **options)
    return flow_of(event_shape=(2, 2, 1), levels=4, dequantizer=noise)


def student(df):
    return tfd.Independent(tfd.StudentT(df, [0.0, 0.0], 1.0), 1)


STATISTICS = {"mean": [1.0, 2.0], "std": [3.0, 4.0]}
# A function, two sets of arguments for models that differ in one setting, and the error message.
PAIRS = {
    "coefficient": (vector, {"coefficient": 0.9}, {"coefficient": 0.5}, r"layers\[1\].coefficient is 0.9 in"),
    "block": (vector, {}, {"block": bijectors.MonotoneBlock}, "class_name is 'ResidualBlock' in the file"),
    "standardization": (vector, STATISTICS, {}, r"len\(model.flow.bijectors\) is 2 in the file"),
    "constants": (shifted, {"shift": [0.0, 1.0]}, {"shift": [0.0, 2.0]}, "shift is .0.0, 1.0"),
    "a setting with the name of a statistic": (
        lambda std: flow_of(Spread(std)), {"std": 1.0}, {"std": 2.0}, "std is 1.0 in the file, 2.0 in"
    ),
    "connections": (coupled, {}, {"order": -1}, "keras_history is .'layer 0'"),
    "layer of the user": (coupled, {"layer": One(len)}, {"layer": Two(len)}, "is 'One' in the file, 'Two'"),
    "base": (flow_of, {"base": student(3.0)}, {"base": student(4.0)}, "base.*df is 3"),
    "standardized condition": (
        has_condition, {"condition_mean": [1.0, 2.0], "condition_std": [3.0, 4.0]}, {},
        r"condition_mean is .*\(2,\). in the file, None in",
    ),
    "dequantizer": (variational, {"num_blocks": 2}, {"num_blocks": 1}, "dequantizer.num_blocks is 2 in"),
}  # fmt: skip


def weights_file(directory):
    path = str(directory / "model.weights.h5")
    return lambda model: model.save_weights(path), lambda model: model.load_weights(path)


def checkpoint(directory):
    path = str(directory / "checkpoint")
    return (
        lambda model: tf.train.Checkpoint(model=model).write(path),
        lambda model: tf.train.Checkpoint(model=model).read(path).assert_consumed(),
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_loading_into_another_model_fails(pair):
    make, one, other, message = PAIRS[pair]
    text = make(**one).serialize()
    make(**one).deserialize(text)
    with pytest.raises(ValueError, match=message):
        make(**other).deserialize(text)


def test_weights_of_another_architecture(tmp_path):
    """The error is the only message, although Keras would warn of the optimizer, too."""
    path, x = str(tmp_path / "model.weights.h5"), np.zeros([4, 2], "float32")
    models = [resflow.FlowModel(resflow.flows.vector_flow(2, num, (4,), act_norm=False), 2) for num in (1, 2)]
    for model in models:
        model.compile("adam")
        model.fit(x, verbose=0)
    models[0].save_weights(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(ValueError, match=r"^The file does not belong to the model flow_model: len\(.* is 1 in"):
            models[1].load_weights(path)
        models[0].load_weights(path)


def unnamed(seed):
    branches = [resflow.flows.dense_branch([2], (4,), seed=seed + i) for i in range(3)]
    first, second, third = map(bijectors.ResidualBlock, branches)
    return flow_of(first, second, bijectors.Flow([third, bijectors.ActNorm([2])], name="inner"))


def couplings(seed):
    options = {"block": resflow.flows.coupling_image_block(), "num_fc_blocks": 0, "seed": seed}
    flow = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, inv_1x1_conv=True, factor_out=True, **options)
    return resflow.FlowModel(flow, (4, 4, 1), levels=4)


def classes(seed):
    flow = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, num_fc_blocks=0, seed=seed)
    classifier = resflow.flows.multiscale_classifier(flow.feature_shapes((4, 4, 1)), 3, 4, seed=seed)
    return resflow.HybridModel(flow, classifier, (4, 4, 1), levels=4)


def standardized(mean, std):
    condition = {"condition_shape": [2], "condition_mean": mean, "condition_std": std}
    return flow_of(bijectors.Normalize(mean, std), coupling(inputs=(1, 2)), **condition)


@pytest.mark.parametrize("form", [weights_file, checkpoint])
def test_statistics_are_saved_with_the_weights(form, tmp_path):
    """Loading replaces other statistics, even in traced functions. They are not among the weights."""
    save, load = form(tmp_path)
    model, other = standardized([1 / 3, -2.0], [3.3, 0.7]), standardized([0.0, 0.0], [1.0, 1.0])
    x, c = np.random.default_rng(0).normal(size=[2, 4, 2]).astype("float32")
    expected = model.log_prob(x, 0, condition=c)
    log_prob = tf.function(lambda: other.log_prob(x, 0, condition=c), autograph=False)
    assert np.all(np.abs(log_prob() - expected) > 1e-2)
    save(model)
    load(other)
    np.testing.assert_allclose(log_prob(), expected, rtol=1e-5)
    for name, variable in model.statistics.items():
        np.testing.assert_array_equal(other.statistics[name], variable)
    assert sorted(model.statistics) == ["condition/mean", "condition/std", "normalize/mean", "normalize/std"]
    assert not any(variable is weight.value for variable in model.statistics.values() for weight in model.weights)


def test_settings_of_only_one_version_are_not_compared():
    saved = json.loads(vector().serialize())
    saved["config"]["config"]["of_tomorrow"] = 1
    del saved["config"]["config"]["levels"]
    vector().deserialize(json.dumps(saved))


def conditional(seed):
    network = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    options = {"condition_size": 3, "norms": "learned", "activation": "lipswish", "seed": seed}
    flow = resflow.flows.vector_flow(2, 1, (4,), affine_layers=(1, 0), **options)
    statistics = {"condition_mean": [1.0, 2.0], "condition_std": [3.0, 4.0]}
    options = {"condition_network": network, "base": student(3.0), **statistics}
    return resflow.FlowModel(flow, [2], condition_shape=[2], **options)


def labeled(seed):
    log_det_estimator = resflow.logdet.RussianRoulette(3, resflow.logdet.Poisson(3.0), num_probes=2)
    options = {"condition_size": 3, "log_det_estimator": log_det_estimator, "seed": seed}
    flow = resflow.flows.vector_flow(2, 1, (4,), block=bijectors.MonotoneBlock, **options)
    mean, covariance = [1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]
    flow = bijectors.Flow([bijectors.Whiten(mean, covariance), flow, tfb.Chain([tfb.Scale(2.0), tfb.Shift(1.0)])])
    return resflow.FlowModel(flow, [2], num_classes=3, evaluation_log_det_estimator=log_det_estimator)


def spline(seed):
    network = resflow.flows.dense_coupling_network(2, (4,), num_parameters=11, condition_size=2, seed=seed)
    return flow_of(bijectors.SplineCoupling(network, num_bins=4, bound=3.0), condition_shape=[2])


def affine(seed):
    layer = keras.layers.Dense(5, kernel_initializer=keras.initializers.HeNormal(seed))
    network = keras.Sequential([keras.Input([2]), layer])
    return flow_of(bijectors.ConditionalAffine(network), condition_shape=[2])


def tied(seed):
    branch = resflow.flows.dense_branch([2], (4,), seed=seed)
    return flow_of(*[bijectors.ResidualBlock(branch, name=name) for name in "ab"])


def batch_of(model):
    shape, condition = model.data_space.event_shape, model.condition
    rng = np.random.default_rng(0)
    integer = model.data_space.levels is not None
    x = rng.integers(0, 4, [8, *shape]) if integer else rng.normal(size=[8, *shape]).astype("float32")
    labels = rng.integers(0, 3, 8)
    c = rng.normal(size=[8, 2]).astype("float32") if condition.num_classes is None else labels
    return (x, labels if isinstance(model, resflow.HybridModel) else c) if model.expects_pairs else (x, None)


def losses(model):
    """Returns the losses with the evaluation estimator, and samples."""
    x, y = batch_of(model)
    batch = x if y is None else (x, y)
    condition = {"condition": y[:1]} if model.condition else {}
    return [*model.example_losses(batch, 1).values(), model.trained_density().sample(2, 3, **condition)]


def keras_file(model, directory):
    model.save(directory / "model.keras")
    return resflow.load(directory / "model.keras")


FORMS = {
    "keras": keras_file,
    "pickle": lambda model, directory: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, directory: copy.deepcopy(model),
    "clone": lambda model, directory: keras.models.clone_model(model),
}


@pytest.mark.parametrize(
    "make", [unnamed, couplings, variational, classes, conditional, labeled, spline, affine, tied]
)
def test_whole_models(make, tmp_path):
    """Copies have the same losses and samples. A clone has the same config, with initial weights.

    So has another model with this architecture that loads the weights, although its layers have other names.
    """
    model = make(seed=1)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    for variable in model.statistics.values():
        if "axes" not in variable.name:
            variable.assign(1.5 * variable)
    expected = losses(model)
    for name, form in FORMS.items():
        other = form(model, tmp_path)
        if name == "clone":  # as for any Keras model, a clone has new weights
            other.set_weights(model.get_weights())
            for key, variable in other.statistics.items():
                variable.assign(model.statistics[key])
        assert type(other) is type(model) and other.name == model.name
        assert len(other.weights) == len(model.weights)
        assert not _differences(other.get_config(), model.get_config())
        for ours, theirs in zip(expected, losses(other), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for form in (weights_file, checkpoint):
        other, (save, load) = make(seed=2), form(tmp_path)
        save(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            load(other)
        for ours, theirs in zip(expected, losses(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "checkpoint"))]
    assert [name for name in names if "py_state" in name] == ["model/.ATTRIBUTES/py_state"]  # as in version 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "mixed_bfloat16", "activation": "lipschitz_cube"},
        {"dtype": "float64", "activation": "maxmin"},
        {"dense_net": (2, 4), "activation": "clipswish"},
        {"activation": keras.activations.tanh, "inverse_solver": resflow.solvers.FixedPoint(atol=1e-5)},
        {"activation": keras.layers.ELU(), "norms": None},
        {"activation": "lipswish", "log_det_estimator": resflow.logdet.PowerSeries(3)},
        {"activation": "fullsort", "log_det_estimator": resflow.logdet.AdaptiveRoulette(probes="rademacher")},
    ],
)
def test_flows_of_any_options(options, tmp_path):
    """Covers all activations. Also tests that a frozen branch stays frozen."""
    model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (8,), **options), [2])
    bijectors.flow.residual_blocks(model.flow)[0].branch.trainable = False
    loaded, x = keras_file(model, tmp_path), np.random.default_rng(0).normal(size=[4, 2])
    x = x.astype("float64" if options.get("dtype") == "float64" else "float32")
    np.testing.assert_array_equal(loaded.log_prob(x, 1), model.log_prob(x, 1))
    np.testing.assert_array_equal(copy.deepcopy(model.flow).forward(x), model.flow.forward(x))
    assert [w.shape for w in loaded.trainable_variables] == [w.shape for w in model.trainable_variables]


def test_a_fit_continues_from_a_file(tmp_path):
    """A loaded model continues the fit like the model that was saved."""
    model, path = vector(), tmp_path / "model.keras"
    x, _ = batch_of(model)
    model.initialize(x)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 8, warmup_target=0.02, warmup_steps=2)
    model.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0))
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    checkpoint = keras.callbacks.ModelCheckpoint(str(path), monitor="loss")
    model.fit(x, epochs=2, callbacks=[checkpoint], **options)
    for ours, theirs in zip(model.trainable_weights, resflow.load(path).trainable_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.save(path)
    loaded = resflow.load(path)
    for each in (model, loaded):
        each.fit(x, **options)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 6
    for ours, theirs in zip(model.trainable_weights, loaded.trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=ours.path)


def test_custom_bijectors(tmp_path, refused):
    """Custom classes must be registered. The error names the class, and no file is written."""
    path = tmp_path / "model.keras"
    refused("test_saving.Spread cannot be saved, .*register_keras_serializable", flow_of(Spread(2.0)).save, path)
    refused("test_saving.Two cannot be saved", coupled(layer=Two()).save, path)
    refused("has no Keras config", flow_of(type("Own", (tfb.Scale,), {})(2.0)).save, path)
    assert not path.exists()
    with keras.saving.custom_object_scope({"Spread": Spread}):
        model = flow_of(Spread(2.0))
        assert keras_file(model, tmp_path).flow.bijectors[0].parameters["std"] == 2.0
    refused("Could not locate class 'Spread'", resflow.load, path, error=TypeError)


def strong_model(strength=0.7):
    branch = keras.Sequential([keras.Input([2]), StrongDense(2, strength=0.2)])
    settings = {"log_det_estimator": StrongEstimator(0.3), "inverse_solver": StrongSolver(0.4, max_iterations=7)}
    return StrongModel(
        bijectors.Flow([StrongBlock(branch, 0.5, lipschitz_constant=0.9, **settings)]), 2, strength=strength
    )


def arguments_of_subclasses(model):
    (block,) = model.flow.bijectors
    settings = block.parameters
    dense = block.branch.layers[0].layers[0]
    objects = (model, block, settings["log_det_estimator"], settings["inverse_solver"], dense)
    return [value.strength for value in objects], settings["inverse_solver"].max_iterations


@pytest.mark.parametrize("form", [pickle, copy, None])
def test_arguments_of_subclasses(form, tmp_path):
    """The arguments of subclasses are saved as they were passed, and a view has them, too."""
    model = strong_model()
    if form is pickle:
        loaded = pickle.loads(pickle.dumps(model))
    elif form is copy:
        loaded = copy.deepcopy(model)
    else:
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert arguments_of_subclasses(loaded) == ([0.7, 0.5, 0.3, 0.4, 0.2], 7)
    assert loaded.flow.bijectors[0].copy(name="view").strength == 0.5
    x = np.ones([1, 2], np.float32)
    np.testing.assert_allclose(loaded.log_prob(x), model.log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("strength", [lambda x: x, object()])
def test_an_argument_without_a_config(strength, tmp_path):
    with pytest.raises(ValueError, match="StrongModel cannot be saved, because its argument 'strength'"):
        strong_model(strength).save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("old", "new"), [
    ('"bijectors.Scale"', '"bijectors.tf"'),
    ('"bijectors.Scale"', '"os.system"'),
    ('"tf_resflow>ActNorm"', '"os>system"'),
    ('"class_name": "ActNorm", "config": {', '"class_name": "__lambda__", "config": {"value": "x", '),
])  # fmt: skip
def test_files_that_name_other_code_are_refused(old, new, tmp_path):
    path, changed = tmp_path / "model.keras", tmp_path / "changed.keras"
    flow_of(tfb.Scale(2.0)).save(path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            assert name != "config.json" or old.encode() in content
            target.writestr(name, content.replace(old.encode(), new.encode()) if name == "config.json" else content)
    with pytest.raises((TypeError, ValueError), match="must name a public bijector|Could not locate class|lambda"):
        resflow.load(changed)
