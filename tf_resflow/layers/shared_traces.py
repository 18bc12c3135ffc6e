"""A computation that occurs often in a graph, as calls of a function that the graph holds once."""

import dataclasses
from collections.abc import Callable, Collection, Hashable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import is_xla, silence_retracing

__all__ = ["settings_key", "traced_once"]

_FUNCTIONS = "_tf_resflow_functions"  # attribute of a graph, which lives and dies with it


def traced_once(key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; in a graph as a call of a function that is traced once for equal keys and shapes.

    The function is not inlined: a call adds little to the graph, and to the time to trace and to optimize it.

    Args:
      key: says what the function computes of its arguments, by its equality; None for one that is not shared.
      function: of tensors, and of lists of them. One that uses other tensors or variables is not shared.
      *args: its arguments.
    """
    if key is None or tf.executing_eagerly() or is_xla():
        return function(*args)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _FUNCTIONS):
        setattr(graph, _FUNCTIONS, {})
    traced = getattr(graph, _FUNCTIONS)
    if key not in traced:
        traced[key] = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    shared = silence_retracing(traced[key])
    return function(*args) if shared.get_concrete_function(*args).captured_inputs else shared(*args)


def settings_key(obj: Any, known: Collection[type]) -> Hashable | None:
    """What two objects that compute the same have in common: the settings of one of a known class.

    None for others, for those with attributes that their class does not set, and for settings that are not plain:
    nobody knows what they read, or whether they change.

    Args:
      obj: an estimator, a solver, or a setting of one.
      known: the dataclasses whose fields say all that there is to say.
    """
    if obj is None or type(obj) in (bool, int, float, str):
        return type(obj), obj
    if type(obj) not in known or vars(obj).keys() != {field.name for field in dataclasses.fields(obj)}:
        return None
    settings = [(name, settings_key(value, known)) for name, value in sorted(vars(obj).items())]
    return None if any(setting is None for _, setting in settings) else (type(obj), *settings)
