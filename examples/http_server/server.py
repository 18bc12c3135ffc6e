"""Serves an exported model over HTTP with the REST API of TensorFlow Serving. Requires TensorFlow and NumPy only.

    python examples/http_server/server.py served/digits/1 8501
    curl localhost:8501/v1/models/flow/metadata
    curl localhost:8501/v1/models/flow:predict \
      -d '{"signature_name": "sample", "inputs": {"num": 2, "seed": 7, "temperature": 0.8}}'

The server listens on localhost only. Use a proxy for TLS, accounts and limits. Each request has its own thread.
"""

import http.server
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

MAX_BYTES = 2**26  # size limit of a request


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests for one model. `main` sets the attributes `model` and `description`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Returns the signatures of the model. The status also shows that the server is ready."""
        known = self.path.rstrip("/") in ("/v1/models/flow", "/v1/models/flow/metadata")
        self.answer(200 if known else 404, self.description if known else {"error": f"Unknown path {self.path}"})

    def do_POST(self):
        """Returns the outputs of a signature for the inputs in the request."""
        size = int(self.headers.get("Content-Length", 0))
        if self.path != "/v1/models/flow:predict" or not 0 < size <= MAX_BYTES:
            self.close_connection = True  # because the body was not read
            expected = f"send 1 to {MAX_BYTES} bytes to /v1/models/flow:predict"
            return self.answer(404, {"error": f"Cannot answer a POST of {size} bytes to {self.path}: {expected}"})
        try:
            self.answer(200, {"outputs": self.predict(**json.loads(self.rfile.read(size)))})
        except (OverflowError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            self.answer(400, {"error": str(error).rpartition("assertion failed: ")[2]})

    def predict(self, inputs, signature_name="serving_default"):
        """Returns a dict from output names to nested lists."""
        signatures = self.description["signatures"]
        if signature_name not in signatures:
            raise ValueError(f"Unknown signature_name {signature_name!r}: choose one of {', '.join(signatures)}")
        specs = signatures[signature_name]["inputs"]
        if not isinstance(inputs, dict) or inputs.keys() != specs.keys():
            raise ValueError(f"The inputs of {signature_name} must be an object with the keys {', '.join(specs)}")
        tensors = {name: to_tensor(name, inputs[name], spec) for name, spec in specs.items()}
        outputs = self.model.signatures[signature_name](**tensors)
        return {name: value.numpy().tolist() for name, value in outputs.items()}

    def answer(self, status, content):
        """Sends a response in JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def to_tensor(name, value, spec):
    """Converts numbers from JSON to a tensor. Raises a ValueError if their type or shape does not fit."""
    array = np.array(value)
    found = array.astype(spec["dtype"])
    if found.dtype.kind in "iu" and not np.array_equal(found, array):
        raise ValueError(f"{name} has values that do not fit {spec['dtype']}: send numbers of this type")
    shape = [None if size == -1 else size for size in spec["shape"]]
    if not tf.TensorShape(shape).is_compatible_with(found.shape):
        raise ValueError(
            f"{name} has the shape {list(found.shape)}; expected {spec['shape']} (-1 is the number of examples)"
        )
    return tf.constant(found)


def main(path, port):
    """Loads the model and serves it. Calls each signature once before, because first calls are slow."""
    Handler.model = tf.saved_model.load(path)
    Handler.description = json.loads((pathlib.Path(path) / "signatures.json").read_text("utf-8"))
    for name, signature in Handler.description["signatures"].items():
        inputs = {
            key: tf.ones([1 if size == -1 else size for size in spec["shape"]], spec["dtype"])
            for key, spec in signature["inputs"].items()
        }
        Handler.model.signatures[name](**inputs)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    print(f"Serving {path} on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
