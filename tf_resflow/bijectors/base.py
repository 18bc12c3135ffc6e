"""The base class of the bijectors: one pass returns the value and the log-determinant, and TFP's methods follow.

This is the only file that knows TFP's cache of values.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.bijectors import bijector as tfp_bijector
from tensorflow_probability.python.bijectors.invert import _Invert  # what tfb.Invert of our bijectors is
from tensorflow_probability.python.internal import cache_util, nest_util

from tf_resflow.bijectors.networks import adopt, check_event
from tf_resflow.layers import lipschitz_constant
from tf_resflow.private_api import has_fixed_members, without_retracing_warnings
from tf_resflow.seeds import stateless_seed
from tf_resflow.serialization import Serializable, deserialize, serialize
from tf_resflow.solvers import Solution

_OF_GRAPH = "_tf_resflow_values"  # attribute of a graph


class Pass(NamedTuple):
    """The result of one pass through a bijector.

    Attributes:
      value: a tensor, or a nest of tensors.
      log_det: log|det| of the Jacobian in the direction of the pass, for events of the minimum rank, if requested.
      features: the values after each scale of a flow.
      solutions: the `Solution` of each block that solved an equation, in order.
    """

    value: Any
    log_det: tf.Tensor | None = None
    features: tuple[tf.Tensor, ...] = ()
    solutions: tuple[Solution, ...] = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """What the caller of a pass chooses.

    Attributes:
      arguments: `seed`, `networks`, `condition`, and dictionaries under the names of members.
      compute_log_det: whether to compute the log-determinant.
      warn: whether to print a warning if an inverse did not converge.
      unseen: No warning is issued up to this residual, because the data cannot resolve it.
      atol: absolute tolerance for the inverse of blocks that were given no solver.
      visit: function of a bijector, its input, and whether it is inverted; called before each bijector that has
        no members.
    """

    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compute_log_det: bool = True
    warn: bool = True
    unseen: float = 0.0
    atol: float = 0.0
    visit: Callable[[tfb.Bijector, Any, bool], None] | None = None

    def take(self, name: str, *known: str) -> list:
        """Returns the values of the known arguments, None where missing; raises a ValueError for others."""
        if unknown := self.arguments.keys() - {*known, "salt"}:
            takes = ", ".join(known) or "no arguments"
            raise ValueError(f"{name} takes {takes} besides the value; got {', '.join(sorted(unknown))}.")
        return [self.arguments.get(key) for key in known]

    def seed(self, name: str) -> tf.Tensor:
        """Returns the stateless seed of a bijector of this name, from `seed` and the `salt` that flows add."""
        return stateless_seed(self.arguments.get("seed"), salt=self.arguments.get("salt", "") + name)


class LipschitzConstants(NamedTuple):
    """Upper bounds of the Lipschitz constants of a bijector (data to latent) and of its inverse.

    Both hold in the l^p norm of `order` p, or in every norm if it is None. `reason` says why one is infinite.
    """

    forward: float = math.inf
    inverse: float = math.inf
    order: Any = None
    reason: str | None = None


class _Cache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache, one per graph, without entries whose output is gone.

    Otherwise a value computed inside `tf.cond` or `tf.while_loop` would be found outside of its graph, and no graph
    would ever be freed.
    """

    @property
    def storage(self):
        """The values cached in the current graph, or in eager mode."""
        if tf.executing_eagerly():
            return self._eager
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, _OF_GRAPH):
            setattr(graph, _OF_GRAPH, cache_util.EphemeralDict())
        return getattr(graph, _OF_GRAPH)

    @storage.setter
    def storage(self, eager):
        self._eager = eager

    def __get__(self, bijector, bijector_class=None):
        """The cache of one bijector."""
        return type(self)(self._forward_name, self._inverse_name, bijector, bijector_class, self._eager)

    def _attributes(self, input, fn_name, **kwargs):  # noqa: A002 (TFP's name)
        edge = self._get_or_create_edge(input, fn_name, kwargs)
        if not edge.output_ref:
            edge.attributes.clear()  # variables may have changed
        return edge.attributes

    def _invoke(self, input, fn_name, kwargs, attributes):  # noqa: A002
        attributes.clear()  # as above
        return super()._invoke(input, fn_name, kwargs, attributes)


class FlowBijector(Serializable, tfb.Bijector):
    """A bijector defined by one pass through it.

    A subclass implements `forward_pass` and `inverse_pass`, which return the value and log-determinant, or TFP's
    `_forward`, `_inverse` and `_forward_log_det_jacobian`. TFP's other methods follow from either.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow

    class Shear(resflow.bijectors.FlowBijector):
        def __init__(self, slope, name="shear"):
            parameters = dict(locals())
            self._slope = slope
            super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)

        def forward_pass(self, x, context, sign=1.0):
            a, b = tf.unstack(x, axis=-1)
            return tf.stack([a, b + sign * self._slope * a], -1), tf.zeros_like(a)

        def inverse_pass(self, y, context):
            return self.forward_pass(y, context, -1.0)

    flow = resflow.bijectors.Flow([Shear(2.0), resflow.bijectors.ActNorm([2])])
    print(flow.forward([[1.0, 1.0]]).numpy(), flow.inverse([[1.0, 3.0]]).numpy())
    # [[1. 3.]] [[1. 1.]]
    ```

    In a pass, `context.compute_log_det` says whether the log-determinant is wanted, `context.take(name, "seed",
    "condition")` returns the values of these arguments and refuses others, and `context.seed(name)` is a
    stateless seed.

    Attributes:
      networks: the built Keras layers (or modules) that the bijector evaluates, whose variables are trained and
        saved. Set this attribute before calling `super().__init__`, or define a property.
      keras_variables: the `keras.Variable`s that the bijector holds itself.
      argument_names: the arguments that it accepts from the flows around it, of "seed", "networks" and
        "condition"; none by default.
      ends_scale: whether a flow has a feature after it, see `forward_features`.
      is_random: whether its log-determinant is a random estimate.
    """

    networks: Sequence[Any] = ()
    keras_variables: Sequence[keras.Variable] = ()
    argument_names: tuple[str, ...] = ()
    ends_scale: bool = False
    is_random: bool = False
    _cache = _Cache(forward_name="_augmented_forward", inverse_name="_augmented_inverse")
    _members: dict[str, tfb.Bijector] = {}  # by key, if it is made of others
    _inverse_solves = False  # whether the inverse needs a solver
    _event_shape: Any = None  # the TensorShape of inputs and outputs, if it is known
    _why_unbounded = ""  # a sentence, for bijectors without a Lipschitz constant

    _networks_key = "_network_variables"  # of the variables of the networks in checkpoints

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kept = [adopt(network) for network in self.networks]
        if kept:  # TFP sees the variables here
            setattr(self, self._networks_key, kept[0] if len(kept) == 1 else kept)
        super().__init__(*args, **kwargs)

    def __reduce__(self):
        """Pickles and copies the config, and the values of the variables."""
        return _with_values, (serialize(self), [variable.numpy() for variable in self.variables])

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from x `[..., *event]`, data to latent."""
        y = self._forward(x, **context.arguments)
        return Pass(y, self._forward_log_det_jacobian(x, **context.arguments) if context.compute_log_det else None)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from y, latent to data."""
        x = self._inverse(y, **context.arguments)
        return Pass(x, -self._forward_log_det_jacobian(x, **context.arguments) if context.compute_log_det else None)

    def lipschitz_constants(self, certified: bool = False, bound: Any = lipschitz_constant) -> LipschitzConstants:
        """Upper bounds of the Lipschitz constants of the bijector and of its inverse.

        Args:
          certified: whether the bounds must be proofs for the current weights, see
            `tf_resflow.layers.lipschitz_constant`.
          bound: function of a network and `certified` that bounds its constant, for example a cached one.
        """
        return self._lipschitz_constants(certified, bound)

    def _lipschitz_constants(self, certified, bound):
        """By default, what the members imply."""
        parts = [lipschitz_constants(member, certified, bound) for member in self._members.values()]
        if not parts:
            unknown = f"The Lipschitz constants of a {type(self).__name__} are unknown"
            return LipschitzConstants(reason=self._why_unbounded or unknown)
        orders = {part.order for part in parts} - {None}
        if len(orders) > 1:
            return LipschitzConstants(reason=f"The parts of {self.name} contract in different norms")
        forward, inverse, *_ = zip(*parts, strict=True)
        reason = next((part.reason for part in parts if part.reason), None)
        order = orders.pop() if orders else None
        return LipschitzConstants(self._compose(forward), self._compose(inverse), order, reason)

    def _ends_of_scales(self):
        """For each member in order, whether its output is a feature of the flow."""
        return itertools.repeat(True)

    def _compose(self, constants):
        """A Lipschitz constant of the whole, from those of the members in order."""
        return math.prod(constants)

    def _initialize(self, x, inverse):
        """Sets the variables that depend on data, such as those of an `ActNorm`, from what reaches the bijector."""

    @property
    def _has_parts(self):
        """Whether an input or an output is a structure."""
        return tf.nest.is_nested(self.forward_min_event_ndims) or tf.nest.is_nested(self.inverse_min_event_ndims)

    def _defers(self, inverse):
        """Whether the log-determinant comes from the opposite pass, because only this one needs a solver."""
        return _solves(self, inverse) and not _solves(self, not inverse)

    def _forward_event_shape(self, shape):
        if self._event_shape is not None and shape.rank is not None:
            check_event(f"{self.name} maps events", self._event_shape, shape)
        return super()._forward_event_shape(shape)

    def _inverse_event_shape(self, shape):
        shape = super()._inverse_event_shape(shape)
        return shape if self._event_shape is None else self._forward_event_shape(shape)

    def _augmented(self, inverse, x, /, **arguments):
        """The value, and a dict of what TFP's cache keeps with it: the log-determinant of the same pass."""
        least = self.inverse_min_event_ndims if inverse else self.forward_min_event_ndims
        is_random = any(getattr(leaf, "is_random", False) for leaf, _ in _leaves(self))
        unseeded = is_random and "seed" not in arguments  # drawn only when the estimate is requested
        wanted = not (tf.nest.is_nested(least) or self._defers(inverse) or unseeded)
        try:
            value, log_det, *_ = _pass(self, x, Context(arguments, wanted), inverse)
        except NotImplementedError:  # a user's member may have a value and no log-determinant
            value, log_det, *_ = _pass(self, x, Context(arguments, compute_log_det=False), inverse)
        names = ("ildj", "fldj") if inverse else ("fldj", "ildj")
        return value, None if log_det is None else dict(zip(names, (log_det, -log_det), strict=True))

    _augmented_forward = functools.partialmethod(_augmented, False)
    _augmented_inverse = functools.partialmethod(_augmented, True)

    def _log_det_jacobian(self, inverse, x, /, **arguments):
        defers = self._defers(inverse)
        if defers:
            x, inverse = (self.inverse if inverse else self.forward)(x, **arguments), not inverse
        log_det = _pass(self, x, Context(arguments), inverse).log_det
        return tf.negative(log_det) if defers else log_det

    _forward_log_det_jacobian = functools.partialmethod(_log_det_jacobian, False)
    _inverse_log_det_jacobian = functools.partialmethod(_log_det_jacobian, True)


def _with_values(config, values):
    bijector = deserialize(config)
    for variable, value in zip(bijector.variables, values, strict=True):
        variable.assign(value)
    return bijector


def pass_through(
    bijector: tfb.Bijector, x: Any, context: Context, event_ndims: Any = None, inverse: bool = False
) -> Pass:
    """A `Pass` through any bijector, also of TFP, from a tensor or a nest of tensors.

    The log-determinant is summed over events of rank `event_ndims`, by default the minimum.
    """
    if isinstance(bijector, _Invert):
        return pass_through(bijector.bijector, x, context, event_ndims, not inverse)
    is_ours = isinstance(bijector, FlowBijector)
    walks = isinstance(bijector, tfb.Composition) and not is_ours and not context.compute_log_det
    if walks and has_fixed_members(bijector):
        return pass_through_members(bijector, x, context, inverse)
    if context.visit and not getattr(bijector, "_members", False):
        context.visit(bijector, x, inverse)
    if not is_ours:
        return _stock_pass(bijector, x, context, event_ndims, inverse)
    dtype = bijector.forward_dtype() if inverse else bijector.inverse_dtype()
    x = nest_util.convert_to_nested_tensor(x, dtype_hint=dtype, dtype=dtype, allow_packing=True)
    with tf.name_scope(bijector.name):
        if bijector._members and bijector._has_parts and event_ndims is not None:  # parts of different ranks
            return pass_through_members(bijector, x, context, inverse, event_ndims)
        done = _pass(bijector, x, context, inverse)
        if not context.compute_log_det:
            return done._replace(log_det=None)
        return done._replace(log_det=_over_events(bijector, done.log_det, x, event_ndims, inverse))


def _pass(bijector, x, context, inverse):
    """The `Pass` by the bijector's own method; raises a NotImplementedError if it lacks the log-determinant."""
    method = bijector.inverse_pass if inverse else bijector.forward_pass
    if bijector._event_shape is not None:
        check_event(f"{bijector.name} maps events", bijector._event_shape, x.shape)
    done, name = method(x, context), f"{bijector.name}.{method.__name__}"
    if not isinstance(done, tuple):
        raise ValueError(f"{name} must return (value, log_det); it returned a {type(done).__name__}.")
    done = Pass(*done)
    if context.compute_log_det and done.log_det is None:
        raise NotImplementedError(f"{name} returned no log-determinant, but context.compute_log_det is true.")
    return done


def pass_through_members(composition, x, context, inverse=False, event_ndims=None) -> Pass:
    """A pass through each member of a composition, by TFP's `_walk_forward` or `_walk_inverse`.

    The log-determinant requires members in sequence, and `event_ndims`, the rank of the events of `x`.
    """
    is_ours = isinstance(composition, FlowBijector)
    ends = composition._ends_of_scales() if is_ours else itertools.repeat(False)
    log_dets: list[tf.Tensor] = []
    features: list[tf.Tensor] = []
    solutions: list[Solution] = []

    def step(member, x, **arguments):
        nonlocal event_ndims
        done = pass_through(member, x, dataclasses.replace(context, arguments=arguments), event_ndims, inverse)
        if context.compute_log_det:
            log_dets.append(done.log_det)
            event_ndims = (member.inverse_event_ndims if inverse else member.forward_event_ndims)(event_ndims)
        solutions.extend(done.solutions)
        features.extend([done.value] if not inverse and next(ends) else () if is_ours else done.features)
        return done.value

    value = (composition._walk_inverse if inverse else composition._walk_forward)(step, x, **context.arguments)
    log_det = None
    if context.compute_log_det:
        dtype = max((log_det.dtype for log_det in log_dets), key=lambda dtype: dtype.size)
        log_det = sum(tf.cast(log_det, dtype) for log_det in log_dets)
    return Pass(value, log_det, tuple(features), tuple(solutions))


def in_order(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """The bijectors that a sequence such as `tfb.Chain` or `Flow` applies to a tensor, the first one first."""
    if not isinstance(bijector, tfb.Composition) or tf.nest.is_nested(bijector.forward_min_event_ndims):
        return [bijector]
    members = []

    def step(member, x, **arguments):
        members.append(member)
        return x

    bijector._walk_forward(step, None)
    return members


def lipschitz_constants(
    bijector: tfb.Bijector, certified: bool = False, bound: Any = lipschitz_constant
) -> LipschitzConstants:
    """The `LipschitzConstants` of any bijector, also of TFP; see `FlowBijector.lipschitz_constants`."""
    if isinstance(bijector, _Invert):
        forward, inverse, order, reason = lipschitz_constants(bijector.bijector, certified, bound)
        return LipschitzConstants(inverse, forward, order, reason)
    if isinstance(bijector, FlowBijector):
        return bijector.lipschitz_constants(certified, bound)
    return LipschitzConstants(reason=f"The Lipschitz constants of a {type(bijector).__name__} are unknown")


def _leaves(bijector, inverse=False):
    """The bijectors in a bijector that are not made of others, each with whether it is inverted."""
    if isinstance(bijector, _Invert):
        return _leaves(bijector.bijector, not inverse)
    members = tf.nest.flatten(getattr(bijector, "_members", None) or getattr(bijector, "bijectors", []))
    return [leaf for member in members for leaf in _leaves(member, inverse)] or [(bijector, inverse)]


def _solves(bijector, inverse):
    """Whether a pass in this direction needs the solver of some block."""
    leaves = _leaves(bijector, inverse)
    return any(is_inverted and getattr(leaf, "_inverse_solves", False) for leaf, is_inverted in leaves)


def _over_events(bijector, log_det, x, event_ndims, inverse):
    """Sums the log-determinant over the axes of events of a higher rank than the minimum."""
    least = bijector.inverse_min_event_ndims if inverse else bijector.forward_min_event_ndims
    if event_ndims is None or event_ndims == least:
        return log_det
    options = {"allow_event_shape_broadcasting": True, "validate_args": False}
    shapes = tf.nest.map_structure(tf.shape, x)
    shape, _ = tfp_bijector.ldj_reduction_shape(shapes, event_ndims, least, None, **options)
    return tfp_bijector.reduce_jacobian_det_over_shape(log_det, shape, sum_fn=tf.reduce_sum)


def _stock_pass(bijector, x, context, event_ndims, inverse):
    """A pass through one of TFP's bijectors, whose cache would return results of a `tf.cond` outside of it."""
    x = tf.nest.map_structure(tf.identity, x)
    call = bijector.inverse if inverse else bijector.forward
    log_det = bijector.inverse_log_det_jacobian if inverse else bijector.forward_log_det_jacobian
    with without_retracing_warnings():
        y = call(x, **context.arguments)
        log_det = log_det(x, event_ndims, **context.arguments) if context.compute_log_det else None
    return Pass(tf.nest.map_structure(tf.identity, y), log_det)
