"""The base classes of bijectors, and passes through them."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_resflow._internal.private_api import (
    Invert,
    PassCache,
    convert_events,
    has_fixed_members,
    implements_log_det,
    sum_over_events,
    untracked,
    walk,
    without_retracing_warnings,
)
from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.serialization import Serializable, as_called, deserialize, serialize
from tf_resflow.bijectors.networks import (
    Networks,
    check_event,
    from_rows,
    parameter_dtype,
    share_trainable,
    tracked_variables,
)
from tf_resflow.layers import lipschitz_constant
from tf_resflow.layers.attributes import networks_of, variables_of
from tf_resflow.solvers import Solution


class Pass(NamedTuple):
    """The result of one pass through a bijector.

    Attributes:
      value: The output, a tensor or a nest of tensors.
      log_det: log|det| of the Jacobian in the direction of the pass, for events of the minimum rank, if requested.
      features: The values after each scale of a flow.
      solutions: The `Solution` of each block that solved an equation, in order.
    """

    value: Any
    log_det: tf.Tensor | None = None
    features: tuple[tf.Tensor, ...] = ()
    solutions: tuple[Solution, ...] = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """The options of a pass.

    Attributes:
      arguments: `seed`, `networks` and `condition`, and dictionaries of arguments by member name.
      compute_log_det: Whether to compute the log-determinant.
      require_log_det: Whether a bijector without a log-determinant raises an error then.
      warning_threshold: Largest residual of an inverse that prints no warning. None disables all warnings.
      atol: Absolute tolerance of the inverse, for blocks with the default solver.
      on_leaf: Function `on_leaf(bijector, input, is_inverse)`, called before each bijector without members.
    """

    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compute_log_det: bool = True
    require_log_det: bool = True
    warning_threshold: float | None = 0.0
    atol: float = 0.0
    on_leaf: Callable[[tfb.Bijector, Any, bool], None] | None = None

    def get_arguments(self, name: str, *known: str) -> list:
        """Returns the values of the `known` arguments, or None if missing. Other arguments raise a ValueError."""
        unknown = self.arguments.keys() - {*known, "salt"}
        if unknown:
            accepted = ", ".join(known) or "no arguments"
            got = f"{name} got unknown arguments: {', '.join(sorted(unknown))}"
            raise ValueError(f"{got}. Besides the value, it accepts {accepted}. Remove or rename the others.")
        return [self.arguments.get(key) for key in known]

    def seed(self, name: str) -> tf.Tensor:
        """Returns the stateless seed of the bijector `name`, from `seed` and the `salt` that flows add."""
        return stateless_seed(self.arguments.get("seed"), salt=self.arguments.get("salt", "") + name)


class StretchBounds(NamedTuple):
    """Upper bounds of the Lipschitz constants of a bijector (data to latent) and of its inverse.

    Both hold in the l^p norm of `order` p, or in every l^p norm if it is None. `reason` explains an infinite bound.
    """

    forward: float = math.inf
    inverse: float = math.inf
    order: Any = None
    reason: str | None = None


class FlowBijector(Serializable, tfb.Bijector):
    """Base class of bijectors that compute the value and the log-determinant in one pass.

    A subclass implements either `forward_pass` and `inverse_pass`, which return the value and the log-determinant,
    or TFP's `_forward`, `_inverse` and `_forward_log_det_jacobian`. The other methods of `tfb.Bijector` are derived
    from these. `forward` maps data to latent, unlike in distrax and FlowJAX.

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

    Built Keras layers and `keras.Variable`s in attributes are trained and saved, also in lists, tuples and dicts.
    Set these attributes before calling `super().__init__`. Layers are not changed, except that the `trainable`
    flags of their `tf.Variable`s, for TFP and gradient tapes, then follow Keras.

    In a pass, `context.compute_log_det` is true if the log-determinant is needed. `context.seed(name)` returns a
    stateless seed. `context.get_arguments(name, "seed", "condition")` returns the values of these arguments, and
    raises an error if there are others.

    Attributes:
      networks: The networks that the bijector evaluates and that are not Keras layers in its other attributes,
        such as functions. None by default.
      argument_names: The arguments that the bijector accepts from surrounding flows: any of "seed", "networks" and
        "condition". None by default.
      ends_scale: Whether a scale of a flow can end with the bijector, see `forward_features`.
      is_random: Whether the log-determinant is a random estimate.
    """

    networks: Sequence[Any] = ()
    argument_names: tuple[str, ...] = ()
    ends_scale: bool = False
    is_random: bool = False
    _cache = PassCache(forward_name="_augmented_forward", inverse_name="_augmented_inverse")
    _members: dict[str, tfb.Bijector] = {}  # by key, for compositions
    _inverse_needs_solver = False  # whether the inverse needs a solver
    _event_shape: Any = None  # the TensorShape of inputs and outputs, if it is known
    _why_unbounded = ""  # the reason, for bijectors without a Lipschitz constant

    _networks_key = "_network_variables"  # the checkpoint key of the networks' variables

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        of_networks = [tracked_variables(network) for network in networks_of(self)]
        if of_networks:  # TFP tracks the variables through this attribute
            setattr(self, self._networks_key, of_networks[0] if len(of_networks) == 1 else of_networks)
        variables = variables_of(self)
        if variables:
            self._tracked_variables = [share_trainable(variable) for variable in variables]
        super().__init__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (keras.layers.Layer, keras.Variable)) and hasattr(self, "_parameters"):
            raise ValueError(
                f"The attribute {name!r} of a {type(self).__name__} was set to {value.name!r} after the "
                "constructor of the base class, so TFP's trainers would not find its variables. Set it before "
                "calling super().__init__(...)."
            )
        super().__setattr__(name, value)

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the constructor, as the class of the bijector accepts them."""
        return as_called(self, super().parameters)

    def __reduce__(self):
        return _with_values, (serialize(self), [variable.numpy() for variable in self.variables])

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` that maps data x `[..., *event]` to latent values."""
        y = self._forward(x, **context.arguments)
        return Pass(y, self._forward_log_det_jacobian(x, **context.arguments) if context.compute_log_det else None)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` that maps latent values y to data."""
        x = self._inverse(y, **context.arguments)
        return Pass(x, -self._forward_log_det_jacobian(x, **context.arguments) if context.compute_log_det else None)

    def lipschitz_constants(self, certified: bool = False, bound: Any = lipschitz_constant) -> StretchBounds:
        """Returns upper bounds on the Lipschitz constants of the bijector and of its inverse.

        Args:
          certified: Whether the bounds must be proven for the current weights, see
            `tf_resflow.layers.lipschitz_constant`.
          bound: Function `bound(network, certified=...)` that returns the bound of a network, for example cached.
        """
        return self._stretch_bounds(certified, bound)

    def _stretch_bounds(self, certified, bound):
        """Computes `lipschitz_constants`. Subclasses override it."""
        bounds = [stretch_bounds_of(member, certified, bound) for member in self._members.values()]
        if not bounds:
            unknown = f"The Lipschitz constants of a {type(self).__name__} are unknown"
            return StretchBounds(reason=self._why_unbounded or unknown)
        orders = {member_bounds.order for member_bounds in bounds} - {None}
        if len(orders) > 1:
            return StretchBounds(reason=f"The parts of {self.name} contract in different norms")
        forward, inverse, _, reasons = zip(*bounds, strict=True)
        order = orders.pop() if orders else None
        reason = next(filter(None, reasons), None)
        return StretchBounds(self._compose(forward), self._compose(inverse), order, reason)

    def _ends_of_scales(self):
        """Yields for each member, in order, whether its output is a feature of the flow."""
        return itertools.repeat(True)

    def _compose(self, constants):
        return math.prod(constants)

    @property
    def _has_parts(self):
        """Whether the input or the output is a structure of tensors."""
        return tf.nest.is_nested(self.forward_min_event_ndims) or tf.nest.is_nested(self.inverse_min_event_ndims)

    def _defers_log_det(self, inverse):
        """Whether to compute the log-determinant in the opposite pass, because only this pass needs a solver."""
        return _needs_solver(self, inverse) and not _needs_solver(self, not inverse)

    def _forward_event_shape(self, shape):
        if self._event_shape is not None and shape.rank is not None:
            check_event(f"{self.name} maps events", self._event_shape, shape)
        return super()._forward_event_shape(shape)

    def _inverse_event_shape(self, shape):
        shape = super()._inverse_event_shape(shape)
        return shape if self._event_shape is None else self._forward_event_shape(shape)

    def _augmented(self, inverse, x, /, **arguments):
        """Returns the value, and the log-determinants of the same pass as a dict for TFP's cache."""
        min_ndims = self.inverse_min_event_ndims if inverse else self.forward_min_event_ndims
        is_random = any(getattr(leaf, "is_random", False) for leaf, _ in _leaves(self))
        unseeded = is_random and "seed" not in arguments  # such an estimate is drawn only on request
        compute_log_det = not (tf.nest.is_nested(min_ndims) or self._defers_log_det(inverse) or unseeded)
        value, log_det, *_ = _pass(self, x, Context(arguments, compute_log_det, require_log_det=False), inverse)
        names = ("ildj", "fldj") if inverse else ("fldj", "ildj")
        return value, None if log_det is None else dict(zip(names, (log_det, -log_det), strict=True))

    _augmented_forward = functools.partialmethod(_augmented, False)
    _augmented_inverse = functools.partialmethod(_augmented, True)

    def _log_det_jacobian(self, inverse, x, /, **arguments):
        if not self._defers_log_det(inverse):
            return _pass(self, x, Context(arguments), inverse).log_det
        y = (self.inverse if inverse else self.forward)(x, **arguments)
        return tf.negative(_pass(self, y, Context(arguments), not inverse).log_det)

    _forward_log_det_jacobian = functools.partialmethod(_log_det_jacobian, False)
    _inverse_log_det_jacobian = functools.partialmethod(_log_det_jacobian, True)


class NetworkBijector(FlowBijector):
    """A bijector of events of `_event_shape` that evaluates a network of x, of a condition, or of both."""

    def __init__(self, network: Any, condition_shapes: Sequence[Any], *, name: str, **kwargs: Any) -> None:
        self.network = untracked(network)
        self.has_condition = bool(condition_shapes)
        self.condition_shape: Any = tf.TensorShape(condition_shapes[0]) if condition_shapes else None
        options = {"dtype": parameter_dtype(network), "forward_min_event_ndims": self._event_shape.rank}
        super().__init__(name=f"{name}/", **options, **kwargs)

    @property
    def networks(self) -> Sequence[Any]:  # type: ignore[override]
        return (self.network,)

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("networks", "condition") if self.has_condition else ("networks",)

    def _is_increasing(self, **kwargs):
        return self._event_shape.num_elements() == 1 or super()._is_increasing(**kwargs)

    def _network_and_condition(self, context: Context) -> tuple[Any, Any]:
        values = context.get_arguments(self.name, *self.argument_names)
        arguments = dict(zip(self.argument_names, values, strict=True))
        networks = arguments["networks"] or Networks()
        return networks[self.network], arguments.get("condition")

    def _to_rows(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, Any, Any]:
        """Broadcasts the condition to the batch of x, flattens both, and returns that batch for `from_rows`."""
        if condition is None and self.has_condition:
            shape = f"of shape {self.condition_shape}, after any batch axes"
            raise ValueError(f"{self.name} got no condition; it needs one {shape}. Pass condition=.")
        rank = self.forward_min_event_ndims
        batch = x.shape[: x.shape.rank - rank]
        if condition is None and batch.rank == 1:
            return x, None, None
        batch_shape = tf.shape(x)[: batch.rank]
        if condition is not None:
            condition = tf.convert_to_tensor(condition)
            condition_rank = self.condition_shape.rank
            check_event(f"{self.name} needs conditions", self.condition_shape, condition.shape)
            condition_batch = condition.shape[: condition.shape.rank - condition_rank]
            sizes = zip(reversed(batch), reversed(condition_batch), strict=False)
            if condition_batch.rank > batch.rank or any(b is not None and n not in (None, 1, b) for b, n in sizes):
                raise ValueError(
                    f"{self.name} got condition with batch shape {condition_batch}, which must broadcast to the "
                    f"batch shape {batch} of the value. Draw one value per condition, for example sample(4, ...) "
                    "for four conditions, or use tf.broadcast_to."
                )
            condition = _flattened(condition, batch_shape, condition_rank)
        return _flattened(x, batch_shape, rank), condition, batch_shape

    def _output(self, context: Context) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the network as a function of x `[..., *event]`, with the condition of the context."""
        network, condition = self._network_and_condition(context)

        def apply(x):
            rows, condition_rows, batch_shape = self._to_rows(x, condition)
            output = network(rows if condition_rows is None else [rows, condition_rows])
            return tf.cast(from_rows(output, batch_shape), x.dtype)

        return apply


def _flattened(tensor, batch_shape, event_rank):
    """Broadcasts events to a batch shape, and flattens the batch to the one axis that Keras layers need."""
    static_event = tensor.shape[tensor.shape.rank - event_rank :]
    event = tf.shape(tensor)[tf.rank(tensor) - event_rank :]
    tensor = tf.broadcast_to(tensor, tf.concat([batch_shape, event], 0))
    tensor = tf.reshape(tensor, tf.concat([[-1], event], 0))
    return tf.ensure_shape(tensor, [None, *static_event])


def _with_values(config, values):
    bijector = deserialize(config)
    for variable, value in zip(bijector.variables, values, strict=True):
        variable.assign(value)
    return bijector


def pass_through(
    bijector: tfb.Bijector, x: Any, context: Context, event_ndims: Any = None, inverse: bool = False
) -> Pass:
    """Passes a tensor or a nest of tensors through any bijector, including TFP's.

    The log-determinant is summed over events of rank `event_ndims`, by default the minimum rank.
    """
    if isinstance(bijector, Invert):
        return pass_through(bijector.bijector, x, context, event_ndims, not inverse)
    is_ours = isinstance(bijector, FlowBijector)
    walk_members = isinstance(bijector, tfb.Composition) and not is_ours and not context.compute_log_det
    if walk_members and has_fixed_members(bijector):
        return pass_through_members(bijector, x, context, inverse)
    if context.on_leaf and not getattr(bijector, "_members", False):
        context.on_leaf(bijector, x, inverse)
    if not is_ours:
        return _tfp_pass(bijector, x, context, event_ndims, inverse)
    dtype = bijector.forward_dtype() if inverse else bijector.inverse_dtype()
    x = convert_events(x, dtype)
    with tf.name_scope(bijector.name):
        if bijector._members and bijector._has_parts and event_ndims is not None:  # parts of different ranks
            return pass_through_members(bijector, x, context, inverse, event_ndims)
        result = _pass(bijector, x, context, inverse)
        log_det = result.log_det if context.compute_log_det else None
        return result._replace(log_det=_sum_over_events(bijector, log_det, x, event_ndims, inverse))


def _pass(bijector, x, context, inverse):
    """Calls the bijector's own method. Raises NotImplementedError if a requested log-determinant is missing."""
    method = bijector.inverse_pass if inverse else bijector.forward_pass
    if bijector._event_shape is not None:
        check_event(f"{bijector.name} maps events", bijector._event_shape, x.shape)
    name = f"{bijector.name}.{method.__name__}"
    result = method(x, context)
    if not isinstance(result, tuple):
        raise ValueError(f"{name} returned a {type(result).__name__}; it must return a tuple (value, log_det).")
    result = Pass(*result)
    if context.compute_log_det and context.require_log_det and result.log_det is None:
        raise NotImplementedError(
            f"{name} returned no log-determinant, but context.compute_log_det is true. Return (value, log_det)."
        )
    if result.log_det is not None and not bijector._has_parts:
        event_ndims = bijector.forward_min_event_ndims if inverse else bijector.inverse_min_event_ndims
        _check_log_det(name, result, event_ndims)
    return result


def _check_log_det(name, result, event_ndims):
    """Raises a ValueError unless the log-determinant has the last axes of the value's batch shape, as in TFP."""
    value_shape = tf.TensorShape(result.value.shape)
    log_det_shape = tf.TensorShape(result.log_det.shape)
    if value_shape.rank is None or log_det_shape.rank is None:
        return
    batch_shape = value_shape[: value_shape.rank - event_ndims]
    missing = batch_shape.rank - log_det_shape.rank
    if missing < 0 or not log_det_shape.is_compatible_with(batch_shape[missing:]):
        raise ValueError(
            f"{name} returned a log-determinant of shape {log_det_shape} for values of shape {value_shape}. Return "
            f"one number for each event, with the shape {batch_shape}, or a scalar that all events share."
        )


def pass_through_members(composition, x, context, inverse=False, event_ndims=None) -> Pass:
    """Passes x through each member of a composition, using TFP's `_walk_forward` or `_walk_inverse`.

    The log-determinant requires that the members are in sequence, and `event_ndims`, the rank of the events of `x`.
    """
    is_ours = isinstance(composition, FlowBijector)
    ends = composition._ends_of_scales() if is_ours else itertools.repeat(False)
    log_dets: list[tf.Tensor] = []
    features: list[tf.Tensor] = []
    solutions: list[Solution] = []

    def step(member, x, **arguments):
        nonlocal event_ndims
        result = pass_through(member, x, dataclasses.replace(context, arguments=arguments), event_ndims, inverse)
        if context.compute_log_det:
            log_dets.append(result.log_det)
            event_ndims = (member.inverse_event_ndims if inverse else member.forward_event_ndims)(event_ndims)
        solutions.extend(result.solutions)
        features.extend([result.value] if not inverse and next(ends) else () if is_ours else result.features)
        return result.value

    value = walk(composition, step, x, inverse, **context.arguments)
    log_det = None
    if context.compute_log_det and all(log_det is not None for log_det in log_dets):
        dtype = max((log_det.dtype for log_det in log_dets), key=lambda dtype: dtype.size)
        log_det = sum(tf.cast(log_det, dtype) for log_det in log_dets)
    return Pass(value, log_det, tuple(features), tuple(solutions))


def members_in_order(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """Returns the bijectors of a sequence such as `tfb.Chain` or `Flow`, in the order in which it applies them."""
    if not isinstance(bijector, tfb.Composition) or tf.nest.is_nested(bijector.forward_min_event_ndims):
        return [bijector]
    members = []

    def step(member, x, **arguments):
        members.append(member)
        return x

    walk(bijector, step, None)
    return members


def stretch_bounds_of(
    bijector: tfb.Bijector, certified: bool = False, bound: Any = lipschitz_constant
) -> StretchBounds:
    """Returns the bounds of any bijector, including TFP's; see `FlowBijector.lipschitz_constants`."""
    if isinstance(bijector, Invert):
        forward, inverse, order, reason = stretch_bounds_of(bijector.bijector, certified, bound)
        return StretchBounds(inverse, forward, order, reason)
    if isinstance(bijector, FlowBijector):
        return bijector.lipschitz_constants(certified, bound)
    return StretchBounds(reason=f"The Lipschitz constants of a {type(bijector).__name__} are unknown")


def _leaves(bijector, inverse=False):
    """Returns the bijectors without members inside a bijector, as pairs `(leaf, is_inverted)`."""
    if isinstance(bijector, Invert):
        return _leaves(bijector.bijector, not inverse)
    members = tf.nest.flatten(getattr(bijector, "_members", None) or getattr(bijector, "bijectors", []))
    return [leaf for member in members for leaf in _leaves(member, inverse)] or [(bijector, inverse)]


def _needs_solver(bijector, inverse):
    """Whether a pass in this direction needs the solver of some block."""
    leaves = _leaves(bijector, inverse)
    return any(is_inverted and getattr(leaf, "_inverse_needs_solver", False) for leaf, is_inverted in leaves)


def _sum_over_events(bijector, log_det, x, event_ndims, inverse):
    min_ndims = bijector.inverse_min_event_ndims if inverse else bijector.forward_min_event_ndims
    if log_det is None or event_ndims is None or event_ndims == min_ndims:
        return log_det
    return sum_over_events(log_det, x, event_ndims, min_ndims)


def _tfp_pass(bijector, x, context, event_ndims, inverse):
    """Passes copies through one of TFP's bijectors: its cache would return results of a `tf.cond` outside of it."""
    x = tf.nest.map_structure(tf.identity, x)
    call = bijector.inverse if inverse else bijector.forward
    log_det = bijector.inverse_log_det_jacobian if inverse else bijector.forward_log_det_jacobian
    has_log_det = context.require_log_det or all(implements_log_det(leaf) for leaf, _ in _leaves(bijector))
    with without_retracing_warnings():
        y = call(x, **context.arguments)
        log_det = log_det(x, event_ndims, **context.arguments) if context.compute_log_det and has_log_det else None
    return Pass(tf.nest.map_structure(tf.identity, y), log_det)
