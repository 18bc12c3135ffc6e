"""Measures an exported model: the time to load it, and the time, memory and noise of its signatures by batch size.

    python benchmarks/time_serving.py --model_dir=served/digits/1

This script needs only TensorFlow. For each signature and batch size, the table lists the seconds of a call (median
and largest of --repeats calls, after a call that is not counted), the examples per second, the peak memory in MB,
and the mean standard error of log_prob in nats. The memory is in excess of a process that has answered a request
with one example. Examples are samples of the model. Each signature runs in its own process with increasing batch
sizes, because the peak memory of a process never decreases. Close other programs first.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Directory of one version of an exported model.")
_SIGNATURES = flags.DEFINE_list("signatures", None, "Signatures to measure. All by default.")
_SIZES = flags.DEFINE_list("sizes", ["1", "8", "64", "256"], "Batch sizes.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Number of timed calls per signature and batch size.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
flags.mark_flag_as_required("model_dir")
flags.register_validator("sizes", lambda sizes: all(s.isdigit() and int(s) for s in sizes), "integers >= 1")

_CHUNK = 16  # samples drawn at once for the inputs, whose memory should not hide that of the request


def _inputs(tf, signatures, name, size):
    """Returns the arguments of a signature: samples of the model or their latents, and a seed."""
    sampled = {"num": tf.constant(size), "seed": tf.constant(1, tf.int64), "temperature": tf.constant(1.0)}
    spec = signatures["sample"].structured_input_signature[1].get("condition")
    # All examples share one condition.
    given = {} if spec is None else {"condition": tf.zeros([1, *spec.shape[1:]], spec.dtype)}
    sampled |= given
    if name == "sample":
        return sampled
    wanted = signatures[name].structured_input_signature[1]
    chunk = tf.constant(min(size, _CHUNK))
    seeds = range(-(-size // _CHUNK))
    drawn = [signatures["sample"](**sampled | {"num": chunk, "seed": tf.constant(s, tf.int64)})["x"] for s in seeds]
    if name == "decode":
        return {"z": tf.concat([signatures["encode"](x=x, **given)["z"] for x in drawn], 0)[:size]} | given
    return {"x": tf.concat(drawn, 0)[:size]} | {key: sampled[key] for key in ("seed", "condition") if key in wanted}


def _answer(function, inputs):
    return {key: value.numpy() for key, value in function(**inputs).items()}


def _measure(path, name, sizes, repeats):
    """Returns the measurements of a signature, a dict by batch size, with the seconds of loading as "load"."""
    import tensorflow as tf  # the parent process does not need it

    start = time.perf_counter()
    signatures = tf.saved_model.load(str(path)).signatures
    results = {"load": time.perf_counter() - start}
    inputs = {size: _inputs(tf, signatures, name, size) for size in [1, *sizes]}
    _answer(signatures[name], inputs[1])
    base = _peak()
    for size in sizes:
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            answer = _answer(signatures[name], inputs[size])
            times.append(time.perf_counter() - start)
        found = {"seconds": times[1:], "peak_bytes": _peak() - base}
        if "log_prob_stderr" in answer:
            found["log_prob_stderr"] = float(answer["log_prob_stderr"].mean())
        results[str(size)] = found
    return results


def _peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _check(path):
    """Returns the signatures to measure. Ends the program if an argument is invalid."""
    if not (path / "signatures.json").is_file():
        sys.exit(f"Error: {path} has no signatures.json. Pass one version of a model that resflow-export wrote.")
    if _OUTPUT.value and not pathlib.Path(_OUTPUT.value).absolute().parent.is_dir():
        sys.exit(f"Error: the directory of --output={_OUTPUT.value} does not exist. Create it first.")
    described = json.loads((path / "signatures.json").read_text("utf-8"))
    known = described["signatures"]
    names = _SIGNATURES.value or list(known)
    if unknown := set(names) - set(known):
        sys.exit(f"Error: the model has no signature {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    if not {"sample", "encode"} <= set(known):
        sys.exit(
            "Error: the model has no signature sample or encode, which create the inputs. Export both of them."
        )
    most = {"sample": described["max_samples"]}
    for name in names:
        if (limit := most.get(name, described.get("max_batch"))) and max(map(int, _SIZES.value)) > limit:
            sys.exit(f"Error: {name} accepts at most {limit} examples. Choose smaller --sizes.")
    return names


def main(_):
    """Measures and prints the table."""
    path = pathlib.Path(_MODEL_DIR.value)
    names, sizes = _check(path), sorted(map(int, _SIZES.value))
    megabytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    print(f"{megabytes:.1f} MB")
    titles = ("median s", "largest s", "examples / s", "peak MB", "stderr")
    print(f"{'signature':<18}{'batch':>7}" + "".join(f"{title:>14}" for title in titles))
    results = {"megabytes": megabytes}
    for name in names:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            found = executor.submit(_measure, path, name, sizes, _REPEATS.value).result()
        results[name] = found
        for size in sizes:
            row = found[str(size)]
            median, stderr = statistics.median(row["seconds"]), row.get("log_prob_stderr")
            print(
                f"{name:<18}{size:>7}{median:>14.4f}{max(row['seconds']):>14.4f}{size / median:>14.1f}"
                f"{row['peak_bytes'] / 1e6:>14.0f}{'' if stderr is None else format(stderr, '14.3f')}",
                flush=True,
            )
    print(f"Loaded in {statistics.median(results[name]['load'] for name in names):.2f} s.")
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    app.run(main)
