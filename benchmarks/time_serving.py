"""Times an exported model: loading, and each signature at several batch sizes.

    python benchmarks/time_serving.py --model_dir=served/digits/1

This needs only TensorFlow. For each signature and batch size the table has the seconds of a call (median and
largest of --repeats, after a call that is not counted) and the examples per second. Close other programs first.
"""

import json
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Directory of one version of an exported model.")
_SIZES = flags.DEFINE_list("sizes", ["1", "8", "64", "256"], "Batch sizes.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed calls of each signature and size.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the results.")
flags.mark_flag_as_required("model_dir")
flags.register_validator("sizes", lambda sizes: all(s.isdigit() and int(s) for s in sizes), "integers >= 1")


def _inputs(signatures, name, size):
    """The arguments of a signature: samples of the model, their latents, a seed."""
    sampled = {"num": tf.constant(size), "seed": tf.constant(1, tf.int64), "temperature": tf.constant(1.0)}
    wanted = signatures[name].structured_input_signature[1]
    if name == "sample":
        return sampled
    x = signatures["sample"](**sampled)["x"]
    if name == "decode":
        return signatures["encode"](x=x)
    return {"x": x} | ({"seed": tf.constant(1, tf.int64)} if "seed" in wanted else {})


def _seconds(function, inputs, repeats):
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        tf.nest.map_structure(lambda tensor: tensor.numpy(), function(**inputs))
        times.append(time.perf_counter() - start)
    return times[1:]


def _megabytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def main(_):
    """Measures and prints the table."""
    path = pathlib.Path(_MODEL_DIR.value)
    if not (path / "README.md").is_file():
        sys.exit(f"Error: {path} is not a version of a model that resflow-export has written.")
    if _OUTPUT.value and not pathlib.Path(_OUTPUT.value).absolute().parent.is_dir():
        sys.exit(f"Error: the directory of --output={_OUTPUT.value} does not exist.")
    start = time.perf_counter()
    signatures = tf.saved_model.load(str(path)).signatures
    loaded = time.perf_counter() - start
    try:
        _seconds(signatures["sample"], _inputs(signatures, "sample", max(map(int, _SIZES.value))), 1)
    except tf.errors.InvalidArgumentError as error:
        sys.exit(f"Error: --sizes are too large for the model: {error}")
    results = {"megabytes": _megabytes(path), "load": loaded}
    print(f"{results['megabytes']:.1f} MB, loaded in {results['load']:.2f} s")
    print(f"{'signature':<18}{'batch':>7}{'median s':>12}{'largest s':>12}{'examples / s':>15}")
    for name in signatures:
        for size in map(int, _SIZES.value):
            times = _seconds(signatures[name], _inputs(signatures, name, size), _REPEATS.value)
            median = statistics.median(times)
            results[f"{name} {size}"] = times
            print(f"{name:<18}{size:>7}{median:>12.4f}{max(times):>12.4f}{size / median:>15.1f}", flush=True)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    app.run(main)
