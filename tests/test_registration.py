"""The names that `import tf_resflow` registers with Keras are those of all registered classes."""

import importlib
import pkgutil
import subprocess
import sys
import types

import keras

import tf_resflow
from tf_resflow import registration


def registered():
    """Returns the registered objects of the library by name, after importing all of its modules."""
    for module in pkgutil.walk_packages(tf_resflow.__path__, "tf_resflow."):
        importlib.import_module(module.name)
    return {
        key.removeprefix("tf_resflow>"): value
        for key, value in keras.saving.get_custom_objects().items()
        if key.startswith("tf_resflow>") or getattr(value, "__module__", "").startswith("tf_resflow.")
    }


def test_all_registered_objects_are_listed():
    functions = {"_relu", "compressed"}
    removed = set(registration._REMOVED)
    found = registered()
    assert {name for name, value in found.items() if not isinstance(value, type)} == functions | removed
    assert set(registration._NAMES.split()) == set(found) - functions - removed
    for name in functions:  # they are registered without an import of other modules
        assert found[name].__module__ == "tf_resflow._internal.functions"


def test_registration_keeps_classes_and_adds_no_second_finder(monkeypatch):
    before, finders = dict(keras.saving.get_custom_objects()), list(sys.meta_path)
    registration.register_names()
    assert keras.saving.get_custom_objects() == before and sys.meta_path == finders
    monkeypatch.setattr(sys, "meta_path", finders.copy())
    monkeypatch.delitem(sys.modules, "keras.saving")
    for _ in range(2):
        registration.register_names()
    assert len(sys.meta_path) == len(finders) + 1


def test_a_name_stands_for_its_class():
    registry = {}
    saving = types.SimpleNamespace(
        get_custom_objects=lambda: registry, register_keras_serializable=lambda package: lambda value: value
    )
    registration._register(saving)
    assert len(registry) == len([*registration._NAMES.split(), *registration._REMOVED])
    estimator = registry["tf_resflow>Exact"].from_config({})
    assert estimator == tf_resflow.logdet.Exact()


def test_the_format_of_exports_is_registered():
    """It is known without an import of the application that writes it."""
    code = """
import sys
import tf_resflow
from tf_resflow.models.export_formats import EXPORT_FORMATS
assert list(EXPORT_FORMATS) == ["tf_saved_model"]
assert not {"keras", "tensorflow", "tf_resflow.serving", "tf_resflow.models.flow_model"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_that_was_removed_is_named(refused):
    config = {"class_name": "AdaptiveSeries", "config": {}, "registered_name": "tf_resflow>AdaptiveSeries"}
    message = "class AdaptiveSeries, which this version does not have. Load the file with the version that wrote it"
    refused(message, keras.saving.deserialize_keras_object, config)
