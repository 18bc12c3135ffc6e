"""The SavedModel of signatures, for TensorFlow Serving and clients in other languages."""

import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_resflow.serving.signatures import Signatures

__all__ = ["read_signatures", "write_saved_model"]


def write_saved_model(signatures: Signatures, variables: Iterable[tf.Variable], path: pathlib.Path) -> None:
    """Writes a SavedModel that needs TensorFlow alone, with those of the variables that its signatures read."""
    functions = signatures.functions()
    traces = [function.get_concrete_function() for function in functions.values()]
    read = {id(handle) for trace in traces for handle in trace.captured_inputs}
    module = tf.Module()
    module.weights = [variable for variable in variables if id(variable.handle) in read]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with _quiet():
        tf.saved_model.save(module, str(path), signatures=functions, options=options)


def read_signatures(path: pathlib.Path) -> dict[str, Any]:
    """The `SignatureDef`s of a SavedModel, by name."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    found = dict(saved.meta_graphs[0].signature_def)
    return {name: found[name] for name in found if not name.startswith("__")}


class _quiet:
    """Without TensorFlow's lines about assets and untraced functions."""

    def __enter__(self):
        self._level = tf.get_logger().level
        tf.get_logger().setLevel(logging.ERROR)

    def __exit__(self, *_):
        tf.get_logger().setLevel(self._level)
