"""What a client should know about exported signatures: signatures.json, and README.md, which also has the run."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_resflow.data import ColumnCodes
from tf_resflow.evaluation.planning import describe_estimator
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE
from tf_resflow.serving.signatures import Signatures
from tf_resflow.training.runs import Run
from tf_resflow.version import __version__

_QUANTILES = (0.001, 0.01, 0.05, 0.5)

_DESCRIPTIONS = {
    "serving_default": "The log-likelihood of each example, in nats, by fixed random numbers: the answer is the "
    "same each time.",
    "log_prob_seeded": "The log-likelihood of each example, in nats, by random numbers of a seed. The mean over "
    "several seeds has less noise.",
    "sample": "New examples, a pure function of their number, the seed and the temperature, which is 1 for samples "
    "of the model; below 1 they vary less. Discard an example that has not converged: the solver of the inverse "
    "stopped before it met its tolerance, for integer data a fraction of a level.",
    "encode": "The latent of each example.",
    "decode": "The example of each latent, the inverse of encode. Discard an example that has not converged.",
    "classify": "The classifier's logits and probabilities, and the most probable label.",
}

_TEMPLATE = """\
# Residual flow

A TensorFlow SavedModel. TensorFlow (Python, C, C++, Go, Java) and TensorFlow Serving run it without tf_resflow.
Exported on {date} by tf_resflow {version} with TensorFlow {tf.__version__}.
{training}
## Requests

In Python, in this folder:

```python
import json, pathlib
import numpy as np, tensorflow as tf

model = tf.saved_model.load(".")
inputs = {{{inputs}}}
answer = model.signatures["serving_default"](**{{name: tf.constant(value) for name, value in inputs.items()}})
print({{name: value.numpy().tolist() for name, value in answer.items()}})
request = {{"inputs": {{name: value.tolist() for name, value in inputs.items()}}}}
pathlib.Path("request.json").write_text(json.dumps(request))
```

Over HTTP, if TensorFlow Serving, or `examples/http_server/server.py` of tf_resflow, serves the model as `flow`:

```sh
curl localhost:8501/v1/models/flow:predict -d @request.json
```

A wrong input causes an INVALID_ARGUMENT error that says what is expected. A `condition` has one row for each
example, or one for all. `signatures.json` has the tables below for programs, the limits of a request, the estimator
of `log_prob`, and `log_prob` at some quantiles of the held-out examples.
{columns}
## Signatures

| Signature | | Tensor | Type | Shape | Name in the graph |
|---|---|---|---|---|---|
{tensors}
{texts}
"""
_TRAINING = """
Trained on {run.data.name} for {run.step:,} steps with {train.optimizer}, batches of {train.batch_size}, learning
rate {train.learning_rate:g} and seed {run.config.seed}. {result}.
"""


def describe(
    signatures: Signatures,
    definitions: Mapping[str, Any],
    measured: Mapping[str, float] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Returns the description of exported signatures, without the keys that do not apply.

    Args:
      signatures: the exported signatures.
      definitions: the `SignatureDef` of each signature.
      measured: numbers about log_prob, such as its standard error.
      columns: names of the columns of "x" and of "condition".
    """
    space = signatures.model.data_space
    found: dict[str, Any] = {
        "signatures": {
            name: {
                "description": _DESCRIPTIONS[name],
                "inputs": _tensors(definitions[name].inputs),
                "outputs": _tensors(definitions[name].outputs),
            }
            for name in signatures.inputs
        },
        "default": signatures.default,
        "levels": space.levels,
        "inverse_atol": signatures.inverse_atol or None,
        "max_batch": signatures.max_batch,
        "columns": {name: list(names) for name, names in (columns or {}).items()} or None,
        "codes": {name: of_name.to_json() for name, of_name in signatures.codes.items()} or None,
        "num_classes": signatures.model.condition.num_classes,
    }
    if signatures.default != "serving_default":
        text = f"The same as {signatures.default}, for requests that name no signature."
        found["signatures"]["serving_default"]["description"] = text
    if "sample" in signatures.inputs:
        found |= {"max_samples": signatures.max_samples, "max_temperature": MAX_TEMPERATURE}
    if signatures.has_scores:
        log_prob: dict[str, Any] = {"estimator": describe_estimator(signatures.plan.log_det_estimator)}
        if signatures.plan.stderr is not None:
            log_prob["estimator"] = {"type": "LikelihoodPlan", **signatures.plan.as_dict()}
        if signatures.samples.is_noisy:
            log_prob |= {"seed": signatures.seed, "num_samples": signatures.samples.num_samples}
        if space.dequantization is not None:
            log_prob["dequantization"] = space.dequantization
        if signatures.held_out is not None:
            scores = signatures.held_out.tolist()
            places = {q: int(q * len(scores) + 1e-9) for q in _QUANTILES}
            quantiles = {str(q): scores[i] for q, i in places.items() if i and math.isfinite(scores[i])}
            log_prob["held_out"] = {"num": len(scores), "quantiles": quantiles}
        found["log_prob"] = log_prob | dict(measured or {})
    return {key: value for key, value in found.items() if value is not None}


def readme(description: Mapping[str, Any], run: Run | None = None) -> str:
    """Returns the text, from the content of signatures.json and the run of the model, if there is one."""
    inputs, columns, tensors, training = [], "", "", ""
    signatures, codes = description["signatures"], description.get("codes", {})
    for name, spec in signatures["serving_default"]["inputs"].items():
        row = [code.get("first", 0) for code in codes.get(name, [])]  # values that can occur
        array = f"array([{row}]" if row else f"ones({[abs(size) for size in spec['shape']]}"
        inputs.append(f'"{name}": np.{array}, "{spec["dtype"]}")')
    for name, names in description.get("columns", {}).items():
        meanings = ColumnCodes.from_json(codes.get(name, [])).describe()
        rows = (f"\n- `{column}`: {meanings.get(column, 'a number')}" for column in names)
        columns += f"\nThe columns of `{name}`, in this order:\n{''.join(rows)}\n"
    for name, signature in signatures.items():
        for side in ("inputs", "outputs"):
            for tensor, spec in signature[side].items():
                shape = " x ".join(map(str, spec["shape"])).replace("-1", "batch") or "scalar"
                cells = f"`{name}` | {side[:-1]} | `{tensor}` | {spec['dtype']} | {shape} | `{spec['tensor']}`"
                tensors += f"| {cells} |\n"
    if run is not None:
        result = run.result["line"] if run.result else "It has not been evaluated"
        training = _TRAINING.format(run=run, train=run.config.train, result=result)
    texts = "\n".join(f"- `{name}`: {signature['description']}" for name, signature in signatures.items())
    parts = {"training": training, "inputs": ", ".join(inputs), "columns": columns, "tensors": tensors}
    return _TEMPLATE.format(date=datetime.date.today(), version=__version__, tf=tf, texts=texts, **parts)


def _tensors(infos):
    return {
        name: {
            "dtype": tf.as_dtype(infos[name].dtype).name,
            "shape": [dim.size for dim in infos[name].tensor_shape.dim],
            "tensor": infos[name].name,
        }
        for name in sorted(infos)
    }
