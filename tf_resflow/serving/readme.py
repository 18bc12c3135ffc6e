"""The text beside a SavedModel that tells its signatures."""

import tensorflow as tf

from tf_resflow import logdet
from tf_resflow.evaluation import MAX_TEMPERATURE

__all__ = ["estimator_text", "signatures_readme"]

_WHAT = {
    "serving_default": "The log-likelihood of each example, in nats, by random numbers that are fixed: the answer "
    "is the same each time.",
    "log_prob_seeded": "The same by the random numbers of a seed. The mean over several seeds has less noise.",
    "sample": "New examples, a pure function of their number, the seed and the temperature, which is 1 for samples "
    "of the model; below 1 they vary less. An example that has not converged, where the solver of the inverse "
    "stopped before it met its tolerance, is not to be used.",
    "encode": "The latent of each example.",
    "decode": "The example of each latent, the inverse of encode; converged as of sample.",
    "classify": "The classifier's logits and probabilities, and the most probable label.",
}
_CLASSIFIER = "As classify: no density was trained."


def signatures_readme(signatures, definitions):
    """The text for who calls the model.

    Args:
      signatures: `Signatures`.
      definitions: dict of name to `SignatureDef`, see `read_signatures`.

    Returns:
      Markdown.
    """
    parts = [
        "# Signatures",
        "A TensorFlow SavedModel. It needs TensorFlow (Python, C, C++, Go, Java) or TensorFlow Serving, and no "
        "more. MODEL_CARD.md tells what the model is. An input that does not fit is answered by an error, "
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
            "Each estimate adds uniform noise of its own to the integers (dequantization). bits_per_dim is the "
            "negated mean, in bits for each coordinate. "
        )
    return text + (
        "All examples of a request have the same random numbers: the answer for one does not depend on the others, "
        "and the errors of two are correlated."
    )


def estimator_text(log_det):
    """What an estimator does, in words that follow "the log-determinants are"."""
    if isinstance(log_det, logdet.Exact):
        return "exact"
    if isinstance(log_det, logdet.RussianRoulette):
        return f"estimated without bias, by Russian roulette after {log_det.num_exact_terms} exact terms"
    if isinstance(log_det, logdet.AdaptiveSeries):
        return f"a power series, cut where the rest is certainly below {log_det.tolerance:g} nats for a block"
    if isinstance(log_det, logdet.PowerSeries):
        return f"a power series of {log_det.num_terms} terms, and so biased"
    return f"estimated by {type(log_det).__name__}"
