"""TFP's bijector cache, kept apart for each graph and never older than its output."""

import tensorflow as tf
from tensorflow_probability.python.internal import cache_util

__all__ = ["ScopedCache", "ScopedGreedyCache"]

_SCOPE = "graph_scope"


def _scope(kwargs):
    """Adds the identity of the current graph to the arguments that a cache entry is keyed by.

    Without it a value computed inside `tf.cond` or `tf.while_loop` is found again outside of its graph.
    """
    graph = None if tf.executing_eagerly() else id(tf.compat.v1.get_default_graph())
    return {**kwargs, _SCOPE: graph}


class _Scoped(cache_util.BijectorCache):
    def _lookup(self, input, forward_name, inverse_name, **kwargs):  # noqa: A002 (TFP's name)
        return super()._lookup(input, forward_name, inverse_name, **_scope(kwargs))

    def _attributes(self, input, fn_name, **kwargs):  # noqa: A002
        edge = self._get_or_create_edge(input, fn_name, _scope(kwargs))
        if not edge.output_ref:
            # The output is gone, and with it what is known of the pair: variables may have changed.
            edge.attributes.clear()
        return edge.attributes

    def _invoke(self, input, fn_name, kwargs, attributes):  # noqa: A002
        # As above: what is left here belongs to an output that is gone.
        attributes.clear()
        kwargs = {name: value for name, value in kwargs.items() if name != _SCOPE}
        return super()._invoke(input, fn_name, kwargs, attributes)


class ScopedCache(_Scoped):
    """For bijectors that implement `_forward` and `_inverse`."""


class ScopedGreedyCache(_Scoped, cache_util.BijectorCacheWithGreedyAttrs):
    """For bijectors whose augmented methods return a value together with its log-determinant."""
