"""Compositions of bijectors in reading order, from data to latent, and the routing of arguments to them."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_resflow._internal.private_api import is_increasing, track_members, untracked
from tf_resflow._internal.typing import Shape
from tf_resflow.bijectors.base import Context, FlowBijector, Pass, pass_through, pass_through_members
from tf_resflow.bijectors.networks import Networks
from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.layers.attributes import networks_of, variables_of
from tf_resflow.logdet import Exact

# The arguments that a flow passes on to the members that accept them. The salt gives members of the same name
# different seeds. It is a string, because a new seed tensor at each call would never match in TFP's caches.
_SHARED = ("seed", "salt", "networks", "condition")


def modules(flow: tf.Module) -> tuple[tf.Module, ...]:
    """Returns a flow or another module, followed by all modules inside it."""
    if not isinstance(flow, tf.Module):
        advice = " Pass its attribute flow." if hasattr(flow, "flow") else ""
        raise ValueError(f"Got a {type(flow).__name__}; expected a flow, a bijector or a tf.Module.{advice}")
    return (flow, *flow.submodules)


def residual_blocks(bijector: tf.Module) -> list[ResidualBlock]:
    """Returns the `ResidualBlock`s in a bijector or distribution; a flow's own blocks precede nested ones."""
    return [module for module in modules(bijector) if isinstance(module, ResidualBlock)]


def by_name(bijectors: Sequence[tfb.Bijector]) -> dict[str, tfb.Bijector]:
    """Returns a dict of bijectors by name, in order. Repeated names are numbered: scale, scale_1."""
    named: dict[str, tfb.Bijector] = {}
    names = {bijector.name for bijector in bijectors}
    for bijector in bijectors:
        name = bijector.name
        count = 0
        while name in named or (count and name in names):
            count += 1
            name = f"{bijector.name}_{count}"
        named[name] = bijector
    return named


def parts_by_name(flow: tf.Module) -> dict[str, tfb.Bijector]:
    """Returns a flow and all bijectors inside it by name, numbered as by `by_name`. Outer members come first."""
    return by_name([module for module in modules(flow) if isinstance(module, tfb.Bijector)])


def keras_parts(flow: tf.Module) -> dict[str, Any]:
    """Returns what Keras trains of each bijector in a flow, by name: a network, or networks and variables."""
    trained = {}
    for name, bijector in parts_by_name(flow).items():
        networks = [network for network in networks_of(bijector) if isinstance(network, keras.Layer)]
        variables = variables_of(bijector)
        if len(networks) == 1 and not variables:
            trained[name] = networks[0]
        elif networks or variables:
            trained[name] = [*networks, *variables]
    return trained


def route(
    bijector: tfb.Bijector, kwargs: Mapping[str, Any], key: str | None = None, salted: bool = False
) -> dict[str, Any]:
    """Returns the part of a flow's arguments for a member with this key, by default the member's name.

    Every bijector that accepts `seed` or `condition` receives them, also inside nested flows, `tfb.Chain` and
    `tfb.Invert`. A dictionary under a member's key is only for that member, as in `tfb.Chain`. If `salted`, the key
    is added to the salt of the member's seed.
    """
    key = bijector.name if key is None else key
    bijector = _innermost(bijector)
    shared = [
        name for name in _SHARED if name in kwargs and _accepting(bijector, "seed" if name == "salt" else name)
    ]
    arguments = {name: kwargs[name] for name in shared} | kwargs.get(key, {})
    if salted:
        arguments["salt"] = f"{arguments.get('salt', '')}{key}/"
    if _passes_by_name(bijector) and _accepting(bijector, *_SHARED):
        routed = route_members(bijector, by_name(tf.nest.flatten(bijector.bijectors)), arguments)
        return {name: member_arguments for name, member_arguments in routed.items() if member_arguments}
    return arguments


def route_members(
    flow: tfb.Bijector, members: Mapping[str, tfb.Bijector], kwargs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns the arguments of each member of a flow or a TFP composition, by key.

    If a member that draws has the name of an earlier one, its key salts its seed, so the two draw independently.
    """
    if not kwargs:
        return {key: {} for key in members}
    if "condition" in kwargs and not _accepting(flow, "condition"):
        raise ValueError(f"{flow.name} got condition, but none of its blocks is conditional. Leave condition out.")
    unknown = set(kwargs) - {*_SHARED, *members}
    if unknown:
        raise ValueError(
            f"{flow.name} got unknown arguments: {', '.join(sorted(unknown))}. It accepts seed, networks and "
            f"condition, and a dictionary under the name of a member ({', '.join(members)}). Remove or rename the "
            "others."
        )
    routed: dict[str, dict[str, Any]] = {}
    drawing_names: set[str] = set()
    for key, member in members.items():
        names = {drawing.name for drawing in _accepting(member, "seed")}
        salted = not drawing_names.isdisjoint(names)
        drawing_names |= set() if salted else names
        routed[key] = route(member, kwargs, key, salted)
    return routed


def check_distinct_names(bijectors: Sequence[tfb.Bijector]) -> None:
    """Raises a ValueError if members of a TFP composition share a name and draw random numbers."""
    for module in itertools.chain.from_iterable((b, *b.submodules) for b in bijectors):
        members = tf.nest.flatten(module.bijectors) if _passes_by_name(module) else []
        counts = collections.Counter(member.name for member in members)
        repeated = [member for member in members if counts[member.name] > 1]
        names = {member.name for member in repeated if _accepting(member, "seed")}
        if names:
            raise ValueError(
                f"{module.name} ({type(module).__name__}) has several members named {', '.join(sorted(names))}. "
                "They would share a seed, because arguments are passed by name. Rename them, or use a "
                "tf_resflow.bijectors.Flow, which numbers repeated names."
            )


def _innermost(bijector: tfb.Bijector) -> tfb.Bijector:
    """Returns the bijector inside any number of TFP's `Invert` classes, or the bijector itself."""
    while isinstance(getattr(bijector, "bijector", None), tfb.Bijector):
        bijector = bijector.bijector
    return bijector


def _accepting(bijector, *arguments):
    """Returns the bijectors in a bijector that accept one of these arguments from surrounding flows."""
    flow_bijectors = [module for module in modules(bijector) if isinstance(module, FlowBijector)]
    return [inner for inner in flow_bijectors if not set(arguments).isdisjoint(inner.argument_names)]


def _passes_by_name(bijector):
    """Whether the bijector is a TFP composition, which accepts only dictionaries under the names of members."""
    return isinstance(bijector, tfb.Composition) and not isinstance(bijector, FlowBijector)


class Flow(FlowBijector, tfb.Composition):
    r"""Composes bijectors `[f_1, ..., f_n]` in reading order: \\(f = f_n \circ \dots \circ f_1\\).

    `forward` maps data to latent, and applies `f_1` first, unlike `tfb.Chain`. All
    stochastic blocks share one `seed`, which each combines with its name. All conditional blocks receive
    `condition`. Repeated names are numbered: three `tfb.Scale`s have the keys scale, scale_1 and scale_2. Keys
    identify the variables in a checkpoint, salt the seeds of blocks of the same name, and select the arguments of
    one member, as in `flow.forward(x, residual_block_1={"seed": 1})`.

    ```python
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_resflow as resflow

    def block(name):
        return resflow.bijectors.ResidualBlock(keras.Sequential([
            keras.Input([2]),
            resflow.layers.LipschitzDense(32), resflow.layers.LipSwish(),
            resflow.layers.LipschitzDense(2)]), name=name)

    flow = resflow.bijectors.Flow([
        resflow.bijectors.ActNorm([2]), block("first"), tfp.bijectors.Scale(2.0), block("second")])
    density = tfp.distributions.TransformedDistribution(
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2)), tfp.bijectors.Invert(flow))
    print(density.log_prob([[0.0, 1.0]], bijector_kwargs={"seed": 1}).shape)
    # (1,)
    ```

    Args:
      bijectors: List of at least one `tfb.Bijector`, including TFP's own bijectors.

    Raises:
      ValueError: If stochastic blocks share a name inside a TFP composition such as `tfb.Chain`.
    """

    def __init__(
        self, bijectors: Sequence[tfb.Bijector], *others: Any, validate_args: bool = False, name: str = "flow"
    ) -> None:
        parameters = {key: value for key, value in locals().items() if key != "others"}
        members = list(bijectors) if isinstance(bijectors, (list, tuple)) else []
        if others or not members or not all(isinstance(member, tfb.Bijector) for member in members):
            got = ", ".join(getattr(argument, "name", repr(argument)) for argument in (bijectors, *others))
            raise ValueError(f"Got {got}. A Flow needs one list of at least one bijector: Flow([first, second]).")
        check_distinct_names(members)
        self._members = untracked(by_name(members))
        # The slash keeps the exact name of the scope, even if the graph already contains the name.
        super().__init__(members, validate_args=validate_args, parameters=parameters, name=f"{name}/")
        # Keyed by name, so that a checkpoint of another architecture fails to restore.
        track_members(self, self._members)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from data to latent. Its features are the values after each scale."""
        exact = [block.branch for block in residual_blocks(self) if isinstance(block.log_det_estimator, Exact)]
        if exact and "networks" not in context.arguments:  # binding them together needs fewer operations
            arguments = {**context.arguments, "networks": Networks(*exact)}
            context = dataclasses.replace(context, arguments=arguments)
        return pass_through_members(self, x, context, False, self.forward_min_event_ndims)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return pass_through_members(self, y, context, True, self.inverse_min_event_ndims)

    def feature_shapes(self, event_shape: Shape) -> list[tuple[int | None, ...]]:
        """Returns the shapes of the features of `forward_features` for this event shape, without the batch axis."""
        shape = tf.TensorShape(event_shape)
        shapes = []
        for member in self.bijectors:
            shape = member.forward_event_shape(shape)
            shapes.append(tuple(shape))
        return list(itertools.compress(shapes, self._ends_of_scales()))

    def _ends_of_scales(self):
        """A scale ends at a squeeze that follows a trained member, or at the last member."""
        trained = False
        *members, _ = self._members.values()
        for member in members:
            yield trained and getattr(member, "ends_scale", False)
            trained = trained or bool(member.trainable_variables)
        yield True

    def _walk(self, order, step_fn, x, /, **kwargs):
        routed = route_members(self, self._members, kwargs)
        for key in order(self._members):
            x = step_fn(self._members[key], x, **routed[key])
        return x

    _walk_forward = functools.partialmethod(_walk, iter)
    _walk_inverse = functools.partialmethod(_walk, reversed)

    def _call_log_det_jacobian(self, inverse, x, event_ndims, name, **arguments):
        """Uses the pass, like `tfb.Bijector`, whereas `tfb.Composition` would walk through the members."""
        min_ndims = self.inverse_min_event_ndims if inverse else self.forward_min_event_ndims
        has_min_ndims = event_ndims is None or tf.get_static_value(event_ndims) == min_ndims
        if not self._has_parts or (has_min_ndims and not tf.nest.is_nested(min_ndims)):
            method = f"_call_{'inverse' if inverse else 'forward'}_log_det_jacobian"
            return getattr(tfb.Bijector, method)(self, x, event_ndims, name, **arguments)
        if not self._defers_log_det(inverse):
            return pass_through(self, x, Context(arguments), event_ndims, inverse).log_det
        y = (self.inverse if inverse else self.forward)(x, **arguments)
        if event_ndims is not None:
            event_ndims = (self.inverse_event_ndims if inverse else self.forward_event_ndims)(event_ndims)
        log_det = self.forward_log_det_jacobian if inverse else self.inverse_log_det_jacobian
        return tf.negative(log_det(y, event_ndims, **arguments))

    _call_forward_log_det_jacobian = functools.partialmethod(_call_log_det_jacobian, False)
    _call_inverse_log_det_jacobian = functools.partialmethod(_call_log_det_jacobian, True)

    @classmethod
    def _parameter_properties(cls, dtype):
        return super(FlowBijector, cls)._parameter_properties(dtype)  # composition: batch shape of the members

    def _is_increasing(self, **kwargs):
        routed = route_members(self, self._members, kwargs)
        increasing = tf.constant(True)
        for key, b in self._members.items():
            if not isinstance(_innermost(b), tfb.Reshape):
                increasing = tf.equal(increasing, is_increasing(b, **routed[key]))
        return increasing


class MultiscaleFlow(FlowBijector):
    """Composes flows, and factors out half of the channels after each flow but the last.

    `forward` maps data to latent: `[H, W, C]` to a vector of the same size. After
    flow i, the first half of the channels goes on to flow i + 1, and the second half is factored out. The latent
    concatenates the factored-out channels, scale by scale, and the output of the last flow, each flattened.

    Args:
      flows: List of at least two `Flow`s on images. All but the last must end in an even number of channels.
      event_shape: `[H, W, C]` of the data.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.6.
    """

    def __init__(self, flows: Sequence[Flow], event_shape: Shape, *, name: str = "multiscale_flow") -> None:
        parameters = dict(locals())
        self.flows = untracked(list(flows))
        check_distinct_names(flows)
        self._flows = by_name(flows)
        self._members = untracked(by_name(flows))
        self._input_shape = tf.TensorShape(event_shape).with_rank(3)
        self._final_shapes = untracked(_final_shapes(flows, self._input_shape))
        ndims = {"forward_min_event_ndims": 3, "inverse_min_event_ndims": 1}
        super().__init__(**ndims, dtype=flows[0].dtype, parameters=parameters, name=f"{name}/")

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from data to latent. Its features are the outputs of the flows with all channels."""
        return pass_through_members(self, x, context, False, 3)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return pass_through_members(self, y, context, True, 3)

    def _walk_forward(self, step_fn, x, **kwargs):
        routed = route_members(self, self._members, kwargs)
        *_, last = self._members
        final = []
        for (key, flow), shape in zip(self._members.items(), self._final_shapes, strict=True):
            y = step_fn(flow, x, **routed[key])
            if key != last:
                x, y = tf.split(y, 2, axis=-1)
            final.append(tf.reshape(y, tf.concat([tf.shape(y)[:-3], [np.prod(shape)]], 0)))
        return tf.concat(final, axis=-1)

    def _walk_inverse(self, step_fn, y, **kwargs):
        routed = route_members(self, self._members, kwargs)
        latents = tf.split(y, [int(np.prod(shape)) for shape in self._final_shapes], axis=-1)
        x = None
        scales = list(zip(self._members.items(), latents, self._final_shapes, strict=True))
        for (key, flow), latent, shape in reversed(scales):
            latent = tf.reshape(latent, tf.concat([tf.shape(latent)[:-1], shape], 0))
            x = step_fn(flow, latent if x is None else tf.concat([x, latent], axis=-1), **routed[key])
        return x

    def feature_shapes(self, event_shape: Shape) -> list[tuple[int | None, ...]]:
        """Returns the shapes of the features of `forward_features` for this event shape, without the batch axis."""
        self._input_shape.assert_is_compatible_with(event_shape)
        *halved, last = self._final_shapes
        return [(*shape[:-1], 2 * shape[-1]) for shape in halved] + [tuple(last)]

    def _compose(self, constants):
        """Counts the rest of the flow as at least 1, because it leaves the factored-out channels unchanged."""
        return functools.reduce(lambda rest, constant: constant * max(1.0, rest), reversed(constants), 0.0)

    def _forward_event_shape(self, shape):
        return shape[:-3].concatenate([self._input_shape.num_elements()])

    def _inverse_event_shape(self, shape):
        return shape[:-1].concatenate(self._input_shape)

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-3], [self._input_shape.num_elements()]], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], self._input_shape.as_list()], 0)


def _final_shapes(flows, shape):
    shapes = []
    for flow in flows:
        shape = flow.forward_event_shape(shape)
        if flow is not flows[-1]:
            if shape[-1] % 2:
                raise ValueError(f"{flow.name} ends in {shape[-1]} channels, which is odd. End it with Squeeze2D.")
            shape = tf.TensorShape([*shape[:-1], shape[-1] // 2])
        shapes.append(shape.as_list())
    return shapes
