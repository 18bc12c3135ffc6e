"""A computation that occurs often in a graph, as calls of a function that the graph holds once."""

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import is_xla, silence_retracing

__all__ = ["traced_once"]

_FUNCTIONS = "_tf_resflow_functions"  # attribute of a graph, which lives and dies with it


def traced_once(key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; in a graph as a call of a function that is traced once for equal keys and shapes.

    The function is not inlined: a call adds little to the graph, and to the time to trace and to optimize it.

    Args:
      key: says what the function computes of its arguments.
      function: of tensors, and of lists of them. One that uses other tensors or variables is not shared.
      *args: its arguments.
    """
    if tf.executing_eagerly() or is_xla():
        return function(*args)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _FUNCTIONS):
        setattr(graph, _FUNCTIONS, {})
    traced = getattr(graph, _FUNCTIONS)
    if key not in traced:
        traced[key] = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    shared = silence_retracing(traced[key])
    return function(*args) if shared.get_concrete_function(*args).captured_inputs else shared(*args)
