"""Sends requests of TensorFlow Serving's API over gRPC to a stub server that runs an exported model.

The server runs the signature that a request names, and answers with named tensors or INVALID_ARGUMENT.
"""

from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict requests with the model of an export."""

    def __init__(self, path):
        self._model = tf.saved_model.load(str(path))

    def Predict(self, request, context):
        signature = self._model.signatures[request.model_spec.signature_name or "serving_default"]
        try:
            outputs = signature(
                **{key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            )
        except (TypeError, tf.errors.InvalidArgumentError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = PredictResponse()
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


@pytest.fixture(scope="module")
def predict(exported_float32):
    """Returns a function that sends a request, or inputs, to a server."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(exported_float32), server)
    port = server.add_insecure_port("localhost:0")
    server.start()

    def predict(request=None, **inputs):
        if request is None:
            request = PredictRequest()
            request.model_spec.name = "flow"
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

    yield predict
    server.stop(None)


def test_requests(predict, float32_model):
    """A row with NaN is not valid, and a request of the wrong type or shape is an error."""
    x = np.random.default_rng(0).normal(size=[3, 3]).astype("float32")
    x[1, 2] = np.nan
    answer = predict(x=x)
    assert answer["valid"].tolist() == [True, False, True]
    expected = float32_model.log_prob(np.nan_to_num(x), evaluation=True)
    np.testing.assert_allclose(answer["log_prob"][[0, 2]], expected.numpy()[[0, 2]], rtol=1e-4)
    assert np.isnan(answer["log_prob"][1])
    for wrong, message in (
        ({"x": x.astype(float)}, "expected to be a float tensor"),
        ({"x": x[:, :2]}, "x must have the shape [-1, 3]"),
        ({"y": x}, "x"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            predict(**wrong)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and message in error.value.details()


def test_warm_up_requests_are_answered(predict, exported_float32):
    path = exported_float32 / "assets.extra" / "tf_serving_warmup_requests"
    (first, *_) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    answer = predict(PredictionLog.FromString(first).predict_log.request)
    assert np.isfinite(answer["log_prob"]).all()
