"""Shapes, dtypes, variables and Lipschitz norms of the networks inside bijectors."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_resflow._internal.private_api import set_trainable
from tf_resflow.layers.attributes import networks_of
from tf_resflow.layers.lipschitz_constants import lipschitz_order
from tf_resflow.layers.program import BoundNetwork, bind, bind_all


class Networks:
    """The networks of flows, bound to their current weights once and reused in one or several passes.

    Pass it to a flow as the argument `networks`. Otherwise, each pass binds every network that it evaluates, which
    scales the kernels again. A training step creates a `Networks` inside its gradient tape.

    Args:
      *flows: Bijectors, distributions or other `tf.Module`s that contain bijectors, or networks.
      training: Whether the passes belong to a training step. If so, call `tf_resflow.layers.update_norms` after
        each change of the weights, because the stored norm vectors are used without a check. XLA compiles
        activations for each batch size, networks with a mixed-precision policy compute in the lower precision, and
        monotone blocks with the default solver solve their equations to 0.1 % of the size of the event.
    """

    def __init__(self, *flows: Any, training: bool = False):
        networks = dict.fromkeys(network for flow in flows for network in _networks(flow))
        self._bound = dict(zip(networks, bind_all(networks, training=training), strict=True))

    def __getitem__(self, network: Any) -> BoundNetwork:
        """Returns the bound network. A network that is not in this object is bound now."""
        return self._bound[network] if network in self._bound else bind(network)

    def frozen(self, function: Callable[[tf.Tensor], Any]) -> "Networks":
        """Returns the networks with fixed parameters: `function` maps each parameter to a constant or variable."""
        networks = Networks()
        for network, bound in self._bound.items():
            kept = [function(parameter) for parameter in bound.parameters]
            networks._bound[network] = BoundNetwork(network, bound.program, kept, bound.training, inline=True)
        return networks

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all networks."""
        return [parameter for bound in self._bound.values() for parameter in bound.parameters]


def _networks(flow):
    if isinstance(flow, keras.Layer) or not isinstance(flow, tf.Module):
        return [flow]
    networks = []
    for module in (flow, *flow.submodules):
        if isinstance(module, tfb.Bijector):
            networks.extend(networks_of(module))
    return networks


def tracked_variables(network: Any) -> dict[str, tf.Variable]:
    """Returns the variables of a bijector's network by name, whose trainable flags then follow Keras."""
    if not isinstance(network, keras.Layer):
        return {}
    for variable in network.variables:
        share_trainable(variable)
    return variables_by_name(network)


def bounded_norm(network: Any) -> tuple[Any, str | None]:
    """Returns `(order, None)` with the order of the norm that bounds a network, or `(None, reason)`."""
    try:
        return lipschitz_order(network), None
    except ValueError as error:
        return None, str(error).partition(". ")[0]


def check_built(network: keras.Layer) -> None:
    """Raises a ValueError if a Keras layer or model has no variables yet."""
    if not network.built:
        raise ValueError(
            f"The network {network.name!r} is not built. Give a keras.Sequential a keras.Input as its first "
            "element, or call its build(input_shape)."
        )


def check_event(what: str, event_shape: tf.TensorShape, shape: tf.TensorShape) -> None:
    """Raises a ValueError unless `shape` ends in events of this rank and number of channels, of any image size."""
    num_channels = shape[-1:] if event_shape.rank else []
    if (shape.rank or 0) < event_shape.rank or not event_shape[-1:].is_compatible_with(num_channels):
        got = f"Got an input of shape {shape}, but {what} of shape {event_shape}, after any batch axes"
        advice = "" if shape.rank else " Use MultivariateNormalDiag or Independent(base, 1) as the base."
        raise ValueError(f"{got}. Check its last axes.{advice}")


def checked_shape(shape: tf.TensorShape, tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor. Raises a ValueError if broadcasting with parameters changed its shape."""
    shape.assert_is_compatible_with(tensor.shape)
    return tensor


def from_rows(rows: Any, batch_shape: Any) -> Any:
    """Restores the batch shape that `NetworkBijector._to_rows` returned, in a tensor or a structure of tensors."""

    def restore(tensor):
        restored = tf.reshape(tensor, tf.concat([batch_shape, tf.shape(tensor)[1:]], 0))
        return tf.ensure_shape(restored, [None] * batch_shape.shape[0] + tensor.shape[1:])

    return rows if batch_shape is None else tf.nest.map_structure(restore, rows)


def input_shapes(network: Any) -> list[tuple[int | None, ...]]:
    """Returns the shapes of a network's inputs with the batch axis, or an empty list if they are unknown."""
    if getattr(network, "inputs", None):
        return [tuple(tensor.shape) for tensor in network.inputs]
    config = network.get_build_config() if isinstance(network, keras.Layer) else None
    shape = (config or {}).get("input_shape")
    if shape is None:
        return []
    nested = isinstance(shape[0], (list, tuple))
    return [tuple(input_shape) for input_shape in shape] if nested else [tuple(shape)]


def output_shape(network: Any, shapes: Sequence[Any]) -> Any:
    """Returns the output shape for a batch of inputs of these shapes, without computing a value."""
    dtype = parameter_dtype(network) or tf.float32
    if isinstance(network, keras.Layer):
        keras_specs = [keras.KerasTensor((None, *shape), dtype=dtype.name) for shape in shapes]
        output = network.compute_output_spec(keras_specs if len(shapes) > 1 else keras_specs[0])
    else:
        specs = [tf.TensorSpec([None, *shape], dtype) for shape in shapes]
        call = tf.function(lambda *inputs: network([*inputs] if len(shapes) > 1 else inputs[0]), autograph=False)
        output = call.get_concrete_function(*specs).structured_outputs
    return tf.nest.map_structure(lambda tensor: tf.TensorShape(tensor.shape), output)


def network_shapes(network: keras.Layer) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
    """Returns the shapes of a network's inputs (x and possibly a condition) and output, without the batch axis."""
    check_built(network)
    inputs = [shape[1:] for shape in input_shapes(network)]
    known = len(inputs) in (1, 2) and all(shape and shape[-1] for shape in inputs)
    output = output_shape(network, inputs) if known else None
    if not isinstance(output, tf.TensorShape) or not output[1:].rank or not output[-1]:
        raise ValueError(
            f"The network {network.name!r} maps {inputs} to {output}. It must have one input, or two with a "
            "condition, and one output. Their last axes must have a known size."
        )
    return inputs, tuple(output[1:])


def parameter_dtype(network: Any) -> tf.DType | None:
    """Returns the dtype of the parameters, which may differ from the policy of a `keras.Sequential`."""
    variables = getattr(network, "trainable_variables", ()) or getattr(
        network, "variables", ()
    )  # if none is trained
    dtype = tf.as_dtype(variables[0].dtype) if variables else None
    for tensor in getattr(network, "inputs", None) or []:
        if dtype == tf.float64 and tensor.dtype != "float64":
            raise ValueError(
                f"The network has float64 parameters, but its keras.Input casts to {tensor.dtype}. Create the "
                "input with keras.Input(shape, dtype='float64')."
            )
    return dtype


class _Trainable:
    """The trainable flag of a `tf.Variable` for TFP and gradient tapes, which follows its Keras variable."""

    def __init__(self, variable):
        self._variable = variable

    def __bool__(self):
        return self._variable.trainable

    def __index__(self):  # for protocol buffers
        return int(self._variable.trainable)


def share_trainable(variable: keras.Variable) -> tf.Variable:
    """Returns the `tf.Variable` of a Keras variable, and makes its trainable flag follow the Keras variable."""
    for replica in getattr(variable.value, "values", [variable.value]):
        set_trainable(replica, _Trainable(variable))
    return variable.value


def variables_by_name(network: keras.Layer) -> dict[str, tf.Variable]:
    """Returns a network's variables by name, numbered in the network and not, as in Keras, in the process."""
    named: dict[str, tf.Variable] = {}
    counts: dict[str, int] = {}
    scope = (network.path or network.name)[: -len(network.name)]
    for variable in network.variables:
        name = re.sub(r"_\d+(?=/|$)", "", variable.path.removeprefix(scope))
        count = counts[name] = counts.get(name, -1) + 1
        named[f"{name}_{count}" if count else name] = variable.value
    return named
