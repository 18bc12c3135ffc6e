"""The base of our bijectors: one pass gives a value and all that is known of it, and TFP's methods follow.

No other file knows TFP's cache of values.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.bijectors import bijector as tfp_bijector
from tensorflow_probability.python.bijectors.invert import _Invert  # what tfb.Invert of our bijectors is
from tensorflow_probability.python.internal import cache_util, nest_util

from tf_resflow.layers import lipschitz_constant

__all__ = ["Context", "FlowBijector", "LipschitzConstants", "Pass", "lipschitz_constants", "run"]

tfb = tfp.bijectors

_SCOPE = "graph_scope"


class Pass(NamedTuple):
    """What one pass through a bijector gives.

    Attributes:
      value: a tensor, or a nest of them.
      log_det: log|det| of the Jacobian in the direction of the pass, for an event of the least rank; None where it
        was not asked for, or is not known in this direction.
      features: the values after each scale of a flow.
      solutions: the `tf_resflow.solvers.Solution` of each block that was inverted, in the order of their inversion.
    """

    value: Any
    log_det: tf.Tensor | None = None
    features: tuple = ()
    solutions: tuple = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """What the caller of a pass chooses.

    Attributes:
      arguments: as for `forward`: `seed`, `conditional_input`, and dictionaries under the names of members.
      log_det: whether the log-determinant is wanted. Without it no series is evaluated.
      event_ndims: of a bijector of several parts, the ranks of the events that its log-determinant is to be of; the
        sums over the parts cannot follow, as they do for one part.
      visit: function of a bijector, its input, and whether it is inverted, called before the bijector is applied;
        of all bijectors but those that are made of others.
    """

    arguments: Mapping = dataclasses.field(default_factory=dict)
    log_det: bool = True
    event_ndims: Any = None
    visit: Callable | None = None

    def of(self, arguments):
        """The context of a member, which gets these arguments."""
        return dataclasses.replace(self, arguments=arguments, event_ndims=None)

    def take(self, name, *known):
        """The values of the arguments that a bijector of this name knows; None where they are not given.

        Raises:
          ValueError: for others.
        """
        if unknown := self.arguments.keys() - set(known):
            takes = ", ".join(key for key in known if key != "salt") or "no arguments"  # which flows alone give
            got = ", ".join(sorted(unknown))
            raise ValueError(f"{name} takes {takes} besides the value; got {got}.")
        return [self.arguments.get(key) for key in known]


class LipschitzConstants(NamedTuple):
    """Upper bounds of the Lipschitz constants of a bijector and of its inverse.

    Attributes:
      forward: of the map from data to latent; infinite if nothing bounds it.
      inverse: of its inverse.
      order: the order p of the l^p norm in which both hold; None if they hold in each.
      reason: why one of them is infinite, a sentence; None if both are finite.
    """

    forward: float = math.inf
    inverse: float = math.inf
    order: Any = None
    reason: str | None = None


class _Cache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache, kept apart for each graph and never older than its output.

    Without the graph in the key a value that was computed inside `tf.cond` or `tf.while_loop` is found again
    outside of its graph.
    """

    def _lookup(self, input, forward_name, inverse_name, **kwargs):  # noqa: A002 (TFP's name)
        return super()._lookup(input, forward_name, inverse_name, **_scoped(kwargs))

    def _attributes(self, input, fn_name, **kwargs):  # noqa: A002
        edge = self._get_or_create_edge(input, fn_name, _scoped(kwargs))
        if not edge.output_ref:
            # The output is gone, and with it what is known of the pair: variables may have changed.
            edge.attributes.clear()
        return edge.attributes

    def _invoke(self, input, fn_name, kwargs, attributes):  # noqa: A002
        attributes.clear()  # as above
        kwargs = {name: value for name, value in kwargs.items() if name != _SCOPE}
        return super()._invoke(input, fn_name, kwargs, attributes)


def _scoped(kwargs):
    graph = None if tf.executing_eagerly() else id(tf.compat.v1.get_default_graph())
    return {**kwargs, _SCOPE: graph}


class FlowBijector(tfb.Bijector):
    """A bijector that is defined by what one pass through it gives.

    A subclass implements `run` and `undo`; one whose log-determinant costs next to nothing TFP's `_forward`,
    `_inverse` and `_forward_log_det_jacobian` instead.
    """

    _cache = _Cache(forward_name="_augmented_forward", inverse_name="_augmented_inverse")
    ends_scale = False  # whether a flow has a feature after it, see `forward_features`
    _members = types.MappingProxyType({})  # of a bijector that is made of others, by key

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def run(self, x, context):
        """The `Pass` from x, data to latent.

        Args:
          x: a tensor `[..., *event]` of the bijector's dtype.
          context: a `Context`.
        """
        y = self._forward(x, **context.arguments)
        return Pass(y, self._forward_log_det_jacobian(x) if context.log_det else None)

    def undo(self, y, context):
        """The `Pass` from y, latent to data; as `run`."""
        x = self._inverse(y, **context.arguments)
        return Pass(x, -self._forward_log_det_jacobian(x) if context.log_det else None)

    @property
    def keras_parts(self):
        """What Keras sees of the bijector without its members: a layer, a list of `keras.Variable`s, or None."""
        return None

    def lipschitz_constants(self, certified=False, *, bound=lipschitz_constant):
        """The bounds of the slopes of the bijector and of its inverse; by default those that its members imply.

        Args:
          certified: whether the bounds are to be proofs for the present weights, see
            `tf_resflow.layers.lipschitz_constant`.
          bound: function of a network and `certified`; a caller may pass one that remembers its results.

        Returns:
          A `LipschitzConstants`.
        """
        parts = [lipschitz_constants(member, certified, bound) for member in self._members.values()]
        if not parts:
            return LipschitzConstants(reason=f"Nothing is known of the slopes of a {type(self).__name__}")
        orders = {part.order for part in parts} - {None}
        if len(orders) > 1:
            return LipschitzConstants(reason=f"The parts of {self.name} contract in different norms")
        forward, inverse, *_ = zip(*parts, strict=True)
        reason = next((part.reason for part in parts if part.reason), None)
        return LipschitzConstants(self._compose(forward), self._compose(inverse), *(orders or {None}), reason)

    def _compose(self, constants):
        """The bound of the composition of maps with these bounds, in the order of the members."""
        return math.prod(constants)

    def _initialize(self, x, inverse):
        """Sets variables from the data that reach the bijector, or its inverse; by default there are none to set."""

    @property
    def _has_parts(self):
        """Whether an input or an output is a structure, whose parts have ranks of their own."""
        return tf.nest.is_nested(self.forward_min_event_ndims) or tf.nest.is_nested(self.inverse_min_event_ndims)

    def _solves(self, inverse):
        """Whether a pass in this direction solves for the value of a block."""
        return any(_solves(member, inverse) for member in self._members.values())

    def _defers(self, inverse):
        """Whether the log-determinant is left to the pass in the other direction, which alone solves nothing."""
        return self._solves(inverse) and not self._solves(not inverse)

    def _augmented_forward(self, x, **arguments):
        done = self._pass(self.run, x, arguments, inverse=False)
        return done.value, None if done.log_det is None else {"fldj": done.log_det, "ildj": -done.log_det}

    def _augmented_inverse(self, y, **arguments):
        done = self._pass(self.undo, y, arguments, inverse=True)
        return done.value, None if done.log_det is None else {"fldj": -done.log_det, "ildj": done.log_det}

    def _pass(self, apply, x, arguments, inverse):
        """A value, with the log-determinant where it comes with it."""
        if not (self._has_parts or self._defers(inverse)):
            try:
                return apply(x, Context(arguments))
            except NotImplementedError:
                pass  # A bijector of the user's may have a value and no log-determinant.
        return apply(x, Context(arguments, log_det=False))

    def _forward_log_det_jacobian(self, x, **arguments):
        if self._defers(inverse=False):
            return -self.undo(self.forward(x, **arguments), Context(arguments)).log_det
        return self.run(x, Context(arguments)).log_det

    def _inverse_log_det_jacobian(self, y, **arguments):
        if self._defers(inverse=True):
            return -self._forward_log_det_jacobian(self.inverse(y, **arguments), **arguments)
        return self.undo(y, Context(arguments)).log_det


def run(bijector, x, context, event_ndims=None, inverse=False):
    """A `Pass` through any bijector, of TFP's too.

    Args:
      bijector: a `tfb.Bijector`.
      x: a tensor, or a nest of them.
      context: a `Context`.
      event_ndims: rank of the events that the log-determinant is to be of; by default the least.
      inverse: whether to pass from the latent to the data.

    Returns:
      A `Pass`.
    """
    if isinstance(bijector, _Invert):
        return run(bijector.bijector, x, context, event_ndims, not inverse)
    if isinstance(bijector, tfb.Composition) and not isinstance(bijector, FlowBijector) and not context.log_det:
        return _walk(bijector, x, context, inverse)
    if context.visit and not getattr(bijector, "_members", False):
        context.visit(bijector, x, inverse)
    if not isinstance(bijector, FlowBijector):
        return _run_stock(bijector, x, context, event_ndims, inverse)
    dtype = bijector.forward_dtype() if inverse else bijector.inverse_dtype()
    x = nest_util.convert_to_nested_tensor(x, dtype_hint=dtype, dtype=dtype, allow_packing=True)
    context = dataclasses.replace(context, event_ndims=event_ndims if bijector._has_parts else None)
    with tf.name_scope(bijector.name):
        done = bijector.undo(x, context) if inverse else bijector.run(x, context)
        if bijector._has_parts or not context.log_det:
            return done
        if done.log_det is None:
            done = done._replace(log_det=-bijector.run(done.value, context).log_det)
        return done._replace(log_det=_over_events(bijector, done.log_det, x, event_ndims, inverse))


def lipschitz_constants(bijector, certified=False, bound=lipschitz_constant):
    """The `LipschitzConstants` of any bijector, of TFP's too; see `FlowBijector.lipschitz_constants`."""
    if isinstance(bijector, _Invert):
        forward, inverse, *rest = lipschitz_constants(bijector.bijector, certified, bound)
        return LipschitzConstants(inverse, forward, *rest)
    if isinstance(bijector, FlowBijector):
        return bijector.lipschitz_constants(certified, bound=bound)
    return LipschitzConstants(reason=f"Nothing is known of the slopes of a {type(bijector).__name__}")


def _solves(bijector, inverse):
    """Whether a pass through any bijector solves for the value of a block."""
    if isinstance(bijector, _Invert):
        return _solves(bijector.bijector, not inverse)
    if isinstance(bijector, FlowBijector):
        return bijector._solves(inverse)
    return any(_solves(member, inverse) for member in tf.nest.flatten(getattr(bijector, "bijectors", [])))


def _over_events(bijector, log_det, x, event_ndims, inverse):
    """The log-determinant for events of a higher rank than the least."""
    least = bijector.inverse_min_event_ndims if inverse else bijector.forward_min_event_ndims
    if event_ndims is None or event_ndims == least:
        return log_det
    shape, _ = tfp_bijector.ldj_reduction_shape(
        tf.nest.map_structure(tf.shape, x),
        event_ndims=event_ndims,
        min_event_ndims=least,
        parameter_batch_shape=None,
        allow_event_shape_broadcasting=True,
        validate_args=False,
    )
    return tfp_bijector.reduce_jacobian_det_over_shape(log_det, shape, sum_fn=tf.reduce_sum)


def _run_stock(bijector, x, context, event_ndims, inverse):
    """A pass through a bijector of TFP's own.

    Its cache, handed a tensor from outside of a `tf.cond` or `tf.while_loop`, keeps the branch's result under that
    tensor, and gives it out again outside. So it is handed copies, that nobody else has.
    """
    x = tf.nest.map_structure(tf.identity, x)
    apply = bijector.inverse if inverse else bijector.forward
    log_det = bijector.inverse_log_det_jacobian if inverse else bijector.forward_log_det_jacobian
    y = apply(x, **context.arguments)
    log_det = log_det(x, event_ndims, **context.arguments) if context.log_det else None
    return Pass(tf.nest.map_structure(tf.identity, y), log_det)


def _walk(composition, x, context, inverse):
    """A pass through a composition of TFP's own, member by member, without a log-determinant."""
    features, solutions = [], []

    def step(member, x, **arguments):
        done = run(member, x, context.of(arguments), inverse=inverse)
        features.extend(done.features)
        solutions.extend(done.solutions)
        return done.value

    walk = composition._walk_inverse if inverse else composition._walk_forward
    return Pass(walk(step, x, **context.arguments), None, tuple(features), tuple(solutions))
