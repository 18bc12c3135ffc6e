"""Adds computations to graphs: as calls of a shared function, or fused by XLA into one pass over memory."""

import functools
import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import tensorflow as tf

from tf_resflow.private_api import is_xla, silence_retracing

_LARGE = 2**20  # elements
_FUNCTIONS = "_tf_resflow_functions"  # name of an attribute on a graph, freed with the graph


def traced_once(key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
    """Returns `function(*args)`. In a graph, calls with equal keys and shapes share one traced function.

    Functions with equal keys must compute the same result from their arguments, which are tensors and lists of
    tensors. A function is not shared if its key is None or cannot be hashed, or if the function captures other
    tensors or variables. Shared functions are not inlined, so a call adds little to the graph.
    """
    if key is None or tf.executing_eagerly() or is_xla():
        return function(*args)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _FUNCTIONS):
        setattr(graph, _FUNCTIONS, {})
    traced = getattr(graph, _FUNCTIONS)
    try:
        shared = traced.get(key)
    except TypeError:  # the key cannot be hashed
        return function(*args)
    if shared is None:
        shared = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
        traced[key] = silence_retracing(shared)
    return function(*args) if shared.get_concrete_function(*args).captured_inputs else shared(*args)


def is_large(shape: Iterable[int | None]) -> bool:
    """Whether a tensor of a shape in a graph is so large that XLA kernels save more time than they take to compile.

    An unknown batch size counts as 64.
    """
    return not tf.executing_eagerly() and math.prod(size or 64 for size in shape) >= _LARGE


def in_one_pass(f: Callable, *args: Any, fused: bool, wide: bool = False) -> Any:
    """Returns `f(*args)`. If `fused`, an XLA kernel that passes over memory once computes it for large tensors.

    XLA compiles again for each shape. With `wide`, it computes in at least float32 (see `in_wide`).
    """
    f = in_wide(f) if wide else f
    return (compiled(f) if fused and is_large(args[0].shape) else f)(*args)


@functools.cache
def compiled(f: Callable) -> Callable:
    """Returns `f` as a kernel that XLA compiles."""
    return silence_retracing(tf.function(f, jit_compile=True, autograph=False))


def wide_dtype(dtype: tf.DType) -> tf.DType:
    """Returns the dtype in which values of `dtype` are computed: at least float32."""
    return dtype if dtype.size > 4 else tf.float32


@functools.cache
def in_wide(f: Callable) -> Callable:
    """Returns `f`, computed in at least float32, with results in the dtype of its first argument."""

    @functools.wraps(f)
    def wide(x, *args):
        results = f(*(tf.cast(arg, wide_dtype(x.dtype)) for arg in (x, *args)))
        return tf.nest.map_structure(lambda result: tf.cast(result, x.dtype), results)

    return wide
