"""The SavedModel of signatures, as TensorFlow Serving and clients in other languages want it."""

import logging

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

__all__ = ["read_signatures", "write_saved_model"]

_FILE = "saved_model.pb"


def write_saved_model(signatures, weights, path):
    """Writes a SavedModel that needs TensorFlow alone.

    Args:
      signatures: `Signatures`.
      weights: the Keras variables that they read.
      path: directory to write to, a `pathlib.Path`.
    """
    module = tf.Module()
    module.weights = [weight.value for weight in weights]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with _quiet():
        tf.saved_model.save(module, str(path), signatures=signatures.functions(), options=options)
    _declare(path, signatures.inputs)


def read_signatures(path):
    """The `SignatureDef`s of a SavedModel, by name.

    Args:
      path: its directory, a `pathlib.Path`.
    """
    found = dict(_read(path).meta_graphs[0].signature_def)
    return {name: found[name] for name in found if not name.startswith("__")}


def _declare(path, inputs):
    """Puts the shapes that the graph checks into the signatures, and takes out marks of gradients.

    The functions take tensors of any shape, so that their own message answers a wrong one; whoever reads the
    signature is to see the right one. The marks name Python functions, and at each loading TensorFlow warns of
    each that it does not find them.
    """
    saved = _read(path)
    (graph,) = saved.meta_graphs
    for name, specs in inputs.items():
        for spec in specs:
            info = graph.signature_def[name].inputs[spec.name]
            info.tensor_shape.CopyFrom(spec.shape.as_proto())
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            node.attr.pop("_gradient_op_type", None)
    (path / _FILE).write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(path))


def _read(path):
    return saved_model_pb2.SavedModel.FromString((path / _FILE).read_bytes())


class _quiet:
    """Without TensorFlow's lines about assets and untraced functions."""

    def __enter__(self):
        self._level = tf.get_logger().level
        tf.get_logger().setLevel(logging.ERROR)

    def __exit__(self, *_):
        tf.get_logger().setLevel(self._level)
