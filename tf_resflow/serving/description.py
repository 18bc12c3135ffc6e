"""Descriptions of an export for its clients: the content of signatures.json and README.md."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE
from tf_resflow.serving.signatures import Signatures
from tf_resflow.version import __version__

_DESCRIPTIONS = {
    "serving_default": "Returns the log-likelihood of each example, in nats. The random numbers are fixed, so the "
    "same request gets the same answer.",
    "log_prob_seeded": "Returns the log-likelihood of each example, in nats, with random numbers drawn from a "
    "seed. The mean over several seeds has less noise.",
    "sample": "Draws new examples. The answer is a pure function of the inputs. Temperature 1 draws from the "
    "model; lower temperatures give less varied examples. Discard examples that have not converged: the solver of "
    "the inverse stopped before it reached its tolerance (for integer data, a fraction of a level).",
    "encode": "Returns the latent of each example.",
    "decode": "Returns the example of each latent (inverts encode). Discard examples that have not converged.",
    "classify": "Returns the classifier's logits and probabilities, and the most probable label.",
}

_TEMPLATE = """\
# Residual flow

This folder is a TensorFlow SavedModel. It needs only TensorFlow (in Python, C, C++, Go or Java) or TensorFlow
Serving, not tf_resflow. It was exported on {date} by tf_resflow {version} with TensorFlow {tf.__version__}.
{about}
## Requests

In Python, run this code in this folder:

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

Over HTTP, send the request that the code above wrote. Here, TensorFlow Serving or tf_resflow's
`examples/http_server/server.py` serves the model under the name `flow`:

```sh
curl localhost:8501/v1/models/flow:predict -d @request.json
```

An invalid input causes an INVALID_ARGUMENT error that states what is expected. A `condition` has one row per
example, or one row for all examples. If an answer has `valid`, an example with NaN or infinity causes no error. Its
`valid` is false, and its results are NaN. `signatures.json` has the table below in machine-readable form, the
limits of a request, and the estimator of `log_prob`.

## Signatures

| Signature | | Tensor | Type | Shape | Name in the graph |
|---|---|---|---|---|---|
{tensors}
{texts}
"""


def describe(
    signatures: Signatures, tensors: Mapping[str, Any], measured: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Returns the content of signatures.json, without the keys that do not apply.

    Args:
      signatures: The exported signatures.
      tensors: Dict of the name of each signature to its inputs and outputs, see `exporter.read_signatures`.
      measured: Measured properties of log_prob, such as its standard error in nats.
    """
    space = signatures.model.data_space
    description: dict[str, Any] = {
        "signatures": {name: {"description": _DESCRIPTIONS[name], **tensors[name]} for name in signatures.inputs},
        "default": signatures.default,
        "levels": space.levels,
        "inverse_atol": signatures.inverse_atol or None,
        "max_batch": signatures.max_batch,
        "num_classes": signatures.model.condition.num_classes,
    }
    if signatures.default != "serving_default":
        text = f"The same as {signatures.default}, for requests that do not name a signature."
        description["signatures"]["serving_default"]["description"] = text
    if "sample" in signatures.inputs:
        description |= {"max_samples": signatures.max_samples, "max_temperature": MAX_TEMPERATURE}
    if signatures.has_scores:
        log_prob: dict[str, Any] = {"estimator": _settings(signatures.log_det_estimator)}
        if signatures.samples.is_noisy:
            log_prob |= {"seed": signatures.seed, "num_samples": signatures.samples.num_samples}
        if space.dequantization is not None:
            log_prob["dequantization"] = space.dequantization
        if signatures.held_out is not None:
            log_prob["num_held_out"] = len(signatures.held_out)
        description["log_prob"] = log_prob | dict(measured or {})
    return {key: value for key, value in description.items() if value is not None}


def _settings(value):
    """Returns the type and the settings of an estimator, or a dict of them by block, for JSON."""
    if isinstance(value, Mapping):
        return {name: _settings(estimator) for name, estimator in value.items()}
    if isinstance(value, (bool, int, float, str)):
        return value
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    settings = {field.name: getattr(value, field.name) for field in fields}
    known_settings = {name: _settings(setting) for name, setting in settings.items() if setting is not None}
    return {"type": type(value).__name__, **known_settings}


def readme(description: Mapping[str, Any], inputs: Mapping[str, str], about: str = "") -> str:
    """Returns the text of README.md.

    Args:
      description: The content of signatures.json. Each signature has a "description", "inputs" and "outputs".
      inputs: The inputs of an example request, as Python code, by name.
      about: A paragraph about the model.
    """
    signatures = description["signatures"]
    tensors = ""
    for name, signature in signatures.items():
        for side in ("inputs", "outputs"):
            for tensor, spec in signature[side].items():
                shape = " x ".join(map(str, spec["shape"])).replace("-1", "batch") or "scalar"
                cells = f"`{name}` | {side[:-1]} | `{tensor}` | {spec['dtype']} | {shape} | `{spec['tensor']}`"
                tensors += f"| {cells} |\n"
    texts = "\n".join(f"- `{name}`: {signature['description']}" for name, signature in signatures.items())
    code = ", ".join(f'"{name}": {value}' for name, value in inputs.items())
    return _TEMPLATE.format(
        date=datetime.date.today(),
        version=__version__,
        tf=tf,
        about=f"\n{about}\n" if about else "",
        inputs=code,
        tensors=tensors,
        texts=texts,
    )


def example_inputs(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns Python code for arrays of ones, by input of the default signature, given `tensors` of `describe`."""
    return {
        name: f'np.ones({[abs(size) for size in spec["shape"]]}, "{spec["dtype"]}")'
        for name, spec in tensors["serving_default"]["inputs"].items()
    }
