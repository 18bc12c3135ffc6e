"""The error of a run that diverged, and what it says of where."""

import numpy as np

from tf_resflow import layers
from tf_resflow.bijectors.transform import transform

__all__ = ["NonFiniteError", "find_non_finite"]


class NonFiniteError(ArithmeticError):
    """The loss, a gradient or a weight became NaN or infinite.

    Args:
      what: `str`, what is not finite.
      step: the step after which it was seen.
      where: what `find_non_finite` says.
      latest: path of the last good checkpoint, or None.
    """

    def __init__(self, what, step, where, latest):
        saved = f"The last good checkpoint is {latest}" if latest else "No checkpoint was saved before"
        super().__init__(
            f"{what} at step {step}. {where} {saved}; nothing was saved since. Lower train.learning_rate, set "
            "train.global_clipnorm (such as 1.0) or lower model.coefficient, and start anew in another --workdir."
        )


def find_non_finite(model, x):
    """Says in which part of a flow NaN or infinity appears first, and the norms of its kernels.

    Args:
      model: a `FlowModel`.
      x: a batch of examples.

    Returns:
      A sentence.
    """
    members, values = [], []

    def visit(member, x):
        members.append(member)
        values.append(x)

    latent = transform(model.flow, model.flow_input(x, [0, 0]), visit)
    spoiled = [member for member in members if not _finite(*member.variables)]
    if spoiled:
        some = "some weights are" if len(spoiled) == 1 else f"weights of {len(spoiled)} parts are"
        return f"In the flow {some} not finite, first those of {_with_norms(spoiled[0])}."
    for member, value in zip(members, [*values[1:], latent], strict=True):
        if not _finite(value):
            return f"The weights of the flow are finite; what {_with_norms(member)} gives is not."
    largest = max(members, key=lambda member: max(_norms(member), default=0.0))
    return f"The flow's weights and its latent are finite; the largest norm is in {_with_norms(largest)}."


def _finite(*values):
    return all(np.all(np.isfinite(value)) for value in values)


def _norms(member):
    return [float(layer.norm_estimate()) for layer in layers.lipschitz_layers(member)]


def _with_norms(member):
    norms = ", ".join(f"{norm:.3g}" for norm in _norms(member))
    return f"{member.name} (norms of its kernels: {norms})" if norms else member.name
