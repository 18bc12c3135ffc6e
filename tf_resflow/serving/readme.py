"""The README.md of an export: the model, its scores and limits, and what clients should know of its signatures."""

import datetime
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, evaluation
from tf_resflow.data import ColumnCodes
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.plurals import counted
from tf_resflow.version import __version__

if TYPE_CHECKING:
    from tf_resflow.training.runs import Run

__all__ = ["readme"]

_SCALARS = {"num": "np.int32(2)", "seed": "np.int64(0)", "temperature": "np.float32(1)"}
_REQUESTS = """\
{columns}In Python, in this folder:

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

By HTTP, when TensorFlow Serving has the model under the name `flow`, or when `examples/http_server/server.py` of
tf_resflow, which needs TensorFlow alone, serves this folder on port 8501:

```sh
curl localhost:8501/v1/models/flow:predict -d @request.json
```
{thresholds}"""
_COLUMNS = """\
Values are those of the table that it was trained on, in the same units, and not standardized:

| Input | Column | Mean | Standard deviation |
|---|---|---|---|
{rows}

"""
_THRESHOLDS = """
### Thresholds

`quantile` is the fraction of {num:,} examples of the {split} that are less likely. Of examples like these, a
threshold of 0.01 flags one in 100, and so on: it is the rate of false alarms, to about {error:.1g} at 0.01, and
quantiles below 1 / {num:,} cannot be told apart. How many anomalies it finds depends on the anomalies. An example
within a few `log_prob_stderr` of a threshold may be on either side of it. The same thresholds for `log_prob`:

| `quantile` at most | `log_prob` below |
|---|---|
{rows}
"""

_TEMPLATE = """\
# {title}

A TensorFlow SavedModel. It needs TensorFlow (Python, C, C++, Go, Java) or TensorFlow Serving, and no more.

## Model

{model}

{training}

## Scores

{scores}

## Lipschitz certificate

{certificate}

## Limits

{limits}

## Requests

{requests}
## Signatures

A wrong input is answered by an error, INVALID_ARGUMENT, that says what was expected. signatures.json has what is
written here for programs.

{signatures}
## Made with

tf_resflow {version}, tensorflow {tensorflow}, keras {keras}; {date}.
"""


def readme(model: KerasTraining, description: Mapping[str, Any], run: "Run | None" = None) -> str:
    """The text about a model, the description of its signatures (see `describe`), and its run if it has one."""
    return _TEMPLATE.format(
        title=f"Residual flow of {_data_name(run.config)}" if run else "Residual flow",
        model=_model(model),
        training=_training(run) if run else "How it was trained is not known.",
        scores=_list(_scores(run.result if run else None)),
        certificate=_list(_certificate(model.flow)),
        limits=_list(_limits(description)),
        requests=_requests(description, run),
        signatures="\n".join(_signature(name, text) for name, text in description["signatures"].items()),
        version=__version__,
        tensorflow=tf.__version__,
        keras=keras.__version__,
        date=datetime.datetime.now(datetime.timezone.utc).date(),
    )


def _list(rows):
    return "\n".join(f"- {row}" for row in rows)


def _model(model):
    weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    blocks = len(bijectors.flow.residual_blocks(model.flow))
    kind = f"{blocks} residual block{'s' if blocks > 1 else ''}" if blocks else "coupling layers"
    space, condition = model.data_space, model.condition
    shape = " x ".join(map(str, space.event_shape))
    values = "real numbers" if space.levels is None else f"integers 0, ..., {space.levels - 1}"
    text = (
        f"A normalizing flow of {kind} (Chen et al., Residual Flows for Invertible Generative Modeling, 2019) with "
        f"{weights:,} parameters. An example is {shape} {values}."
    )
    if space.dequantization == "variational":
        text += " Their dequantization is variational, by a learned density of the noise."
    if condition.num_classes is not None:
        text += f" It is the density of an example given its label 0, ..., {condition.num_classes - 1}."
    elif condition:
        size = " x ".join(map(str, condition.shape))
        text += f" It is the density of an example given its condition of {size} real numbers."
    return text


def _data_name(config):
    """The name of the data set, or of the file or folder."""
    is_file = config.data.name in ("images", "tabular")
    return pathlib.Path(config.data.path).absolute().name if is_file else config.data.name


def _training(run):
    config, train = run.config, run.config.train
    mirrored = ", with random mirroring," if config.data.flip else ""
    best = " (the best on validation)" if run.is_best else ""
    average = f" The weights are their average over the steps (momentum {train.ema_momentum:g})."
    return (
        f"Trained on the train split of {_data_name(config)}{mirrored} by {counted(run.step, 'step')}{best} of "
        f"{train.optimizer} on batches of {train.batch_size}, learning rate {train.learning_rate:g}, seed "
        f"{config.seed}.{average if train.ema_momentum else ''}"
    )


def _scores(result) -> Iterator[str]:
    if result is None:
        yield "It has not been evaluated."
        return
    examples = counted(result["num_examples"], "example")
    yield f"After {counted(result['step'], 'step')}, on {examples} of the {result['split']} split."
    for key, name in (("bits_per_dim", "Bits per dimension"), ("nats", "Nats"), ("accuracy", "Accuracy")):
        if key in result:
            yield f"{name}: {result[key]:.4f}, standard error {result[f'{key}_stderr']:.4f}."
    for name, value in result.get("baselines", {}).items():
        yield f"Baseline ({name}): {value:.4f}."


def _certificate(flow) -> Iterator[str]:
    if not bijectors.flow.residual_blocks(flow):
        yield "There is no residual block: the flow is invertible by construction."
        return
    certificate = evaluation.lipschitz_certificate(flow)
    blocks = certificate["blocks"]
    uncertified = [name for name in blocks if "reason" in blocks[name]]
    for name in uncertified:
        yield (
            f"The Lipschitz constant of {name}'s branch is not certified: {blocks[name]['reason']}. That it is at "
            f"most {blocks[name]['nominal']:.4f} is not verified."
        )
    if not uncertified:
        worst = max(blocks, key=lambda name: blocks[name]["certified"])
        bound = blocks[worst]["certified"]
        proves = "that each block is invertible" if bound < 1 else "nothing"
        yield f"The Lipschitz constant of each branch is at most {bound:.4f} ({worst}). This proves {proves}."
    for part, of in (("flow", "the flow"), ("inverse", "its inverse")):
        bound = certificate[part]["certified"]
        yield f"That of {of} is {f'at most {bound:.3g}' if math.isfinite(bound) else 'not bounded'}."


def _limits(description) -> Iterator[str]:
    yield "It has learned its data, with their gaps. Nothing was done about fairness or privacy."
    signatures, classes = description["signatures"], description.get("num_classes")
    if any("condition" in signature["inputs"] for signature in signatures.values()):
        what = f"a label 0, ..., {classes - 1}" if classes else "real numbers in the units of the data"
        yield f"`condition` is {what}, one for each example or latent, or one for all of a request."
    for name, columns in description.get("columns", {}).items():
        yield f"The columns of `{name}` are, in this order: {', '.join(f'`{column}`' for column in columns)}."
    for codes in description.get("codes", {}).values():
        yield from (f"`{name}` is {text}." for name, text in ColumnCodes.from_json(codes).describe().items())
    if "max_batch" in description:
        yield f"A request has at most {counted(description['max_batch'], 'example')}, or as many latents."
    if "sample" in signatures:
        num, temperature = description["max_samples"], description["max_temperature"]
        most = counted(num, "example")
        yield f"`sample` gives at most {most} at a time; its temperature is at most {temperature:g}."
    if "sample" in signatures or "decode" in signatures:
        atol = description.get("inverse_atol")
        of = f"at most {atol * description['levels']:g} of a level" if atol else "near the rounding of the type"
        yield f"`sample` and `decode` solve each block until its residual is {of}; else `converged` is false."
    if "log_prob" in description:
        yield from _log_prob(description["log_prob"], has_levels="levels" in description)


def _log_prob(log_prob, has_levels):
    if "num_samples" not in log_prob:
        yield "`log_prob` is log p(x), with the exact log-determinants: `log_prob_stderr` is 0."
    else:
        mean, of = "the mean", "log p(x)"
        if "dequantization" in log_prob and not has_levels:
            mean = "the logarithm of the mean"
            of = "p(x), a probability in the discrete columns and a density in the units of the others"
        elif "dequantization" in log_prob:
            of = f"a lower bound of log P(x), by {log_prob['dequantization']} dequantization"
        yield (
            f"`log_prob` is {mean} of {log_prob['num_samples']} estimates of {of}, and `log_prob_stderr` its "
            f"standard error. The log-determinants are by {log_prob['estimator']['type']}, see signatures.json. "
            "All examples of a request share their random numbers: the answer for one does not depend on the "
            "others, and the errors of two are correlated."
        )
    yield "Very far from the data `log_prob` is below the range of its type: it is -inf, and `log_prob_stderr` NaN."
    yield "A high likelihood does not mean that an example resembles the data: other data can have a higher one."


def _requests(description, run):
    """Code that asks for the scores of an example, and what its values and thresholds mean."""
    inputs = description["signatures"].get("serving_default", {"inputs": {}})["inputs"]
    statistics = (
        {}
        if run is None
        else {
            "x": (run.data.columns, run.data.mean, run.data.std),
            "condition": (run.data.condition_columns, run.data.condition_mean, run.data.condition_std),
        }
    )
    rows, means = [], {}
    for name, (columns, mean, std) in statistics.items():
        if name in inputs and columns is not None and mean is not None and len(columns) == len(mean):
            means[name] = mean
            rows += [
                f"| `{name}` | `{c}` | {m:.6g} | {s:.6g} |" for c, m, s in zip(columns, mean, std, strict=True)
            ]
    examples = [f'"{name}": {_SCALARS.get(name) or _example(of, means.get(name))}' for name, of in inputs.items()]
    columns = _COLUMNS.format(rows="\n".join(rows)) if rows else ""
    return _REQUESTS.format(columns=columns, inputs=", ".join(examples), thresholds=_thresholds(description, run))


def _example(of, mean):
    """The code of an array of one example, of the type and shape of an input."""
    shape = [1 if size == -1 else size for size in of["shape"]]
    if mean is None:
        return f'np.zeros({shape}, "{of["dtype"]}")'
    return f'np.array([[{", ".join(f"{value:.6g}" for value in mean)}]], "{of["dtype"]}")'


def _thresholds(description, run):
    held_out = description.get("log_prob", {}).get("held_out")
    if held_out is None:
        return ""
    num, split = held_out["num"], f"{run.config.eval.split} split" if run else "held-out data"
    rows = "\n".join(f"| {q} | {value:.4f} |" for q, value in held_out["quantiles"].items())
    return _THRESHOLDS.format(num=num, split=split, error=math.sqrt(0.01 * 0.99 / num), rows=rows)


def _signature(name, signature):
    rows = [f"### {name}", "", signature["description"], ""]
    rows += ["| | Name | Type | Shape | Tensor of the graph |", "|---|---|---|---|---|"]
    for side, word in (("inputs", "in"), ("outputs", "out")):
        for tensor, info in signature[side].items():
            shape = " x ".join("batch" if size == -1 else str(size) for size in info["shape"]) or "scalar"
            rows.append(f"| {word} | `{tensor}` | {info['dtype']} | {shape} | `{info['tensor']}` |")
    return "\n".join(rows) + "\n"
