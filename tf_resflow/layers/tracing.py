"""How computations get into a graph: shared by calls of one function, or fused by XLA into one pass over memory."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Hashable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import is_xla, silence_retracing

_FUNCTIONS = "_tf_resflow_functions"  # attribute of a graph, which lives and dies with it


def traced_once(key: Hashable, function: Callable[..., Any], *args: Any, fused: bool = False) -> Any:
    """`function(*args)`; in a graph as a call of a function that is traced once for equal keys and shapes.

    Equal keys mean that the functions compute the same of their arguments, tensors and lists of them. A function is
    not shared if its key is None or if it uses other tensors or variables. It is not inlined, so a call adds little
    to the graph. With `fused` XLA compiles it.
    """
    if key is None or tf.executing_eagerly() or is_xla():
        return function(*args)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _FUNCTIONS):
        setattr(graph, _FUNCTIONS, {})
    traced = getattr(graph, _FUNCTIONS)
    if key not in traced:
        options = {"jit_compile": True} if fused else {"experimental_attributes": {"_noinline": True}}
        traced[key] = tf.function(function, autograph=False, **options)
    shared = silence_retracing(traced[key])
    return function(*args) if shared.get_concrete_function(*args).captured_inputs else shared(*args)


def settings_key(obj: Any, known: Collection[type]) -> Hashable | None:
    """What two objects that compute the same have in common: the plain settings of one of the known dataclasses.

    None for other objects, for altered ones, and for settings that are not plain.
    """
    if obj is None or type(obj) in (bool, int, float, str):
        return type(obj), obj
    if type(obj) not in known or vars(obj).keys() != {field.name for field in dataclasses.fields(obj)}:
        return None
    settings = [(name, settings_key(value, known)) for name, value in sorted(vars(obj).items())]
    return None if any(setting is None for _, setting in settings) else (type(obj), *settings)


def in_one_pass(f: Callable, *args: Any, fused: bool, wide: bool = False) -> Any:
    """Returns `f(*args)`; if `fused`, a graph computes it by an XLA kernel that passes over memory once.

    XLA compiles again for each shape. With `wide` it computes in float32 at least, see `in_wide`.
    """
    if fused and not tf.executing_eagerly():
        return _compiled(f, wide)(*args)
    return (in_wide(f) if wide else f)(*args)


@functools.cache
def _compiled(f, wide):
    return silence_retracing(tf.function(in_wide(f) if wide else f, jit_compile=True, autograph=False))


def wide_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which values of `dtype` are computed: float32 at least."""
    return dtype if dtype.size > 4 else tf.float32


def in_wide(f: Callable) -> Callable:
    """`f` computed in float32 at least, with results in the dtype of its first argument."""

    @functools.wraps(f)
    def wide(x, *args):
        results = f(*(tf.cast(arg, wide_dtype(x.dtype)) for arg in (x, *args)))
        return tf.nest.map_structure(lambda result: tf.cast(result, x.dtype), results)

    return wide
