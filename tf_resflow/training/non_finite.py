"""Diagnosis of runs that diverge."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow._internal.seeds import split_seed, stateless_seed
from tf_resflow.bijectors.base import Context, pass_through
from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.models.step import NON_FINITE, loss_and_gradients

_ALL_FINITE = "Weights, values and gradients are finite when the step is recomputed."


class NonFiniteError(ArithmeticError):
    """Raised when the loss, a gradient or a weight is NaN or infinite. The message names the part of the model."""

    def __init__(self, what: str, step: int, where: str, latest: str | None):
        saved = f"The last good checkpoint is {latest}." if latest else "No checkpoint was saved."
        super().__init__(
            f"{what} at step {step}. {where} {saved} Lower train.learning_rate, set train.global_clipnorm (to 1.0, "
            "for example) or lower model.coefficient, and start again in another --workdir."
        )


class NotFinite(Exception):
    """Raised when a weight is NaN or infinite."""


@contextlib.contextmanager
def explain_non_finite(
    model: KerasTraining, strategy: tf.distribute.Strategy, latest: str | None, batch: Any, seed: tf.Tensor
) -> Iterator[None]:
    """Turns an error of a step into a `NonFiniteError` that names where NaN or infinity first appears."""
    try:
        yield
    except (NotFinite, tf.errors.InvalidArgumentError) as error:
        what = "A weight is NaN or infinite" if isinstance(error, NotFinite) else NON_FINITE
        tensors_of_replicas = [strategy.experimental_local_results(value) for value in tf.nest.flatten(batch)]
        batches = [tf.nest.pack_sequence_as(batch, tensors) for tensors in zip(*tensors_of_replicas, strict=True)]
        cause = find_non_finite(model, batches, seed)
        if not cause and not isinstance(error, NotFinite) and NON_FINITE not in str(error):
            raise
        raise NonFiniteError(what, int(seed[1]), cause or _ALL_FINITE, latest) from None


def find_non_finite(model: KerasTraining, batches: Sequence[Any], seed: tf.Tensor) -> str:
    """Returns a sentence about the part of a model where NaN or infinity first appears, or "" if all is finite.

    `batches` has the batch of each replica. With several replicas, other random numbers are drawn than in the step.
    """
    members, _ = _values(model, batches[0], seed)
    variables_by_part = [(_with_norms(model.flow, member), member.variables) for member in members]
    dequantizer = model.data_space.dequantizer
    if isinstance(dequantizer, keras.Layer):
        variables_by_part.insert(0, ("the dequantizer", [weight.value for weight in dequantizer.weights]))
    if model.classifier is not None:
        variables_by_part.append(("the classifier", [weight.value for weight in model.classifier.weights]))
    spoiled = [name for name, variables in variables_by_part if not _finite(*variables)]
    if spoiled:
        if len(spoiled) == 1:
            return f"Some weights of {spoiled[0]} are not finite."
        return f"Some weights of {len(spoiled)} parts are not finite. The first part is {spoiled[0]}."
    for batch in batches:
        for member, value in zip(*_values(model, batch, seed), strict=True):
            if not _finite(value):
                return f"All weights are finite; the output of {_with_norms(model.flow, member)} is not."
        _, gradients = tf.function(loss_and_gradients, autograph=False)(model, batch, seed)
        norms = {
            id(weight.value): tf.norm(gradient)
            for gradient, weight in zip(gradients, model.trainable_variables, strict=True)
            if gradient is not None
        }
        for name, variables in reversed(variables_by_part):  # backpropagation begins with the last part
            if not _finite(*(norms.get(id(variable), 0.0) for variable in variables)):
                return f"The output of the flow is finite; the norm of the gradient of {name} is not."
    return ""


def _values(model, batch, seed):
    """Returns the innermost members of the flow and their outputs."""
    inputs: list[Any] = []  # pairs of a member and its input
    x, condition = model.condition.split(batch if model.condition else tf.nest.flatten(batch)[0])
    x, _ = model.data_space.dequantize(x, split_seed(stateless_seed(seed), 2)[0])
    arguments = model.condition.arguments(condition, tf.shape(x)[0])
    context = Context(arguments, compute_log_det=False, on_leaf=lambda member, x, _: inputs.append((member, x)))
    latent = pass_through(model.flow, x, context).value
    members, values = zip(*inputs, strict=True)
    return members, [*values[1:], latent]


def _finite(*values):
    return all(np.all(np.isfinite(value)) for value in values)


def _with_norms(flow, member):
    name = next(name for name, bijector in parts_by_name(flow).items() if bijector is member)
    norms = [f"{layer.norm_estimate():.3g}" for layer in layers.norm_updates.lipschitz_layers(member)]
    return f"{name} (norms of its kernels: {', '.join(norms)})" if norms else name
