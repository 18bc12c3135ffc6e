"""Adds computations to graphs: as calls of a shared function, or fused by XLA into one pass over memory."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient, is_xla, silence_retracing

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
    try:
        shared = _held(tf.compat.v1.get_default_graph(), key, function, experimental_attributes={"_noinline": True})
    except TypeError:  # the key cannot be hashed
        return function(*args)
    return function(*args) if shared.get_concrete_function(*args).captured_inputs else shared(*args)


def _held(graph, key, function, **options):
    """Returns the `tf.function` that a graph holds for a key."""
    if not hasattr(graph, _FUNCTIONS):
        setattr(graph, _FUNCTIONS, {})
    functions = getattr(graph, _FUNCTIONS)
    if key not in functions:
        functions[key] = silence_retracing(tf.function(function, autograph=False, **options))
    return functions[key]


def is_large(shape: Iterable[int | None]) -> bool:
    """Whether a tensor of a shape in a graph is so large that XLA kernels save more time than they take to compile.

    An unknown batch size counts as 64.
    """
    return not tf.executing_eagerly() and math.prod(size or 64 for size in shape) >= _LARGE


def in_one_pass(f: Callable, *args: tf.Tensor, wide: bool = False) -> Any:
    """Returns `f(*args)` in a graph, computed by an XLA kernel that passes over memory once.

    XLA compiles again for each shape. Equal functions, and methods of equal objects, share a kernel in a graph and
    its inner graphs. With `wide`, the kernel computes in at least float32 (see `in_wide`).
    """
    key = getattr(f, "__func__", f), getattr(f, "__self__", None), wide
    graph = tf.compat.v1.get_default_graph()
    while hasattr(getattr(graph, "outer_graph", None), "outer_graph"):
        graph = graph.outer_graph
    return _held(graph, key, in_wide(f) if wide else f, jit_compile=True)(*args)


def wide_dtype(dtype: tf.DType) -> tf.DType:
    """Returns the dtype in which values of `dtype` are computed: at least float32."""
    return dtype if dtype.size > 4 else tf.float32


def in_wide(f: Callable) -> Callable:
    """Returns `f`, computed in at least float32, with results in the dtype of its first argument."""

    def wide(x, *args):
        results = f(*(tf.cast(arg, wide_dtype(x.dtype)) for arg in (x, *args)))
        return tf.nest.map_structure(lambda result: tf.cast(result, x.dtype), results)

    return wide


def first_order_only(
    tensors: Sequence[tf.Tensor], message: str, variables: Sequence[tf.Tensor] = ()
) -> list[tf.Tensor]:
    """Returns copies of the tensors, and raises a ValueError when they are differentiated, also in `variables`.

    Use it for results of a gradient that would be wrong if it were differentiated again.
    """

    @custom_gradient
    def guard(*values):
        def grad(*_):
            raise ValueError(message)

        return list(values[: len(tensors)]), grad

    return list(guard(*tensors, *variables))
