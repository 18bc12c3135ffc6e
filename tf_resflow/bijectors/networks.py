"""The networks inside bijectors: their shapes, dtypes, variables and Lipschitz norms."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tf_resflow.layers.lipschitz_constants import lipschitz_order
from tf_resflow.layers.precision import confine_to_training
from tf_resflow.layers.program import BoundNetwork, bind, bind_all
from tf_resflow.private_api import set_trainable


class Networks:
    """The networks of flows, bound to their weights once, for one or several passes.

    Without it, each pass binds each network that it evaluates, which scales the kernels. Pass it as the argument
    `networks`, like the seed. A training step creates one inside its gradient tape.

    Args:
      *flows: bijectors, distributions or other `tf.Module`s with bijectors in them, or networks.
      training: whether the passes are those of a training step. If so, call `tf_resflow.layers.update_norms` after
        each change of the weights, because the stored vectors of the norms are used without a check. XLA compiles
        activations for each batch size, networks of a mixed policy compute in its lower precision, and monotone
        blocks with the default solver solve their equations to 0.1 % of the event.
    """

    def __init__(self, *flows: Any, training: bool = False):
        networks = dict.fromkeys(network for flow in flows for network in _networks(flow))
        self._bound = dict(zip(networks, bind_all(networks, training=training), strict=True))

    def __getitem__(self, network: Any) -> BoundNetwork:
        """The bound network; a network that is not among these is bound anew."""
        return self._bound[network] if network in self._bound else bind(network)

    def frozen(self, function: Callable[[tf.Tensor], Any]) -> "Networks":
        """The same networks with fixed parameters: the constants or variables that a function makes of them."""
        networks = Networks()
        for network, bound in self._bound.items():
            kept = [function(parameter) for parameter in bound.parameters]
            networks._bound[network] = BoundNetwork(network, bound.program, kept, bound.training, in_place=True)
        return networks

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all networks."""
        return [parameter for bound in self._bound.values() for parameter in bound.parameters]


def _networks(flow):
    if isinstance(flow, keras.Layer) or not isinstance(flow, tf.Module):
        return [flow]
    parts = [part for part in (flow, *flow.submodules) if isinstance(part, tfb.Bijector)]
    return [network for part in parts for network in getattr(part, "networks", ())]


def bound_network(network: Any, networks: Networks | None) -> BoundNetwork:
    """The bound network from `networks`; without them it is bound now."""
    return bind(network) if networks is None else networks[network]


def adopt(network: Any) -> dict[str, tf.Variable]:
    """Prepares the network of a bijector, and returns the variables that the bijector keeps, by name."""
    if not isinstance(network, keras.Layer):
        return {}
    if isinstance(network, keras.Sequential):
        network.autocast = False  # to the dtype of its own policy, which need not be that of its layers
    confine_to_training(network)
    for variable in network.variables:
        share_trainable(variable)
    return variables_by_name(network)


def bounded_norm(network: Any) -> tuple[Any, str | None]:
    """The order of the norm in which a network has a Lipschitz constant, and None; or None and the reason."""
    try:
        return lipschitz_order(network), None
    except ValueError as error:
        return None, str(error).partition(". ")[0]


def check_built(network: keras.Layer) -> None:
    """Raises a ValueError for a Keras layer or model that has no variables yet."""
    if not network.built:
        raise ValueError(
            f"The network {network.name!r} is not built. Give a keras.Sequential a keras.Input as its first "
            "element, or call its build(input_shape)."
        )


def check_event(what: str, event_shape: tf.TensorShape, shape: tf.TensorShape) -> None:
    """Raises a ValueError that begins with `what` unless `shape` ends in events of this rank and these channels.

    Other axes may differ: networks of convolutions map images of any size.
    """
    num_channels = shape[-1:] if event_shape.rank else []
    if (shape.rank or 0) < event_shape.rank or not event_shape[-1:].is_compatible_with(num_channels):
        raise ValueError(f"{what} of shape {event_shape}, after any batch shape; got an input of shape {shape}.")


def of_shape(shape: tf.TensorShape, tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor; raises a ValueError if it cannot have this shape, because parameters were broadcast."""
    shape.assert_is_compatible_with(tensor.shape)
    return tensor


def from_rows(rows: Any, batch_shape: Any) -> Any:
    """Restores the batch shape that `NetworkBijector._to_rows` returned, of a tensor or a structure of tensors."""

    def restored(tensor):
        tensor, event = tf.reshape(tensor, tf.concat([batch_shape, tf.shape(tensor)[1:]], 0)), tensor.shape[1:]
        return tf.ensure_shape(tensor, [None] * batch_shape.shape[0] + event)

    return rows if batch_shape is None else tf.nest.map_structure(restored, rows)


def input_shapes(network: Any) -> list[tuple[int | None, ...]]:
    """The shapes (with batch axis) of a network's inputs; an empty list if they are unknown."""
    if getattr(network, "inputs", None):
        return [tuple(tensor.shape) for tensor in network.inputs]
    config = network.get_build_config() if isinstance(network, keras.Layer) else None
    shape = (config or {}).get("input_shape")
    if shape is None:
        return []
    nested = isinstance(shape[0], (list, tuple))
    return [tuple(part) for part in shape] if nested else [tuple(shape)]


def output_shape(network: Any, shapes: Sequence[Any]) -> Any:
    """The shape of the output for a batch of inputs of these shapes, without computing a value."""
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
    """The shapes of the inputs, x or x and a condition, and of the output of a network, without the batch."""
    check_built(network)
    inputs = [shape[1:] for shape in input_shapes(network)]
    known = len(inputs) in (1, 2) and all(shape and shape[-1] for shape in inputs)
    output = output_shape(network, inputs) if known else None
    if not isinstance(output, tf.TensorShape) or not output[1:].rank or not output[-1]:
        raise ValueError(
            "The network needs one input, or two with a condition, and one output, all with a last axis of known "
            f"size; {network.name!r} maps {inputs} to {output}."
        )
    return inputs, tuple(output[1:])


def parameter_dtype(network: Any) -> tf.DType | None:
    """The dtype of the parameters (the policy of a `keras.Sequential` need not be that of its layers)."""
    variables = getattr(network, "trainable_variables", ()) or getattr(network, "variables", ())  # if it is frozen
    dtype = tf.as_dtype(variables[0].dtype) if variables else None
    for tensor in getattr(network, "inputs", None) or []:
        if dtype == tf.float64 and tensor.dtype != "float64":
            raise ValueError(
                f"The network has float64 parameters, but its keras.Input casts to {tensor.dtype}: create it "
                "with keras.Input(shape, dtype='float64')."
            )
    return dtype


class _Trainable:
    """Whether a Keras variable is trainable now: the flag of its `tf.Variable`, which TFP and tapes read."""

    def __init__(self, variable):
        self._variable = variable

    def __bool__(self):
        return self._variable.trainable

    def __index__(self):  # for protocol buffers
        return int(self._variable.trainable)


def share_trainable(variable: keras.Variable) -> tf.Variable:
    """Returns the `tf.Variable` of a Keras variable, trainable from now on while the Keras variable is."""
    for replica in getattr(variable.value, "values", [variable.value]):
        set_trainable(replica, _Trainable(variable))
    return variable.value


def variables_by_name(network: keras.Layer) -> dict[str, tf.Variable]:
    """The variables of a network under names that are numbered in the network, not in the process as by Keras."""
    named: dict[str, tf.Variable] = {}
    counts: dict[str, int] = {}
    scope = (network.path or network.name)[: -len(network.name)]
    for variable in network.variables:
        name = re.sub(r"_\d+(?=/|$)", "", variable.path.removeprefix(scope))
        count = counts[name] = counts.get(name, -1) + 1
        named[f"{name}_{count}" if count else name] = variable.value
    return named
