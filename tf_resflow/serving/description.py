"""What a client should know about exported signatures: the content of signatures.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_resflow.evaluation.planning import describe_plan
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE
from tf_resflow.serving.signatures import Signatures

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
        log_prob: dict[str, Any] = {"estimator": describe_plan(signatures.plan)}
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


def _tensors(infos):
    return {
        name: {
            "dtype": tf.as_dtype(infos[name].dtype).name,
            "shape": [dim.size for dim in infos[name].tensor_shape.dim],
            "tensor": infos[name].name,
        }
        for name in sorted(infos)
    }
