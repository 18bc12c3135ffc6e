"""The model card: a description of a served model, its scores and its limits."""

import datetime
import math
import pathlib
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, evaluation
from tf_resflow.models import FlowModel
from tf_resflow.serving.readme import estimator_text, limits_text
from tf_resflow.version import __version__

if TYPE_CHECKING:
    from tf_resflow.training.runs import Run

__all__ = ["model_card"]


def model_card(model: FlowModel, description: Mapping[str, Any], run: "Run | None" = None) -> str:
    """The card of a model.

    Args:
      model: a `FlowModel`.
      description: of its signatures, see `describe`.
      run: its run, if it has one.

    Returns:
      Markdown.
    """
    name = f"residual flow of {_data_name(run.config)}" if run else "residual flow"
    parts = {"Model": _model(model)}
    if run:
        parts |= {"Data": _data(run.config), "Training": _training(run)}
    parts |= {"Scores": _scores(run.result if run else None), "Lipschitz certificate": _certificate(model.flow)}
    names = ", ".join(f"`{name}`" for name in description["signatures"])
    parts |= {"Signatures": f"{names}: see README.md.", "Limits": _limits(description), "Made with": _software()}
    sections = [f"## {title}\n\n{text}\n" for title, text in parts.items()]
    return "\n".join([f"# Model card: {name}\n", *sections])


def _model(model):
    weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    blocks = len(bijectors.residual_blocks(model.flow))
    kind = f"{blocks} residual block{'s' if blocks > 1 else ''}" if blocks else "coupling layers"
    shape = " x ".join(map(str, model.event_shape))
    values = "real numbers" if model.levels is None else f"integers 0, ..., {model.levels - 1}"
    noise = " Their dequantization is variational, by a learned density of the noise."
    noise = noise if model.dequantization == "variational" else ""
    return (
        f"A normalizing flow of {kind} (Chen et al., Residual Flows for Invertible Generative Modeling, 2019) with "
        f"{weights:,} parameters. An example is {shape} {values}.{noise}{_condition(model)}"
    )


def _condition(model):
    if not model.is_conditional:
        return ""
    what = f"label 0, ..., {model.num_classes - 1}" if model.num_classes else "condition"
    size = "" if model.num_classes else f" of {' x '.join(map(str, model.condition_shape))} real numbers"
    return f" It is the density of an example given its {what}{size}."


def _data(config):
    mirrored = ", with random mirroring" if config.data.flip else ""
    return (
        f"Trained on the train split of {_data_name(config)}{mirrored}; evaluated on its {config.eval.split} split."
    )


def _data_name(config):
    """The name of the data set, or of the file or folder."""
    is_file = config.data.name in ("images", "tabular")
    return pathlib.Path(config.data.path).absolute().name if is_file else config.data.name


def _training(run):
    train = run.config.train
    text = (
        f"{run.step:,} steps of {train.optimizer} on batches of {train.batch_size}, learning rate "
        f"{train.learning_rate:g}, seed {run.config.seed}."
    )
    if not train.ema_momentum:
        return text
    return f"{text} The weights are their average over the steps (momentum {train.ema_momentum:g})."


def _scores(result):
    if result is None:
        return "It has not been evaluated."
    rows = [
        f"After {result['step']:,} steps, on {result['num_examples']:,} examples of the {result['split']} split."
    ]
    for key, name in (("bits_per_dim", "Bits per dimension"), ("nats", "Nats"), ("accuracy", "Accuracy")):
        if key in result:
            rows.append(f"{name}: {result[key]:.4f}, standard error {result[f'{key}_stderr']:.4f}.")
    rows += [f"Baseline ({name}): {value:.4f}." for name, value in result.get("baselines", {}).items()]
    return _list(rows)


def _certificate(flow):
    if not bijectors.residual_blocks(flow):
        return "There is no residual block: the flow is invertible by construction."
    certificate = evaluation.lipschitz_certificate(flow)
    blocks = certificate["blocks"]
    rows = [
        f"The Lipschitz constant of {name}'s branch is not certified: {block['reason']}. That it is at most "
        f"{block['nominal']:.4f} is not verified."
        for name, block in blocks.items()
        if "reason" in block
    ]
    if not rows:
        worst = max(blocks, key=lambda name: blocks[name]["certified"])
        bound = blocks[worst]["certified"]
        proves = "that each block is invertible" if bound < 1 else "nothing"
        rows = [
            f"The Lipschitz constant of each block's branch is at most {bound:.4f} ({worst}). This proves {proves}."
        ]
    for part, of in (("flow", "the flow"), ("inverse", "its inverse")):
        bound = certificate[part]["certified"]
        rows.append(f"That of {of} is {f'at most {bound:.3g}' if math.isfinite(bound) else 'not bounded'}.")
    return _list(rows)


def _limits(description):
    rows = ["It has learned its data, with their gaps. Nothing was done about fairness or privacy."]
    if not description["signatures"].keys().isdisjoint(("sample", "decode")):
        rows.append(
            f"`sample` and `decode` solve each block {_tolerance(description)}. `converged` is false if one did "
            "not get there."
        )
    rows += limits_text(description)
    if "log_prob" in description:
        rows += _log_prob_limits(description["log_prob"])
    return _list(rows)


def _log_prob_limits(log_prob):
    rows = ["A high likelihood does not mean that an example resembles the data: other data can have a higher one."]
    if "num_samples" in log_prob:
        mean = (
            f"`log_prob` is the mean of {log_prob['num_samples']} noisy estimates; its standard error is beside it."
        )
        rows.insert(0, f"{mean} The log-determinants are {estimator_text(log_prob['estimator'])}.")
    return rows


def _tolerance(description):
    if "inverse_atol" not in description:
        return "to a tolerance near the rounding of the type"
    return f"until its residual is at most {description['inverse_atol'] * description['levels']:g} of a level"


def _list(rows):
    return "\n".join(f"- {row}" for row in rows)


def _software():
    versions = f"tf_resflow {__version__}, tensorflow {tf.__version__}, keras {keras.__version__}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{versions}; commit {_commit() or 'unknown (not a checkout)'}; {today}."


def _commit():
    """The commit of the checkout that this package is in, and whether files have changed since."""
    try:
        _git("ls-files", "--error-unmatch", __file__)  # fails if the checkout is another project's
        return _git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
