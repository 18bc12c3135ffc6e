"""Files load in a process that has only imported the library, with `resflow.load` and with Keras."""

import pickle
import shutil

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow import registration
from tf_resflow.models.keras_training import KerasTraining

X = np.random.default_rng(0).normal(size=[32, 2]).astype("float32")
KERAS = "import tf_resflow as resflow\nimport keras\nloaded = keras.models.load_model({path!r})"
KERAS_FIRST = "import keras\nimport tf_resflow as resflow\nloaded = keras.models.load_model({path!r})"
RESFLOW = "import tf_resflow as resflow\nloaded = resflow.load({path!r})"
PICKLE = "import pickle\nimport tf_resflow as resflow\nloaded = pickle.load(open({path!r}, 'rb'))"
CHECK = """
import sys
import numpy as np
x, expected = np.load(sys.argv[1]).values()
np.testing.assert_allclose(np.asarray(call(loaded, x)), expected, rtol=1e-5, atol=1e-6)
"""
# Each name of a class is for a class without a module yet. The first use imports the modules of all of them.
ALL_NAMES = """
import sys
import tf_resflow
assert "keras" not in sys.modules and not [name for name in sys.modules if name.startswith("tensorflow")]
import keras
from tf_resflow.registration import _NAMES
assert "tensorflow_probability" not in sys.modules
registry = keras.saving.get_custom_objects()
assert not [name for name in _NAMES.split() if isinstance(registry[f"tf_resflow>{name}"], type)]
config = {"class_name": "CPila", "registered_name": "tf_resflow>CPila", "config": {}}
assert type(keras.saving.deserialize_keras_object(config)).__name__ == "CPila"
assert not [name for name in _NAMES.split() if not isinstance(registry[f"tf_resflow>{name}"], type)]
"""


def of_checkpoint(path):
    """Writes a `FlowModel` with a bijector of TFP and an optimizer of this library."""
    flow = resflow.bijectors.Flow([tfp.bijectors.Scale(2.0), resflow.flows.vector_flow(2, 1, (4,))])
    model = resflow.FlowModel(flow, 2)
    model.initialize(X)
    model.compile(resflow.models.Adam(1e-3))
    model.fit(X, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path, monitor="loss")])
    return model


def of_classifier(path):
    flow = resflow.flows.vector_flow(2, 1, (4,))
    inputs = keras.Input([2])
    classifier = keras.Model([inputs], keras.layers.Dense(3)(inputs))
    model = resflow.HybridModel(flow, classifier, (2,))
    model.save(path)
    return model


def of_simulator(kind):
    def write(path):
        prior = tfp.distributions.MultivariateNormalDiag(np.zeros(2, "float32"), np.ones(2, "float32"))
        estimator = kind(prior, [2], num_blocks=1, hidden=(4,), ensemble=1)
        estimator.fit(X, X, epochs=1, verbose=0, weight_decays=[0.0])
        estimator.save(path)
        return estimator

    return write


def of_networks(path):
    """Writes a model of Keras's with a function and layers of this library."""
    network = resflow.flows.dense_coupling_network(4, (8,), condition_size=2)
    x = keras.Input([2])
    h = resflow.layers.LipSwish()(resflow.layers.LipschitzDense(4)(x))
    model = keras.Model(x, network([h[:, :2], x]))
    model.compile(resflow.models.Adam(1e-3), "mse")
    model.save(path)
    return model


def of_table(path):
    density = resflow.FlowDensity(num_members=1, max_steps=2, num_blocks=1, hidden=(4,), random_state=0)
    density.fit(np.float64(X))
    density.save(path)
    return density


LOG_PROB = "lambda model, x: model.log_prob(x, 0, evaluation=True)"
POSTERIOR = "lambda estimator, x: estimator.posterior(x[0]).log_prob(x)"
PROBABILITIES = "lambda model, x: model(x)"
# How to write a file, its suffix, how to load it, and what to compute.
FILES = {
    "FlowModel": (of_checkpoint, "keras", KERAS, LOG_PROB),
    "FlowModel, keras first": (of_checkpoint, "keras", KERAS_FIRST, LOG_PROB),
    "HybridModel": (of_classifier, "keras", KERAS, PROBABILITIES),
    "PosteriorModel": (of_simulator(resflow.PosteriorEstimator), "keras", RESFLOW, POSTERIOR),
    "PosteriorModel, keras": (
        of_simulator(resflow.PosteriorEstimator), "keras", KERAS + "\nloaded = loaded.estimator", POSTERIOR
    ),
    "PosteriorEstimator, pickle": (of_simulator(resflow.PosteriorEstimator), "pkl", PICKLE, POSTERIOR),
    "LikelihoodEstimator": (
        of_simulator(resflow.sbi.LikelihoodEstimator), "keras", RESFLOW,
        "lambda estimator, x: estimator.likelihood(x).log_prob(x)",
    ),
    "networks": (of_networks, "keras", KERAS, PROBABILITIES),
    "FlowDensity": (of_table, "npz", RESFLOW, "lambda density, x: density.score_samples(x)"),
    "run": (lambda path: resflow.load("pinwheel"), "none", RESFLOW.replace("{path!r}", "'pinwheel'"),
            "lambda run, x: " + LOG_PROB.replace("lambda model, x: model", "run.model")),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_in_a_new_process(name, tmp_path, process):
    write, suffix, load, call = FILES[name]
    path = tmp_path / f"file.{suffix}"
    written = write(str(tmp_path / "file.keras") if suffix == "pkl" else str(path))
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(written))
    np.savez(tmp_path / "expected.npz", x=X, expected=np.asarray(eval(call)(written, X)))
    code = load.format(path=str(path)) + f"\ncall = {call}" + CHECK
    process("-c", code, tmp_path / "expected.npz", check=True)


def test_all_models_are_tested():
    kinds = [kind for kind in keras.saving.get_custom_objects().values() if isinstance(kind, type)]
    models = {kind.__name__ for kind in kinds if issubclass(kind, KerasTraining) and kind is not KerasTraining}
    assert {name for name in models if name in registration._NAMES.split()} <= set(FILES)


def test_loaded_models_are_exported_in_a_new_process(tmp_path, process):
    """`export` needs no other import than those that load the model."""
    path = tmp_path / "file.keras"
    of_classifier(str(path))
    for load in (KERAS, KERAS_FIRST, RESFLOW):
        export = "\nimport sys\nloaded.export(sys.argv[1], signatures=['classify'], verbose=False)"
        process("-c", load.format(path=str(path)) + export, tmp_path / "served", check=True)
        assert (tmp_path / "served" / "signatures.json").exists()
        shutil.rmtree(tmp_path / "served")


def test_all_names_in_a_new_process(process):
    process("-c", ALL_NAMES, check=True)
