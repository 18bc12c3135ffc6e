"""Measures how well a flow inverts: the error of x -> z -> x, and the solver's diagnostics."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors
from tf_resflow._internal.console import stage
from tf_resflow._internal.typing import TensorLike
from tf_resflow.models import FlowModel
from tf_resflow.solvers import Solution


class Reconstruction(NamedTuple):
    """The error of f^-1(f(x)) - x over a batch, and the solver's diagnostics over all solves.

    A solve is the inversion of one block for one example. Without residual blocks, the diagnostics are 0.

    Attributes:
      max_error: Largest absolute error in the flow's input space (dequantized data).
      rms_error: Root mean square error in the same space.
      max_levels: `max_error` in levels of integer data; None for continuous data.
      exact_examples: Fraction of examples whose integers are all recovered; None for continuous data.
      mean_iterations: Mean number of branch evaluations per solve.
      max_iterations: Largest number of branch evaluations in a solve.
      unconverged: Number of solves that did not reach the tolerance.
      num_solves: Number of solves.
      max_residual: Largest residual |x + g(x) - y|.
    """

    max_error: float
    rms_error: float
    max_levels: float | None
    exact_examples: float | None
    mean_iterations: float
    max_iterations: int
    unconverged: int
    num_solves: int
    max_residual: float


def reconstruct(
    model: FlowModel, x: TensorLike, seed: int, *, condition: TensorLike | None = None
) -> Reconstruction:
    """Maps examples to latents and back, and returns a `Reconstruction` with the errors.

    Args:
      model: A `FlowModel`.
      x: Data `[batch, *event_shape]`.
      seed: Integer seed of the dequantization.
      condition: Condition of a conditional model, as for `FlowModel.log_prob`.
    """
    inputs = model.prepare(x, tf.constant([seed, 0], tf.int32))
    with stage("reconstruction"):
        decoded, solutions = round_trip(model, inputs, condition)
    error = np.abs(decoded.numpy().astype(np.float64) - inputs.numpy())
    levels = model.data_space.levels
    exact_examples = None
    if levels is not None:
        is_exact = model.data_space.to_data(decoded).numpy() == np.asarray(x)
        exact_examples = float(np.mean(np.all(is_exact.reshape(len(is_exact), -1), axis=1)))
    iterations, residuals, converged = (
        np.concatenate([np.zeros(0), *(getattr(s, name) for s in solutions)])
        for name in ("num_iterations", "residual", "converged")
    )
    return Reconstruction(
        max_error=float(error.max()),
        rms_error=float(np.sqrt(np.mean(error**2))),
        max_levels=None if levels is None else float(error.max() * levels),
        exact_examples=exact_examples,
        mean_iterations=float(iterations.sum() / max(len(iterations), 1)),
        max_iterations=int(iterations.max(initial=0)),
        unconverged=int(np.sum(converged == 0)),
        num_solves=len(iterations),
        max_residual=float(residuals.max(initial=0)),
    )


def round_trip(model: FlowModel, x: tf.Tensor, condition: TensorLike | None) -> tuple[tf.Tensor, list[Solution]]:
    """Returns `f^-1(f(x))` in the flow's input space, at full precision, and the `Solution` of each block."""

    @tf.function(autograph=False)
    def forward_and_back(x, arguments):
        z = tf.identity(model.flow.forward(tf.identity(x), **arguments))
        return bijectors.inverse_with_solutions(model.flow, z, **arguments)

    return forward_and_back(x, model.condition.arguments(condition, len(x)))
