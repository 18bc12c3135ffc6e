"""Export of a model as a versioned SavedModel, with its documentation and warm-up requests."""

import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import saved_model_pb2

from tf_resflow import layers
from tf_resflow._internal import console
from tf_resflow._internal.writing import explain_write_errors, new_version_folder, temporary_folder
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.serving.description import describe, example_inputs, readme
from tf_resflow.serving.signatures import Signatures

_WARMUP_SIZES = (1, 8)  # batch sizes of warm-up requests


def export(
    model: KerasTraining,
    export_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    about: str = "",
    measured: Mapping[str, float] | None = None,
    held_out: Iterable[Any] | None = None,
    **settings: Any,
) -> pathlib.Path:
    r"""Exports a model as a SavedModel to `export_dir/version/`, the layout that TensorFlow Serving expects.

    The SavedModel has these signatures:

    - `serving_default(x)`: `log_prob` in nats, `log_prob_stderr` and, for integer data, `bits_per_dim`. With
      `held_out`, also `p_value`, see `tf_resflow.evaluation.p_values`. For real data, also `valid`, which is False
      for an example with NaN or infinity. Its other results are NaN.
    - `log_prob_seeded(x, seed)`: the same outputs, with random numbers drawn from `seed`
    - `sample(num, seed, temperature)`: `x`, and `converged`, whether the inverse of each block met its tolerance
    - `encode(x)`: `z` and, for real data, `valid`; integers are encoded at the centers of their cells
    - `decode(z)`: the same outputs as `sample`
    - `classify(x)`, for a `HybridModel`: `logits`, `probabilities`, `label`

    For a conditional model, all signatures except `classify` have an additional input `condition`, with one row per
    example or one row for all: integers for labels, otherwise real numbers in the units of the data. A model
    without a trained density has only `classify`, which is then the `serving_default`.

    log_prob is the mean of K estimates, each with its own dequantization and probes,

    \\(\frac{1}{K} \sum_k [\log p((x + u_k) / L) - \log q(u_k \mid x) - D \log L]\\)

    with \\(\log q = 0\\) for uniform noise. Continuous data are not dequantized. log_prob_stderr is the standard
    error of the mean: 0 for an exact log-determinant of continuous data, and NaN where log_prob is -inf.

    All examples of a request share their random numbers. Therefore an answer does not depend on the rest of the
    batch (except for rounding), and a server may batch requests. The graph
    checks shapes and values. Invalid inputs cause an InvalidArgumentError in any language.

    The folder also has README.md, signatures.json and, if tensorflow-serving-api is installed, warm-up requests.

    ```python
    import tensorflow as tf, tf_resflow as resflow

    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1,), width=8, num_fc_blocks=0)
    model = resflow.FlowModel(flow, event_shape=(8, 8, 1), levels=17)
    path = resflow.serving.export(model, "served/flow")

    served = tf.saved_model.load(str(path)).signatures
    num, temperature = tf.constant(3), tf.constant(1.0)
    x = served["sample"](num=num, seed=tf.constant(0, tf.int64), temperature=temperature)["x"]
    scores = served["serving_default"](x=x)
    z = served["encode"](x=x)["z"]
    print(path, x.dtype.name, x.shape, sorted(scores))
    # served/flow/1 uint8 (3, 8, 8, 1) ['bits_per_dim', 'log_prob', 'log_prob_stderr']
    print(bool(tf.reduce_all(served["decode"](z=z)["x"] == x)))
    # True
    ```

    Args:
      model: A `FlowModel` or `HybridModel`.
      export_dir: Directory for the versions of the model. Created if necessary.
      version: `int` >= 1. The default is one more than the largest existing version.
      about: A paragraph about the model, for README.md.
      measured: Properties of log_prob for signatures.json, such as its standard error on given data.
      held_out: Batches of held-out examples, or of pairs of examples and conditions for a conditional model.
      **settings:
        `num_samples`: K, at least 2 for noisy estimates. The default is 8.
        `log_det_estimator`: See `tf_resflow.evaluation.estimate_log_prob`.
        `seed`: `int`, the seed of `serving_default`.
        `max_samples`: Maximum `num` of `sample`. The default is 1024.
        `max_batch`: Maximum number of examples or latents per request. The default is no limit.
        `signatures`: Names of the signatures. The default is all. If `serving_default` is not among them, the first
        one also has this name, because servers use it for requests that do not name a signature.
        `precise`: Whether `sample` and `decode` invert to the rounding error of the dtype, see `FlowModel.decode`.

    Returns:
      The path of the version.

    Raises:
      ValueError: If the version exists, a signature is unknown, or K is too small.
      OSError: If the files cannot be written. An incomplete version is removed.
    """
    networks = model.networks().frozen(lambda parameter: tf.Variable(parameter, trainable=False))
    signatures = Signatures(model, networks=networks, **settings)
    new_version_folder(export_dir, version)
    layers.converge_norms(model)
    for variable, parameter in zip(networks.parameters, model.networks().parameters, strict=True):
        variable.assign(parameter)
    if held_out is not None and signatures.has_scores:
        signatures.compare_with(console.track(held_out, "held-out examples"))
    variables = [*networks.parameters, *(weight.value for weight in model.weights), *model.statistics.values()]

    def documentation(tensors):
        description = describe(signatures, tensors, measured)
        return description, readme(description, example_inputs(tensors), about)

    requests = warmup_requests(signatures.inputs, signatures.max_batch)
    return write_saved_model(signatures.functions(), variables, documentation, requests, export_dir, version)


def export_to(model: KerasTraining, path: str | os.PathLike[str], **settings: Any) -> None:
    """Exports a model to `path` itself, and replaces the files of an earlier export. See `export` for the rest.

    Raises:
      ValueError: If `path` has files, but no SavedModel, so that its README.md would be lost, or if the settings
        contain a `version` or an `input_signature`, which is a setting of `keras.Model.export`.
    """
    unsupported = {"input_signature", "version"} & settings.keys()
    if unsupported:
        raise ValueError(
            f"Got {', '.join(unsupported)}. Choose signatures by name, as in signatures=['encode'], and write "
            "numbered versions with tf_resflow.serving.export(model, export_dir)."
        )
    path = pathlib.Path(path).expanduser().absolute()
    if path.is_file() or (path.exists() and any(path.iterdir()) and not (path / "saved_model.pb").exists()):
        raise ValueError(f"{path} has files, but no SavedModel. Export to a new folder, such as {path / 'served'}.")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(path), temporary_folder(path.parent) as folder:
        shutil.copytree(export(model, folder, **settings), path, dirs_exist_ok=True)


def write_saved_model(
    functions: Mapping[str, Any],
    variables: Iterable[tf.Variable],
    documentation: Callable[[dict[str, Any]], tuple[Mapping[str, Any], str]],
    requests: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    export_dir: str | os.PathLike[str],
    version: int | None = None,
) -> pathlib.Path:
    """Writes functions as a SavedModel to `export_dir/version/`, with its documentation and warm-up requests.

    The version appears when it is complete, or not at all.

    Args:
      functions: Dict of the name of each signature to its `tf.function` with an `input_signature`.
      variables: The variables that the functions may read. Only those that they read are stored.
      documentation: Function of the result of `read_signatures` that returns the content of signatures.json and the
        text of README.md.
      requests: Pairs of the name of a signature and its inputs, see `warmup_requests`.
      export_dir: Directory for the versions of the model.
      version: `int` >= 1. The default is one more than the largest existing version.

    Returns:
      The path of the version.
    """
    parent = new_version_folder(export_dir, version).parent
    with explain_write_errors(parent), temporary_folder(parent) as folder:
        path = folder / "model"
        _save(functions, variables, path)
        _write_requests(requests, path)
        description, text = documentation(read_signatures(path))
        (path / "signatures.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (path / "README.md").write_text(text, encoding="utf-8")
        return path.rename(new_version_folder(parent, version))


def _save(functions, variables, path):
    """Writes a SavedModel that needs only TensorFlow, with the variables that its functions read."""
    traces = [function.get_concrete_function() for function in functions.values()]
    handles = itertools.chain.from_iterable(trace.captured_inputs for trace in traces)
    read = set(map(id, handles))
    module = tf.Module()
    module.weights = [variable for variable in variables if id(variable.handle) in read]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")  # hides messages about assets and untraced functions
    try:
        tf.saved_model.save(module, str(path), signatures=dict(functions), options=options)
    finally:
        tf.get_logger().setLevel(level)


def read_signatures(path: pathlib.Path) -> dict[str, Any]:
    """Returns the tensors of a SavedModel: for each signature, a dict of its "inputs" and "outputs" by name.

    Each tensor is a dict of its "dtype", its "shape" with -1 for the batch, and its name in the graph, "tensor".
    """
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return {
        name: {"inputs": _tensors(definition.inputs), "outputs": _tensors(definition.outputs)}
        for name, definition in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


def _tensors(infos):
    return {
        name: {
            "dtype": tf.as_dtype(infos[name].dtype).name,
            "shape": [dim.size for dim in infos[name].tensor_shape.dim],
            "tensor": infos[name].name,
        }
        for name in sorted(infos)
    }


def warmup_requests(
    inputs: Mapping[str, Sequence[tf.TensorSpec]], max_batch: int | None = None
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Returns requests of zeros, for batches of 1 and 8 rows, of the signatures with these inputs.

    Signatures with scalar inputs are left out, because batching servers reject scalars. Other signatures warm up
    the same functions.
    """
    sizes = sorted({min(size, max_batch or size) for size in _WARMUP_SIZES})
    batched = {name: specs for name, specs in inputs.items() if all(spec.shape.rank for spec in specs)}
    return [(name, _zeros(specs, size)) for name, specs in batched.items() for size in sizes]


def _zeros(specs, size):
    return {spec.name: np.zeros([size, *spec.shape[1:]], spec.dtype.as_numpy_dtype) for spec in specs}


def _write_requests(requests, path):
    """Writes requests that TensorFlow Serving runs before it serves clients, because first requests are slow."""
    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError:
        logging.warning(
            "No warm-up requests for TensorFlow Serving were written, because the package tensorflow-serving-api "
            'is not installed: pip install "tf-resflow[serving]"'
        )
        return
    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for name, inputs in requests:
            record = PredictionLog()
            request = record.predict_log.request
            request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            file.write(record.SerializeToString())
