"""Serves an exported model over HTTP, by the requests of TensorFlow Serving's REST API. It needs TensorFlow alone.

    python examples/http_server/server.py served/digits/1 8501
    curl localhost:8501/v1/models/flow/metadata
    curl localhost:8501/v1/models/flow:predict \
      -d '{"signature_name": "sample", "inputs": {"num": 2, "seed": 7, "temperature": 0.8}}'

It listens on this machine only; a proxy before it adds TLS, accounts and limits. Each request has a thread.
"""

import http.server
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

MAX_BYTES = 2**26  # of a request


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests for one model; `model` and `description` are set in `main`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Whether the server is ready, and what it can be asked."""
        known = self.path.rstrip("/") in ("/v1/models/flow", "/v1/models/flow/metadata")
        self.answer(200 if known else 404, self.description if known else {"error": f"Unknown path {self.path}"})

    def do_POST(self):
        """The outputs of a signature for the inputs of the request."""
        size = int(self.headers.get("Content-Length", 0))
        if self.path != "/v1/models/flow:predict" or not 0 < size <= MAX_BYTES:
            self.close_connection = True  # with the body unread
            return self.answer(
                404, {"error": f"POST /v1/models/flow:predict takes a body of up to {MAX_BYTES} bytes"}
            )
        try:
            self.answer(200, {"outputs": self.predict(**json.loads(self.rfile.read(size)))})
        except (OverflowError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            self.answer(400, {"error": str(error).rpartition("assertion failed: ")[2]})

    def predict(self, inputs, signature_name="serving_default"):
        """Nested lists of the outputs, by name."""
        signatures = self.description["signatures"]
        if signature_name not in signatures:
            raise ValueError(f"signature_name is one of {', '.join(signatures)}; got {signature_name!r}")
        specs = signatures[signature_name]["inputs"]
        if not isinstance(inputs, dict) or inputs.keys() != specs.keys():
            raise ValueError(f"The inputs of {signature_name} are an object with {', '.join(specs)}")
        tensors = {name: to_tensor(name, inputs[name], spec) for name, spec in specs.items()}
        outputs = self.model.signatures[signature_name](**tensors)
        return {name: value.numpy().tolist() for name, value in outputs.items()}

    def answer(self, status, content):
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def to_tensor(name, value, spec):
    """Numbers of JSON in the type of a signature's input; a ValueError if they do not fit."""
    array = np.array(value)
    found = array.astype(spec["dtype"])
    if found.dtype.kind in "iu" and not np.array_equal(found, array):
        raise ValueError(f"{name} takes numbers of type {spec['dtype']}")
    shape = [None if size == -1 else size for size in spec["shape"]]
    if not tf.TensorShape(shape).is_compatible_with(found.shape):
        raise ValueError(
            f"{name} has the shape {spec['shape']}, -1 for the number of examples; got {list(found.shape)}"
        )
    return tf.constant(found)


def main(path, port):
    """Loads the model, calls each signature once, because first calls are slow, and serves."""
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
