"""Wrappers for private names of Keras, TensorFlow and TFP, except TFP's value cache (see `bijectors/base.py`)."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras.src.backend.common import global_state
from keras.src.saving import serialization_lib
from keras.src.saving.serialization_lib import record_object_after_serialization as record_sharing  # noqa: F401
from tensorflow.python.autograph.core import config
from tensorflow.python.eager import record, tape
from tensorflow.python.eager.context import eager_mode  # noqa: F401
from tensorflow.python.framework.ops import gradient_registry
from tensorflow_probability.python.internal.implementation_selection import is_xla  # noqa: F401

_GRADIENTS = "_tf_resflow_gradients"  # name of an attribute that is set on a graph

config.CONVERSION_RULES += (config.DoNotConvert("tf_resflow"),)  # AutoGraph must not convert our functions


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
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    return [
        GraphStep(node.operation, node.input_tensors, node.outputs, functools.partial(_call, node), _is_plain(node))
        for node in nodes
    ]


def accepts_list(model: keras.Model) -> bool:
    """Whether the inputs of a model are a tensor or a list of tensors, rather than another structure."""
    inputs = getattr(model, "_inputs_struct", None)
    return inputs is None or _is_list(inputs)  # a Sequential has one input


def _is_plain(node):
    args, kwargs = node.arguments.args, node.arguments.kwargs
    values = [*args, *kwargs.values()]  # a mask is one None per input
    given = [value for value in values if any(leaf is not None for leaf in keras.tree.flatten(value))]
    return len(given) == len(args[:1]) == 1 and _is_list(given[0])


def _is_list(inputs):
    values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    return all(isinstance(value, keras.KerasTensor) for value in values)


def _call(node, values):
    named = {id(tensor): value for tensor, value in zip(node.input_tensors, values, strict=True)}
    args, kwargs = node.arguments.fill_in(named)
    return node.operation(*args, **kwargs)


def share_updates(optimizer: keras.optimizers.Adam, update: Callable[..., None]) -> None:
    """Makes an Adam or AdamW, or a subclass, update each variable by one call, which includes weight decay.

    Gradients are summed over the replicas before clipping. The config and the state of the optimizer do not change.

    Args:
      optimizer: Keras optimizer without `amsgrad`.
      update: called as `update(index, variable, moments, gradient, rates, decays)`. `index` is the position of the
        variable in the optimizer, `moments` is the pair of its resource handles, `rates` is a float64 tensor with
        the learning rate, the rate corrected for the bias of the moments, and the share that decays in a step, and
        `decays` is whether weight decay applies to the variable.
    """
    kind = type(optimizer)

    def clip(grads):
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
        return kind._clip_gradients(optimizer, grads)

    def update_all(grads, variables, learning_rate):
        step, rate = tf.cast(optimizer.iterations + 1, tf.float64), tf.cast(learning_rate, tf.float64)
        beta_1, beta_2 = float(optimizer.beta_1), float(optimizer.beta_2)
        without_bias = rate * tf.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
        decay = tf.cast(0.0 if optimizer.weight_decay is None else optimizer.weight_decay, tf.float64)
        rates = tf.stack([rate, without_bias, rate * decay])
        kind._backend_update_step(optimizer, grads, variables, rates)

    def update_step(gradient, variable, rates):
        index = optimizer._get_variable_index(variable)
        moments = [state[index].value.handle for state in (optimizer._momentums, optimizer._velocities)]
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        decays = optimizer.weight_decay is not None and optimizer._use_weight_decay(variable)
        update(index, variable, moments, gradient, rates, decays)

    optimizer._clip_gradients = clip
    optimizer._all_reduce_sum_gradients = list  # they are sums already
    optimizer._apply_weight_decay = lambda variables: None  # part of the update
    optimizer._backend_update_step, optimizer.update_step = update_all, update_step


class OnlyInSavedModels:
    """Mixin for trackable objects that keeps the attributes in `_only_in_saved_models` out of checkpoints."""

    _only_in_saved_models: tuple[str, ...] = ()

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)  # type: ignore[misc]
        hidden = self._only_in_saved_models if save_type == "checkpoint" else ()
        return {name: child for name, child in children.items() if name not in hidden}


def set_average_rule(
    optimizer: keras.Optimizer, momentum: Callable[[], tf.Tensor], update: Callable[..., None]
) -> None:
    """Makes an optimizer update its averages (`use_ema`) with the momentum that a function returns at each step.

    `update(average, variable, share)` moves an average by a share of its distance to the variable. The averages
    change only when the variables do. Keras would update them for each accumulated gradient.
    """

    def update_all(variables):
        share = tf.where(tf.equal(optimizer.iterations, 0), 1.0, 1.0 - momentum())
        if optimizer.gradient_accumulation_steps:
            is_update = tf.equal((num_gradients(optimizer) + 1) % optimizer.gradient_accumulation_steps, 0)
            share = tf.where(is_update, share, 0.0)
        for variable, average in zip(variables, moving_averages(optimizer), strict=True):
            if average is not None:
                update(average.value, variable.value, share)

    optimizer._update_model_variables_moving_average = update_all


def moving_averages(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """Returns the averages (`use_ema`) of the variables that an optimizer was built for, in the same order."""
    return optimizer._model_variables_moving_average


def num_gradients(optimizer: keras.Optimizer) -> keras.Variable:
    """Returns the number of gradients received. `iterations` counts updates, which may accumulate several."""
    return optimizer._iterations


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


def is_increasing(bijector: tfp.bijectors.Bijector, **kwargs: Any) -> bool | tf.Tensor:
    """Whether a scalar bijector is increasing, given the keyword arguments of its methods."""
    return bijector._internal_is_increasing(**kwargs)


def has_fixed_members(composition: tfp.bijectors.Composition) -> bool:
    """Whether no member of a composition depends on the event. In joint distributions, members may depend on it."""
    return type(composition)._parts_interact is tfp.bijectors.Composition._parts_interact


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `tf.custom_gradient`, but its registered gradient does not keep the graph alive."""
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args):
        result = decorated(*args)
        if not tf.executing_eagerly():
            _forget_with_graph(tf.nest.flatten(result)[0].op)
        return result

    return call


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Context manager in which gradient tapes record nothing except that a variable was read.

    Use it for the value of a custom gradient: under two tapes, TensorFlow would trace the gradients of its loops.
    """
    with record.VariableWatcher() as watcher, record.stop_recording():
        yield
    for variable in watcher.watched_variables():
        tape.variable_accessed(variable)


def _forget_with_graph(operation):
    """Moves the registered gradient of an operation to its graph, so that both are freed together."""
    name, graph = operation.get_attr("_gradient_op_type").decode(), operation.graph
    entry = gradient_registry._registry[name]
    if not hasattr(graph, _GRADIENTS):
        setattr(graph, _GRADIENTS, {})
    getattr(graph, _GRADIENTS)[name] = entry["type"]
    found = weakref.ref(graph)
    entry["type"] = lambda *args: getattr(found(), _GRADIENTS)[name](*args)
    weakref.finalize(graph, gradient_registry._registry.pop, name, None)
