"""The text beside a SavedModel that describes its signatures."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_resflow import logdet
from tf_resflow.evaluation.samples import MAX_TEMPERATURE
from tf_resflow.serving.signatures import Signatures

__all__ = ["estimator_text", "signatures_readme"]

_WHAT = {
    "serving_default": "The log-likelihood of each example, in nats, by fixed random numbers: the answer is the "
    "same each time.",
    "log_prob_seeded": "The same by the random numbers of a seed. The mean over several seeds has less noise.",
    "sample": "New examples, a pure function of their number, the seed and the temperature, which is 1 for samples "
    "of the model; below 1 they vary less. Discard an example that has not converged: the solver of the inverse "
    "stopped before it met its tolerance, for integer data a fraction of a level.",
    "encode": "The latent of each example.",
    "decode": "The example of each latent, the inverse of encode; converged as in sample.",
    "classify": "The classifier's logits and probabilities, and the most probable label.",
}
_CLASSIFIER = "As classify: no density was trained."


def signatures_readme(signatures: Signatures, definitions: Mapping[str, Any]) -> str:
    """The text for the clients of the model.

    Args:
      signatures: `Signatures`.
      definitions: dict of name to `SignatureDef`, see `read_signatures`.

    Returns:
      Markdown.
    """
    parts = [
        "# Signatures",
        "A TensorFlow SavedModel. It needs TensorFlow (Python, C, C++, Go, Java) or TensorFlow Serving, and no "
        "more. MODEL_CARD.md describes the model. A wrong input is answered by an error, "
        "INVALID_ARGUMENT.",
    ]
    for name in signatures.inputs:
        what = _CLASSIFIER if name == "serving_default" and "log_prob_seeded" not in definitions else _WHAT[name]
        if name == "sample":
            what += f" num is at most {signatures.max_samples:,}, the temperature at most {MAX_TEMPERATURE:g}."
        parts += [f"## {name}", what, _table(definitions[name])]
    if "log_prob_seeded" in definitions:
        parts += ["## What log_prob is", _log_prob(signatures)]
    return "\n\n".join(parts) + "\n"


def _table(definition):
    rows = ["| | Name | Type | Shape | Tensor of the graph |", "|---|---|---|---|---|"]
    for kind, tensors in (("in", definition.inputs), ("out", definition.outputs)):
        for name in sorted(tensors):
            info = tensors[name]
            shape = tf.TensorShape(info.tensor_shape)
            shape = " x ".join(str(length or "batch") for length in shape) or "scalar"
            rows.append(f"| {kind} | `{name}` | {tf.as_dtype(info.dtype).name} | {shape} | `{info.name}` |")
    return "\n".join(rows)


def _log_prob(signatures):
    if not signatures.is_noisy:
        return "log p(x), with the exact log-determinants: log_prob_stderr is 0."
    of = "log p(x)" if signatures.levels is None else "a lower bound of log P(x)"
    text = (
        f"The mean of {signatures.num_samples} estimates of {of}, and the standard error of this mean. The "
        f"log-determinants are {estimator_text(signatures.log_det)}. "
    )
    if signatures.levels is not None:
        text += (
            "Each estimate adds independent uniform noise to the integers (dequantization). bits_per_dim is the "
            "negated mean, in bits for each coordinate. "
        )
    return text + (
        "All examples of a request share their random numbers: the answer for one does not depend on the others, "
        "and the errors of two are correlated."
    )


def estimator_text(log_det: logdet.LogDetEstimator) -> str:
    """A description of an estimator that follows "the log-determinants are"."""
    if isinstance(log_det, logdet.Exact):
        return "exact"
    if isinstance(log_det, logdet.RussianRoulette):
        return f"estimated without bias, by Russian roulette after {log_det.num_exact_terms} exact terms"
    if isinstance(log_det, logdet.AdaptiveSeries):
        return f"a power series, cut when the rest is guaranteed below {log_det.tolerance:g} nats for a block"
    if isinstance(log_det, logdet.PowerSeries):
        return f"a power series of {log_det.num_terms} terms, and so biased"
    return f"estimated by {type(log_det).__name__}"
