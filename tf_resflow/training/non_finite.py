"""The error of a run that diverged, and where it did."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.bijectors.base import Context, pass_through
from tf_resflow.bijectors.flow import parts_by_name, residual_blocks
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.models.step import loss_and_gradients
from tf_resflow.seeds import split_seed, stateless_seed
from tf_resflow.training.checkpoints import Checkpoints

__all__ = ["NonFiniteError", "NotFinite", "diagnosed", "find_largest_norm", "find_non_finite"]


class NonFiniteError(ArithmeticError):
    """The loss, a gradient or a weight became NaN or infinite. The message says in which part of the model."""

    def __init__(self, what: str, step: int, where: str, latest: str | None):
        saved = f"The last good checkpoint is {latest}." if latest else "No checkpoint was saved."
        super().__init__(
            f"{what} at step {step}. {where} {saved} Lower train.learning_rate, set "
            "train.global_clipnorm (such as 1.0) or lower model.coefficient, and start again in another --workdir."
        )


class NotFinite(Exception):
    """A value of a step is NaN or infinite; with an `error` of TensorFlow, it is only suspected."""

    def __init__(self, what: str, step: int, error: Exception | None = None):
        super().__init__(what)
        self.what, self.step, self.error = what, step, error


@contextlib.contextmanager
def diagnosed(
    model: KerasTraining, strategy: tf.distribute.Strategy, checkpoints: Checkpoints, batch: Any, seed: int
) -> Iterator[None]:
    """Raises the `NonFiniteError` of a step, with the part of the model where NaN or infinity begins."""

    def find(step):
        parts = [strategy.experimental_local_results(part) for part in tf.nest.flatten(batch)]
        batches = [tf.nest.pack_sequence_as(batch, part) for part in zip(*parts, strict=True)]
        return find_non_finite(model, batches, tf.constant([seed, step], tf.int32))

    try:
        yield
    except NotFinite as seen:
        found = find(seen.step)
        if found is None and seen.error:
            raise seen.error from None
        found, latest = found or find_largest_norm(model), checkpoints.latest
        if latest and not checkpoints.is_finite():
            checkpoints.restore()
            found += f" As it was in {latest}: {find(seen.step) or find_largest_norm(model)}"
        raise NonFiniteError(seen.what, seen.step, found, latest) from None


def find_non_finite(model: KerasTraining, batches: Sequence[Any], seed: tf.Tensor) -> str | None:
    """The part of a model in which NaN or infinity appears first, as a sentence; None if all is finite.

    `batches` are those of a step, one for each replica, and `seed` is its seed. (Several replicas drew other
    numbers from it than are drawn here.)
    """
    members, _ = _values(model, batches[0], seed)
    around = {"the dequantizer": model.data_space.dequantizer, "the classifier": model.classifier}
    before, behind = (
        [(name, [weight.value for weight in part.weights])] if isinstance(part, keras.Layer) else []
        for name, part in around.items()
    )
    parts = [(_with_norms(model.flow, member), member.variables) for member in members]
    parts = [*before, *parts, *behind]
    spoiled = [name for name, variables in parts if not _finite(*variables)]
    if spoiled:
        some = "Some weights are" if len(spoiled) == 1 else f"Weights of {len(spoiled)} parts are"
        return f"{some} not finite, first those of {spoiled[0]}."
    for batch in batches:
        found = _non_finite_value(model, batch, seed) or _non_finite_gradient(model, parts, batch, seed)
        if found:
            return found
    return None


def find_largest_norm(model: KerasTraining) -> str:
    """A sentence about the residual block with the largest norm of a kernel."""
    found = "Weights, values and gradients are finite when they are computed again"
    blocks = residual_blocks(model.flow)
    if not blocks:
        return f"{found}."
    largest = max(blocks, key=lambda block: max(_norms(block)))
    return f"{found}; the largest norm is in {_with_norms(model.flow, largest)}."


def _values(model, batch, seed):
    """The innermost members of the flow, and their outputs."""
    members: list[tf.Module] = []
    values: list[tf.Tensor] = []

    def visit(member, x, inverse):
        del inverse
        members.append(member)
        values.append(x)

    x, condition = model.condition.split(batch if model.condition else tf.nest.flatten(batch)[0])
    x, _ = model.data_space.dequantize(x, split_seed(stateless_seed(seed), 2)[0])
    arguments = model.condition.arguments(condition, tf.shape(x)[0])
    latent = pass_through(model.flow, x, Context(arguments, log_det=False, visit=visit)).value
    return members, [*values[1:], latent]


def _non_finite_value(model, batch, seed):
    for member, value in zip(*_values(model, batch, seed), strict=True):
        if not _finite(value):
            return f"All weights are finite; the output of {_with_norms(model.flow, member)} is not."
    return None


def _non_finite_gradient(model, parts, batch, seed):
    """The last part whose gradient is not finite: backpropagation goes from there to the parts before it."""
    gradients = tf.function(loss_and_gradients, autograph=False)(model, batch, seed)[1]
    spoiled = {
        id(weight.value)
        for gradient, weight in zip(gradients, model.trainable_variables, strict=True)
        if gradient is not None and not _finite(tf.norm(gradient))
    }
    for name, variables in reversed(parts):
        if spoiled.intersection(map(id, variables)):
            return f"The output of the flow is finite; the norm of the gradient of {name} is not."
    return None


def _finite(*values):
    return all(np.all(np.isfinite(value)) for value in values)


def _norms(member):
    return [float(layer.norm_estimate()) for layer in layers.norm_updates.lipschitz_layers(member)]


def _with_norms(flow, member):
    name = next(name for name, part in parts_by_name(flow).items() if part is member)
    norms = ", ".join(f"{norm:.3g}" for norm in _norms(member))
    return f"{name} (norms of its kernels: {norms})" if norms else name
