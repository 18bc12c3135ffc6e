"""The fused operation of all power-series estimators, which computes y = x + g(x) and log|det(I + J)|."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient
from tf_resflow.layers.program import BoundNetwork
from tf_resflow.layers.tracing import first_order_only, traced_once

_ONCE = (
    "A second derivative was requested, but the gradient holds its probe vectors constant, so the derivative would "
    "be silently wrong. Use log_det_estimator=Exact() instead."
)


class Terms(NamedTuple):
    """The terms of the series to compute, and their weights.

    `more(k, state)` returns a scalar `bool` tensor: whether to compute term k. `weigh(k, w, state)` with
    `w = (J')^k v` returns the weights of term k in the log-determinant and in the Neumann series, each scalar or
    `[rows]`, and the next state. `state` is the initial state, a tuple of tensors.
    """

    more: Callable[[tf.Tensor, tuple], tf.Tensor]
    weigh: Callable[[tf.Tensor, tf.Tensor, tuple], tuple]
    state: tuple = ()


def _inner(a, b):
    return tf.reduce_sum(a * b, axis=list(range(1, a.shape.rank)))


def _per_row(weights, tensor):
    """Reshapes weights `[rows]` to `[rows, 1, ...]`, so that they multiply a tensor `[rows, *event]`."""
    if weights.shape.rank == 0:
        return weights
    return tf.reshape(weights, [-1] + [1] * (tensor.shape.rank - 1))


def _sum_series(vjp, v, terms):
    """Returns the estimates `[rows]` and the vectors u of `power_series_log_det`, with one product per term."""

    def body(k, sign, w, log_det, u, state):
        w = vjp(w)
        weight, neumann_weight, state = terms.weigh(k, w, state)
        log_det += sign * weight / tf.cast(k, v.dtype) * _inner(w, v)
        u -= sign * _per_row(neumann_weight, v) * w
        return k + 1, -sign, w, log_det, u, state

    start = (tf.constant(1), tf.ones([], v.dtype), v, tf.zeros(tf.shape(v)[:1], v.dtype), v, terms.state)
    *_, log_det, u, _ = _while_more(terms, body, start)
    return log_det, u


def _while_more(terms, body, start):
    """Loops over the terms. The first loop variable is the number of the term, and the last one is the state."""
    shapes = tf.nest.map_structure(lambda t: tf.TensorShape([None, *t.shape[1:]] if t.shape.rank else []), start)
    return tf.while_loop(lambda k, *others: terms.more(k, others[-1]), body, start, shape_invariants=shapes)


def _sum_odd_series(vjp, v, terms):
    """Does the same as `_sum_series` for odd powers. Term n has the power 2 n - 1 of J, and 2 n - 2 in u."""

    def with_term(n, even, odd, log_det, u, state):
        weight, _, state = terms.weigh(n, odd, state)
        log_det -= 2 * weight / tf.cast(2 * n - 1, v.dtype) * _inner(odd, v)
        return n + 1, odd, log_det, u - 2 * _per_row(weight, v) * even, state

    def body(n, odd, log_det, u, state):
        even = vjp(odd)
        return with_term(n, even, vjp(even), log_det, u, state)

    none = tf.zeros(tf.shape(v)[:1], v.dtype)
    start = with_term(tf.constant(1), v, vjp(v), none, tf.zeros_like(v), terms.state)
    *_, log_det, u, _ = _while_more(terms, body, start)
    return log_det, u


def power_series_log_det(
    branch: BoundNetwork,
    inputs: Sequence[tf.Tensor],
    num_probes: int,
    draw: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, Terms]],
    seed: tf.Tensor,
    *,
    odd: bool = False,
    key: Hashable,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Returns `y = x + g(x)` and an estimate of `log|det(I + J)|`, `J = dg/dx`, with one call of g.

    The estimate is \\(\sum_k (-1)^{k+1} w_k v^T J^k v / k\\). Its gradient is the gradient of \\(u^T J v\\) with
    \\(u = \sum_k (-1)^k w_k (J^T)^k v\\) held constant (the Neumann series). One loop sums `u` and the estimate,
    and the backward pass needs only `x`, `v` and `u`. Under `tf.function`, its memory therefore depends neither on
    the number of terms nor on the width of `g`. A second derivative raises a ValueError.

    With `odd`, the series is \\(\log|\det(I - J)| - \log|\det(I + J)|
    = -2 \sum_{k\ \mathrm{odd}} \mathrm{tr}(J^k) / k\\), with
    \\(u = -2 \sum_{k\ \mathrm{even}} w_{k / 2 + 1} (J^T)^k v\\).

    `draw(x, seed)` returns the probes, `[num_probes * batch, *event]`, and the `Terms`. Calls with equal keys for
    equal programs are traced once.

    References:
      Chen et al. 2019, Theorems 1 and 2, and Section 3.2 (backward in forward).
    """
    num_inputs = len(inputs)
    forward_key = None if branch.key is None else ("forward", odd, num_probes, key, branch.key)
    backward_key = None if branch.key is None else ("backward", num_probes, branch.key)

    def forward(inputs, parameters, seed):
        network = branch.with_parameters(parameters)
        v, terms = draw(inputs[0], seed)
        x = tf.identity(_tile(inputs[0], num_probes))  # a condition may be the same tensor
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            gx = tf.cast(network([x, *(_tile(tensor, num_probes) for tensor in inputs[1:])]), x.dtype)

        def vjp(w):  # gradients of some activations lose their static shape in a graph
            return tf.ensure_shape(tape.gradient(gx, x, w, unconnected_gradients="zero"), w.shape)

        log_det, u = (_sum_odd_series if odd else _sum_series)(vjp, v, terms)
        # Makes the next block wait; otherwise the activations of the series would stay in memory while it runs.
        with tf.control_dependencies([log_det]):
            y = inputs[0] + gx[: tf.shape(inputs[0])[0]]
        mean = log_det if num_probes == 1 else tf.reduce_mean(tf.reshape(log_det, [num_probes, -1]), 0)
        return y, mean, u, v

    backward = functools.partial(_gradients, branch, num_probes)

    @custom_gradient
    def operation(seed, *tensors):
        arguments = (list(tensors[:num_inputs]), list(tensors[num_inputs:]))
        y, log_det, u, v = traced_once(forward_key, forward, *arguments, seed)

        def grad(dy, dlog_det, variables=None):
            # Makes the recomputation wait for the upstream gradient. Otherwise Grappler merges it with the
            # forward pass, and every activation stays in memory until the backward pass.
            inputs, parameters = arguments
            with tf.control_dependencies([dy, dlog_det]):
                inputs = [tf.identity(tensor) for tensor in inputs]
            others = list(variables or [])
            grads = traced_once(backward_key, backward, inputs, parameters, v, u, dy, dlog_det, others)
            grads = first_order_only(grads, _ONCE)
            of_arguments = [None, *grads[: len(tensors)]]
            return of_arguments if variables is None else (of_arguments, grads[len(tensors) :])

        return (y, log_det), grad

    return operation(seed, *inputs, *branch.tensors())


def _gradients(branch, num_probes, inputs, parameters, v, u, dy, dlog_det, others):
    """Returns the gradients of u'J v, with u constant, and of g in the inputs, parameters and other variables."""
    branch = branch.with_parameters(parameters)
    targets = [*inputs, *branch.parameters, *others]
    upstream = _per_row(_tile(dlog_det, num_probes) / num_probes, u)
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(targets)
        tiled = [_tile(tensor, num_probes) for tensor in inputs]
        if branch.program.supports_jvp:
            gx, derivative = branch.value_and_jvp(tiled, v)
            objective = tf.reduce_sum(upstream * u * tf.cast(derivative, u.dtype))
        else:
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(tiled[0])
                gx = tf.cast(branch(tiled), tiled[0].dtype)
            derivative = inner.gradient(gx, tiled[0], upstream * u, unconnected_gradients="zero")
            objective = tf.reduce_sum(derivative * v)
        objective += tf.reduce_sum(dy * tf.cast(gx, dy.dtype)[: tf.shape(dy)[0]])
    grads = outer.gradient(objective, targets, unconnected_gradients="zero")
    grads = list(map(tf.convert_to_tensor, grads))
    with tf.control_dependencies(grads):
        grads[0] += dy
    return grads


def _tile(tensor, num):
    if num == 1:
        return tensor
    return tf.gather(tensor, tf.tile(tf.range(tf.shape(tensor)[0]), [num]))  # TFLite drops tf.tile of the tensor
