"""Requests that TensorFlow Serving answers by itself before it serves clients."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

__all__ = ["write_warmup"]

_BATCH_SIZES = (1, 8)


def write_warmup(
    inputs: Mapping[str, Sequence[tf.TensorSpec]], path: pathlib.Path, max_batch: int | None = None
) -> None:
    """Writes a request of each batch size for the signatures whose inputs are batches.

    A first request allocates and chooses kernels: it is slow, and should not be a client's. The other signatures
    share the slow part with these; a server that batches requests takes no scalars, and would not load the model if
    one of its warm-up requests failed.

    Without the package tensorflow-serving-api nothing is written, and a warning is logged.
    """
    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        logging.warning(
            "No warm-up requests for TensorFlow Serving were written: they need the package tensorflow-serving-api "
            '(pip install "tf-resflow[serving]").'
        )
        return
    extra = path / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for name, specs in inputs.items():
            if any(spec.shape.rank == 0 for spec in specs):
                continue
            for size in sorted({min(size, max_batch or size) for size in _BATCH_SIZES}):
                file.write(_request(PredictionLog(), name, specs, size).SerializeToString())


def _request(record, name, specs, size):
    request = record.predict_log.request
    request.model_spec.signature_name = name
    for spec in specs:
        shape = [size if length is None else length for length in spec.shape]
        request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(np.zeros(shape, spec.dtype.as_numpy_dtype)))
    return record
