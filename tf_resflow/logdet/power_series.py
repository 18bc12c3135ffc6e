"""The fused operation behind every power-series estimator: y = x + g(x) and log|det(I + J)|."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_resflow.logdet.first_order import first_order_only
from tf_resflow.seeds import random_integers, random_uniform

__all__ = ["Terms", "draw_probes", "power_series_log_det"]


class Terms(NamedTuple):
    """The terms of the series to take, and their weights.

    Attributes:
      more: `more(k, w, v)` with `w = (J')^(k-1) v`, a scalar `bool` tensor: whether to compute term `k`.
      weight: `weight(k)`, the weight of the k-th term of the log-determinant; scalar or `[rows]`.
      neumann_weight: `neumann_weight(k)`, the weight of the k-th term of the Neumann series.
    """

    more: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    weight: Callable[[tf.Tensor], tf.Tensor]
    neumann_weight: Callable[[tf.Tensor], tf.Tensor]


def draw_probes(kind: str, num_probes: int, x: tf.Tensor, seed: tf.Tensor, *, common: bool = False) -> tf.Tensor:
    """Probe vectors `v` with `E[v v'] = I`, of shape `[num_probes * batch, *event]`.

    For "basis" they are `sqrt(D) e_i`, i = 1..D: their average over i is the exact trace. With `common` all
    examples have the same probes.
    """
    if common or kind == "basis":
        return tf.repeat(_draw(kind, num_probes, x[:1], seed), tf.shape(x)[0], axis=0)
    return _draw(kind, num_probes, x, seed)


def _draw(kind, num_probes, x, seed):
    rows = num_probes if kind == "basis" else num_probes * tf.shape(x)[0]
    shape = tf.concat([[rows], tf.shape(x)[1:]], 0)
    if kind == "gaussian":
        v = tf.math.ndtri(random_uniform(shape, seed, tf.float64 if x.dtype == tf.float64 else tf.float32))
        v = tf.cast(v, x.dtype)
    elif kind == "rademacher":
        v = tf.cast(2 * random_integers(shape, seed, tf.constant(2, tf.int64)) - 1, x.dtype)
    else:
        basis = tf.sqrt(tf.cast(num_probes, x.dtype)) * tf.eye(num_probes, dtype=x.dtype)
        v = tf.reshape(basis, shape)
    return tf.ensure_shape(v, [None, *x.shape[1:]])


def _inner(a, b):
    return tf.reduce_sum(a * b, axis=list(range(1, a.shape.rank)))


def _per_row(weights, like):
    """Weights `[rows]` with the singleton axes by which they multiply a tensor `[rows, *event]`."""
    if weights.shape.rank == 0:
        return weights
    return tf.reshape(weights, [-1] + [1] * (like.shape.rank - 1))


def _sum_series(vjp, v, terms):
    """Both series in one loop, with one vector-Jacobian product per term.

    Returns:
      The `[rows]` log-determinants `sum_k (-1)^(k+1) weight(k)/k v'J^k v` and the Neumann vectors
      `sum_{k>=0} (-1)^k neumann_weight(k) (J')^k v`.
    """

    def body(k, sign, w, log_det, u):
        w = tf.ensure_shape(vjp(w), rows)  # some activations' gradients forget their shape in a graph
        log_det += sign * terms.weight(k) / tf.cast(k, v.dtype) * _inner(w, v)
        u -= sign * _per_row(terms.neumann_weight(k), v) * w
        return k + 1, -sign, w, log_det, u

    start = (tf.constant(1), tf.ones([], v.dtype), v, tf.zeros(tf.shape(v)[:1], v.dtype), v)
    rows = tf.TensorShape([None, *v.shape[1:]])
    shapes = (tf.TensorShape([]), tf.TensorShape([]), rows, rows[:1], rows)
    *_, log_det, u = tf.while_loop(
        lambda k, sign, w, log_det, u: terms.more(k, w, v), body, start, shape_invariants=shapes
    )
    return log_det, u


def power_series_log_det(
    g: Callable, inputs: Sequence[tf.Tensor], v: tf.Tensor, num_probes: int, terms: Terms
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""`y = x + g(x)` and the series estimate of `log|det(I + J)|`, `J = dg/dx`, with one evaluation of `g`.

    The value is \\(\sum_k (-1)^{k+1} w_k v^T J^k v / k\\). Its gradient is that of \\(u^T J v\\) with
    \\(u = \sum_k (-1)^k w_k (J^T)^k v\\) held constant (the Neumann series). `u` is summed in the same loop as the
    value, and the backward pass needs `x`, `v` and `u` only: under `tf.function` the memory kept for it depends
    neither on the number of terms nor on the width of `g`.

    Args:
      g: callable of the tensors in `inputs`, differentiable, returning a tensor like `inputs[0]`.
      inputs: `x`, of shape `[batch, *event]`, and any other tensors that need a gradient.
      v: probes of shape `[num_probes * batch, *event]`.
      num_probes: number of probe vectors of each example.
      terms: `Terms`.

    Returns:
      `y`, like `x`, and `log_det` of shape `[batch]`, the mean over the probes.

    Raises:
      ValueError: if a second derivative is taken.

    References:
      Chen et al. 2019, Theorems 1 and 2, and Section 3.2 (backward in forward).
    """

    def tile(tensor):
        if num_probes == 1:
            return tensor
        return tf.tile(tensor, [num_probes] + [1] * (tensor.shape.rank - 1))

    def mean_over_probes(rows):
        return rows if num_probes == 1 else tf.reduce_mean(tf.reshape(rows, [num_probes, -1]), 0)

    @tf.custom_gradient
    def operation(*inputs):
        x = tf.identity(tile(inputs[0]))  # a condition may be the same tensor
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            gx = g(x, *map(tile, inputs[1:]))
        log_det, u = _sum_series(lambda w: tape.gradient(gx, x, w, unconnected_gradients="zero"), v, terms)
        # The next block waits for the series, whose activations would otherwise stay alive meanwhile.
        with tf.control_dependencies([log_det]):
            y = inputs[0] + gx[: tf.shape(inputs[0])[0]]

        def grad(dy, dlog_det, variables=None):
            # The recomputation waits for the upstream gradient; otherwise Grappler merges it with the
            # forward pass, and every activation stays alive until the backward pass.
            with tf.control_dependencies([dy, dlog_det]):
                held = [tf.identity(tensor) for tensor in inputs]
            targets = held + list(variables or [])
            with tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(targets)
                x = tile(held[0])
                with tf.GradientTape(watch_accessed_variables=False) as inner:
                    inner.watch(x)
                    gx = g(x, *map(tile, held[1:]))
                upstream = _per_row(tile(dlog_det) / num_probes, u)
                u_jacobian = inner.gradient(gx, x, upstream * u, unconnected_gradients="zero")
                objective = tf.reduce_sum(u_jacobian * v) + tf.reduce_sum(dy * gx[: tf.shape(dy)[0]])
            grads = outer.gradient(objective, targets, unconnected_gradients="zero")
            grads = [tf.convert_to_tensor(grad) for grad in grads]
            with tf.control_dependencies(grads):
                grads[0] += dy
            grads = first_order_only(grads, "Use log_det=Exact() instead.")
            inputs_grads, variables_grads = grads[: len(inputs)], grads[len(inputs) :]
            return inputs_grads if variables is None else (inputs_grads, variables_grads)

        return (y, mean_over_probes(log_det)), grad

    return operation(*inputs)
