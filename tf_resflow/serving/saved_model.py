"""The SavedModel of signatures, for TensorFlow Serving and clients in other languages."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import saved_model_pb2

from tf_resflow.serving.signatures import Signatures

_BATCH_SIZES = (1, 8)  # of warm-up requests


def write_saved_model(signatures: Signatures, variables: Iterable[tf.Variable], path: pathlib.Path) -> None:
    """Writes a SavedModel that needs only TensorFlow, with the variables that its signatures read."""
    functions = signatures.functions()
    traces = [function.get_concrete_function() for function in functions.values()]
    read = {id(handle) for trace in traces for handle in trace.captured_inputs}
    module = tf.Module()
    module.weights = [variable for variable in variables if id(variable.handle) in read]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")  # hides messages about assets and untraced functions
    try:
        tf.saved_model.save(module, str(path), signatures=functions, options=options)
    finally:
        tf.get_logger().setLevel(level)


def read_signatures(path: pathlib.Path) -> dict[str, Any]:
    """The `SignatureDef`s of a SavedModel, by name."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    found = saved.meta_graphs[0].signature_def.items()
    return {name: definition for name, definition in found if not name.startswith("__")}


def write_warmup(
    inputs: Mapping[str, Sequence[tf.TensorSpec]], path: pathlib.Path, max_batch: int | None = None
) -> None:
    """Writes requests that TensorFlow Serving answers before it serves clients, because first requests are slow.

    Signatures with scalar inputs are left out: they share their slow part with the others, and a server that
    batches requests accepts no scalars.
    """
    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        logging.warning(
            "No warm-up requests for TensorFlow Serving were written: they need the package tensorflow-serving-api "
            '(pip install "tf-resflow[serving]").'
        )
        return
    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for name, specs in inputs.items():
            if any(spec.shape.rank == 0 for spec in specs):
                continue
            for size in sorted({min(size, max_batch or size) for size in _BATCH_SIZES}):
                record = PredictionLog()
                request = record.predict_log.request
                request.model_spec.signature_name = name
                for spec in specs:
                    zeros = np.zeros([size, *spec.shape[1:]], spec.dtype.as_numpy_dtype)
                    request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(zeros))
                file.write(record.SerializeToString())
