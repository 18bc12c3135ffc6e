"""The text beside a SavedModel that describes its signatures."""

from collections.abc import Mapping
from typing import Any

__all__ = ["estimator_text", "limits_text", "signatures_readme"]


def signatures_readme(description: Mapping[str, Any]) -> str:
    """The text for the clients of the model.

    Args:
      description: see `describe`.

    Returns:
      Markdown.
    """
    parts = [
        "# Signatures",
        "A TensorFlow SavedModel. It needs TensorFlow (Python, C, C++, Go, Java) or TensorFlow Serving, and no "
        "more. MODEL_CARD.md describes the model; signatures.json has what is written here for programs. A wrong "
        "input is answered by an error, INVALID_ARGUMENT.",
        *limits_text(description),
    ]
    for name, signature in description["signatures"].items():
        parts += [f"## {name}", signature["description"], _table(signature)]
    if "log_prob" in description:
        parts += ["## What log_prob is", _log_prob(description["log_prob"], "levels" in description)]
    return "\n\n".join(parts) + "\n"


def limits_text(description: Mapping[str, Any]) -> list[str]:
    """The condition and the columns that a request must have, and what it may have at most, in sentences."""
    rows = []
    if any("condition" in signature["inputs"] for signature in description["signatures"].values()):
        classes = description.get("num_classes")
        what = f"a label 0, ..., {classes - 1}" if classes else "real numbers in the units of the data"
        rows.append(
            f"The model is conditional. `condition` is {what}, one for each example or latent, or one for all of a "
            "request."
        )
    for name, columns in description.get("columns", {}).items():
        rows.append(
            f"The columns of `{name}` are, in this order: {', '.join(f'`{column}`' for column in columns)}."
        )
    if "max_batch" in description:
        rows.append(f"A request has at most {description['max_batch']:,} examples or latents.")
    if "max_samples" in description:
        num, temperature = description["max_samples"], description["max_temperature"]
        rows.append(
            f"`sample` gives at most {num:,} examples at a time; its temperature is at most {temperature:g}."
        )
    return rows


def _table(signature):
    rows = ["| | Name | Type | Shape | Tensor of the graph |", "|---|---|---|---|---|"]
    for side, word in (("inputs", "in"), ("outputs", "out")):
        for name, info in signature[side].items():
            shape = " x ".join("batch" if size == -1 else str(size) for size in info["shape"]) or "scalar"
            rows.append(f"| {word} | `{name}` | {info['dtype']} | {shape} | `{info['tensor']}` |")
    return "\n".join(rows)


def _log_prob(log_prob, is_integer):
    if "num_samples" not in log_prob:
        return "log p(x), with the exact log-determinants: log_prob_stderr is 0."
    of = "a lower bound of log P(x)" if is_integer else "log p(x)"
    text = (
        f"The mean of {log_prob['num_samples']} estimates of {of}, and the standard error of this mean. The "
        f"log-determinants are {estimator_text(log_prob['estimator'])}. "
    )
    if is_integer:
        uniform = log_prob["dequantization"] == "uniform"
        noise = "uniform noise" if uniform else "noise of a learned density, given the integers,"
        text += (
            f"Each estimate adds independent {noise} to the integers (dequantization). bits_per_dim is the negated "
            "mean, in bits for each coordinate. "
        )
    return text + (
        "All examples of a request share their random numbers: the answer for one does not depend on the others, "
        "and the errors of two are correlated."
    )


def estimator_text(estimator: Mapping[str, Any]) -> str:
    """A description of an estimator (of `describe_estimator`) that follows "the log-determinants are"."""
    match estimator["type"]:
        case "Exact":
            return "exact"
        case "RussianRoulette":
            terms = estimator["num_exact_terms"]
            return f"estimated without bias, by Russian roulette after {terms} exact terms"
        case "AdaptiveRoulette":
            num, kind = estimator["num_probes"], estimator["probes"]
            probes = f"{num} {kind} probes" if num > 1 else "one probe"
            return f"estimated without bias, from {probes} and as many terms as are large"
        case "AdaptiveSeries":
            return (
                f"a power series, cut when the rest is guaranteed below {estimator['tolerance']:g} nats for a block"
            )
        case "PowerSeries":
            return f"a power series of {estimator['num_terms']} terms, and so biased"
        case "LikelihoodPlan":
            return (
                "estimated without bias, each block's by what reached a standard error in the least time, of about "
                f"{estimator['expected_stderr']:.2g} nats of log_prob"
            )
        case "by block":
            return "estimated, each block's by an estimator of its own"
        case name:
            return f"estimated by {name}"
