"""The README.md of an export: how to call the model, and how it was trained."""

import datetime
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_resflow.data import ColumnCodes
from tf_resflow.training.runs import Run
from tf_resflow.version import __version__

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
