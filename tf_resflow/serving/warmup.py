"""Requests that TensorFlow Serving answers by itself before it takes those of clients."""

import numpy as np
import tensorflow as tf

__all__ = ["write_warmup"]

_BATCH_SIZES = (1, 8)


def write_warmup(inputs, path):
    """Writes a request of each size of batch for the signatures whose inputs are batches.

    A first request allocates and chooses kernels: it is slow, and better not a client's. The others share what
    takes the time with these; a server that batches requests takes no scalars, and would not load the model if one
    of its warm-up requests failed.

    Args:
      inputs: dict of a signature's name to its list of `tf.TensorSpec`.
      path: directory of the SavedModel, a `pathlib.Path`; the file is `assets.extra/tf_serving_warmup_requests`.

    Raises:
      ValueError: when the package tensorflow-serving-api is not installed.
    """
    log = prediction_log()
    extra = path / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for name, specs in inputs.items():
            if any(spec.shape.rank == 0 for spec in specs):
                continue
            for size in _BATCH_SIZES:
                file.write(_request(log, name, specs, size).SerializeToString())


def prediction_log():
    """The message of TensorFlow Serving's log of requests.

    Raises:
      ValueError: when the package tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        raise ValueError(
            "To write warm-up requests the package tensorflow-serving-api is needed: "
            "pip install tensorflow-serving-api."
        ) from None
    return PredictionLog


def _request(log, name, specs, size):
    record = log()
    request = record.predict_log.request
    request.model_spec.signature_name = name
    for spec in specs:
        shape = [size if length is None else length for length in spec.shape]
        request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(np.zeros(shape, spec.dtype.as_numpy_dtype)))
    return record
