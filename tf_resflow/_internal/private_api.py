"""Wrappers for private names of other libraries, which no other module uses.

Methods of other libraries that a subclass overrides are not listed here, such as `_forward` of a bijector of TFP.
"""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.src.backend.common import global_state
from keras.src.ops import numpy as keras_numpy
from keras.src.saving import serialization_lib
from keras.src.saving.serialization_lib import record_object_after_serialization as record_sharing  # noqa: F401
from tensorflow.python.eager import record, tape
from tensorflow.python.eager.context import eager_mode  # noqa: F401
from tensorflow.python.framework.ops import gradient_registry
from tensorflow.python.trackable.data_structures import NoDependency
from tensorflow_probability.python.bijectors import bijector as tfp_bijector
from tensorflow_probability.python.bijectors.invert import _Invert as Invert  # noqa: F401 (a tfb.Invert of ours)
from tensorflow_probability.python.internal import cache_util, nest_util
from tensorflow_probability.python.internal.implementation_selection import is_xla  # noqa: F401

_GRADIENTS = "_tf_resflow_gradients"  # name of an attribute that is set on a graph
_GRAPH_CACHE = "_tf_resflow_values"  # the attribute of a graph that holds its cached values
_NUMBERS = itertools.count()  # of registered gradients


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers directly inside a layer or model, in order."""
    return layer._flatten_layers(include_self=False, recursive=False)


@contextlib.contextmanager
def object_sharing() -> Iterator[None]:
    """Context manager in which Keras configs record shared objects. An open context of this kind is reused."""
    is_open = global_state.get_global_attribute("shared_objects/id_to_obj_map") is not None
    with contextlib.nullcontext() if is_open else serialization_lib.ObjectSharingScope():
        yield


class GraphStep(NamedTuple):
    """An operation in a model, with its symbolic inputs and outputs.

    `call` maps a list of input values. The call `is_plain` if its only argument is a tensor or a list of tensors.
    """

    operation: Any
    inputs: list[Any]
    outputs: list[Any]
    call: Callable[[Sequence[Any]], Any]
    is_plain: bool


def graph_steps(model: keras.Model) -> list[GraphStep]:
    """Returns the operations of a `keras.Sequential` or functional model in execution order."""
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
    nodes = itertools.chain.from_iterable(by_depth[depth] for depth in sorted(by_depth, reverse=True))
    return [_graph_step(node) for node in nodes if not node.is_input]


def _graph_step(node):
    layer = _merging_layer(node) or _rescaling_layer(node)
    call = functools.partial(_call, node)
    if layer is not None:
        return GraphStep(layer, node.input_tensors, node.outputs, call, True)
    return GraphStep(node.operation, node.input_tensors, node.outputs, call, _is_plain(node))


def _merging_layer(node):
    """Returns the layer that computes `x + y` or `x - y` for two tensors, or None."""
    layers_of_operations = {keras_numpy.Add: keras.layers.Add, keras_numpy.Subtract: keras.layers.Subtract}
    layer_type = layers_of_operations.get(type(node.operation))
    if layer_type is None or len(node.input_tensors) != 2:
        return None
    layer = layer_type(**_layer_options(node))
    layer.build([tensor.shape for tensor in node.input_tensors])
    return layer


def _rescaling_layer(node):
    """Returns the layer that computes an affine function of one tensor, such as `0.5 * x` or `1 - x`, or None."""
    affine_function = _AFFINE_FUNCTIONS.get(type(node.operation))
    values = [*node.arguments.args, *node.arguments.kwargs.values()]
    numbers = [value for value in values if isinstance(value, (int, float))]
    if affine_function is None or len(node.input_tensors) != 1 or len(values) != len(numbers) + 1:
        return None
    scale_and_offset = affine_function(*numbers, isinstance(values[0], keras.KerasTensor))
    if scale_and_offset is None:
        return None
    layer = keras.layers.Rescaling(*scale_and_offset, **_layer_options(node))
    layer.build(node.input_tensors[0].shape)
    return layer


def _layer_options(node):
    dtype = node.outputs[0].dtype
    policy = f"mixed_{dtype}" if dtype.endswith("float16") else dtype
    return {"name": node.operation.name, "dtype": policy}


def _quotient(number, is_first):
    return (1.0 / number, 0.0) if is_first and number else None


# Return the scale and the offset of an operation on a tensor and a number. The last argument is whether the tensor
# is the first argument of the operation. The result is None if the operation is not affine.
_AFFINE_FUNCTIONS: dict[Any, Callable[..., tuple[float, float] | None]] = {
    keras_numpy.Add: lambda number, is_first: (1.0, number),
    keras_numpy.Subtract: lambda number, is_first: (1.0, -number) if is_first else (-1.0, number),
    keras_numpy.Multiply: lambda number, is_first: (number, 0.0),
    keras_numpy.Divide: _quotient,
    keras_numpy.TrueDivide: _quotient,
    keras_numpy.Negative: lambda is_first: (-1.0, 0.0),
}


def accepts_list(model: keras.Model) -> bool:
    """Whether the inputs of a model are a tensor or a list of tensors, rather than another structure."""
    inputs = getattr(model, "_inputs_struct", None)
    return inputs is None or _is_list(inputs)  # a Sequential has one input


def _is_plain(node):
    args = node.arguments.args
    values = [*args, *node.arguments.kwargs.values()]
    # A mask is one None per input.
    values = [value for value in values if any(leaf is not None for leaf in keras.tree.flatten(value))]
    return bool(args) and len(values) == 1 and _is_list(values[0])


def _is_list(inputs):
    values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    return all(isinstance(value, keras.KerasTensor) for value in values)


def _call(node, values):
    named = {id(tensor): value for tensor, value in zip(node.input_tensors, values, strict=True)}
    args, kwargs = node.arguments.fill_in(named)
    return node.operation(*args, **kwargs)


class OnlyInSavedModels:
    """Mixin for trackable objects that keeps the attributes in `_only_in_saved_models` out of checkpoints."""

    _only_in_saved_models: tuple[str, ...] = ()

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)  # type: ignore[misc]
        hidden = self._only_in_saved_models if save_type == "checkpoint" else ()
        return {name: child for name, child in children.items() if name not in hidden}


def untracked(value: Any) -> Any:
    """Returns a value that can be assigned to an attribute of a `tf.Module`, which saves it in no checkpoint."""
    return NoDependency(value)


def track(module: tf.Module, key: str, variables: dict[str, tf.Variable]) -> None:
    """Saves a dict of variables in the checkpoints of a module, under a key."""
    module._track_trackable(tf.__internal__.tracking.wrap(variables), name=key)


def track_members(composition: tfp.bijectors.Composition, members: dict[str, tfp.bijectors.Bijector]) -> None:
    """Saves the members of a composition in its checkpoints by name, instead of by number."""
    composition._bijectors_trackable = dict(members)


def set_trainable(variable: tf.Variable, trainable: Any) -> None:
    """Sets `variable.trainable`, which has no setter, to a bool or to an object that behaves like one."""
    variable._trainable = trainable


def silence_retracing(function: Any) -> Any:
    """Returns the `tf.function` without its warning about frequent retracing."""
    function._omit_frequent_tracing_warning = True
    return function


@contextlib.contextmanager
def without_retracing_warnings() -> Iterator[None]:
    """Silences retracing warnings of code that makes a `tf.function` per call, as TFP's joint distributions do."""

    def is_other(record):
        return "triggered tf.function retracing" not in str(record.msg)

    tf.get_logger().addFilter(is_other)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(is_other)


class PassCache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache, kept separately for each graph, without entries whose output no longer exists.

    In a shared cache, a value computed inside `tf.cond` or `tf.while_loop` would be found outside of its graph, and
    no graph would ever be freed.
    """

    @property
    def storage(self):
        """The cached values of the current graph, or those of eager mode."""
        if tf.executing_eagerly():
            return self._eager
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, _GRAPH_CACHE):
            setattr(graph, _GRAPH_CACHE, cache_util.EphemeralDict())
        return getattr(graph, _GRAPH_CACHE)

    @storage.setter
    def storage(self, eager):
        self._eager = eager

    def __get__(self, bijector, bijector_class=None):
        return type(self)(self._forward_name, self._inverse_name, bijector, bijector_class, self._eager)

    def _attributes(self, input, fn_name, **kwargs):  # noqa: A002 (TFP's name)
        edge = self._get_or_create_edge(input, fn_name, kwargs)
        if not edge.output_ref:
            edge.attributes.clear()  # variables may have changed
        return edge.attributes

    def _invoke(self, input, fn_name, kwargs, attributes):  # noqa: A002
        attributes.clear()  # variables may have changed
        return super()._invoke(input, fn_name, kwargs, attributes)


def convert_events(x: Any, dtype: Any) -> Any:
    """Returns events as tensors, in the structure and the dtypes that a bijector has."""
    return nest_util.convert_to_nested_tensor(x, dtype_hint=dtype, dtype=dtype, allow_packing=True)


def sum_over_events(log_det: tf.Tensor, x: Any, event_ndims: Any, min_event_ndims: Any) -> tf.Tensor:
    """Sums a log-determinant for events of the minimum rank over events x of rank `event_ndims`."""
    shapes = tf.nest.map_structure(tf.shape, x)
    shape, _ = tfp_bijector.ldj_reduction_shape(
        shapes, event_ndims, min_event_ndims, None, allow_event_shape_broadcasting=True, validate_args=False
    )
    return tfp_bijector.reduce_jacobian_det_over_shape(log_det, shape, sum_fn=tf.reduce_sum)


def walk(
    composition: tfp.bijectors.Composition,
    step: Callable[..., Any],
    x: Any,
    inverse: bool = False,
    /,
    **arguments: Any,  # by names of members, which may be those of the other arguments
) -> Any:
    """Passes x through the members of a composition. `step(member, x, **arguments)` maps x by one member."""
    walk_members = composition._walk_inverse if inverse else composition._walk_forward
    return walk_members(step, x, **arguments)


def bijector_arguments(
    distribution: tfp.distributions.TransformedDistribution, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Returns those of the keyword arguments of a transformed distribution that are for its bijector."""
    return distribution._kwargs_split_fn(arguments)[1]


def adam_state(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[int, tf.Variable, tf.Variable]:
    """Returns the number of a variable in its optimizer, and its first and second moment."""
    index = optimizer._get_variable_index(variable)
    return index, optimizer._momentums[index].value, optimizer._velocities[index].value


def has_weight_decay(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether the weight decay of an optimizer applies to a variable."""
    return optimizer.weight_decay is not None and optimizer._use_weight_decay(variable)


def check_sample_weight(sample_weight: Any, rows: Any) -> np.ndarray:
    """Returns the weights of rows as an array. Raises a ValueError if they are invalid."""
    from sklearn.utils.validation import _check_sample_weight  # imported here because it needs an extra

    return _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)


def is_increasing(bijector: tfp.bijectors.Bijector, **kwargs: Any) -> bool | tf.Tensor:
    """Whether a scalar bijector is increasing, given the keyword arguments of its methods."""
    return bijector._internal_is_increasing(**kwargs)


def implements_log_det(bijector: tfp.bijectors.Bijector) -> bool:
    """Whether a bijector has a method for its log-determinant. TFP differentiates others, if they are scalar."""
    methods = ("_forward_log_det_jacobian", "_inverse_log_det_jacobian")
    return bijector._is_injective and any(hasattr(bijector, method) for method in methods)


def has_fixed_members(composition: tfp.bijectors.Composition) -> bool:
    """Whether no member of a composition depends on the event. In joint distributions, members may depend on it."""
    return type(composition)._parts_interact is tfp.bijectors.Composition._parts_interact


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `tf.custom_gradient`, with fewer operations and a registered gradient that is freed with the graph.

    TensorFlow would search the graph for variables, and create a gradient of zero for a copy of each argument.
    """
    in_eager_mode = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args):
        if tf.executing_eagerly():
            return in_eager_mode(*args)
        graph = tf.compat.v1.get_default_graph()
        arguments = [tf.convert_to_tensor(arg) for arg in args]  # below, tensors of other graphs become inputs
        arguments = [arg if getattr(arg, "graph", None) is graph else tf.identity(arg) for arg in arguments]
        with record.VariableWatcher() as watcher:
            result, grad = function(*arguments)
        results = tf.nest.flatten(result)
        variables = list(watcher.watched_variables())

        def gradients(*upstream, grad=grad):
            downstream = grad(*upstream, variables=variables) if variables else grad(*upstream)
            return [None] * len(results) + tf.nest.flatten(downstream)

        def gradients_of(operation, *upstream):
            upstream = upstream[: len(results)]
            if operation is None or operation is outputs[0].op:  # a SavedModel with gradients passes None
                return gradients(*upstream)
            copied_arguments = operation.inputs[len(results) : len(results) + len(arguments)]
            _, grad_of_copy = function(*copied_arguments)  # tensors of `function` may be out of scope in a copy
            return gradients(*upstream, grad=grad_of_copy)

        tensors = [tf.convert_to_tensor(tensor) for tensor in (*results, *arguments, *variables)]
        name = _registered(graph, gradients_of)
        with graph.gradient_override_map({"IdentityN": name}), record.stop_recording():
            outputs = tf.identity_n(tensors)[: len(results)]
        outputs[0].op.pfor_converter = functools.partial(_vectorized, function, len(results), variables)
        record.record_operation(function.__name__, outputs, tensors, gradients)
        return tf.nest.pack_sequence_as(result, outputs)

    return call


def _vectorized(function, num_results, variables, operation):
    """Converts an operation with a custom gradient for `tf.vectorized_map`, which would lose the gradient.

    The gradient of the converted operation calls `function` again, for each element. The arguments of `function`
    must therefore include each tensor that differs between elements.
    """
    operation.stack_inputs(range(num_results))
    are_stacked = [converted.is_stacked for converted in operation.inputs[num_results:]]

    @custom_gradient
    def vectorized(*tensors):
        arguments = tensors[num_results:]
        return list(tensors), functools.partial(_gradients_of_map, function, arguments, are_stacked, variables)

    tensors = vectorized(*(converted.t for converted in operation.inputs))
    return [converted._replace(t=t) for converted, t in zip(operation.inputs, tensors, strict=True)]


def _gradients_of_map(function, arguments, are_stacked, variables, *upstream):
    """Returns the gradients of a function with a custom gradient that was mapped over its stacked arguments."""
    num_results = len(upstream) - len(arguments)
    num_arguments = len(arguments) - len(variables)
    has_gradient: list[bool] = []

    def gradients_of_element(tensors_of_element):
        upstream, stacked = tensors_of_element
        values = [stacked.get(i, argument) for i, argument in enumerate(arguments)]
        _, grad = function(*values[:num_arguments])
        of_results = [upstream.get(i) for i in range(num_results)]
        gradients = grad(*of_results, variables=variables) if variables else grad(*of_results)
        gradients = tf.nest.flatten(gradients)
        has_gradient.extend(gradient is not None for gradient in gradients)
        return [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]

    upstream_by_result = {i: tensor for i, tensor in enumerate(upstream[:num_results]) if tensor is not None}
    stacked_by_index = dict(itertools.compress(enumerate(arguments), are_stacked))
    mapped = iter(tf.vectorized_map(gradients_of_element, (upstream_by_result, stacked_by_index)))
    gradients = [next(mapped) if has else None for has in has_gradient]
    for i, (gradient, is_stacked) in enumerate(zip(gradients, are_stacked, strict=True)):
        if gradient is not None and not is_stacked:
            gradients[i] = tf.reduce_sum(gradient, 0)
    return [None] * num_results + gradients


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Context manager in which gradient tapes record nothing except that a variable was read.

    Use it for the value of a custom gradient: under two tapes, TensorFlow would trace the gradients of its loops.
    """
    with record.VariableWatcher() as watcher, record.stop_recording():
        yield
    for variable in watcher.watched_variables():
        tape.variable_accessed(variable)


def _registered(graph, gradient):
    """Registers a gradient that the graph holds, so that both are freed together. Returns its name."""
    if not hasattr(graph, _GRADIENTS):
        setattr(graph, _GRADIENTS, {})
    gradients = getattr(graph, _GRADIENTS)
    reference = weakref.ref(graph)
    name = f"tf_resflow_{next(_NUMBERS)}"
    gradients[name] = gradient
    tf.RegisterGradient(name)(lambda *args: getattr(reference(), _GRADIENTS)[name](*args))
    weakref.finalize(graph, gradient_registry._registry.pop, name, None)
    return name
