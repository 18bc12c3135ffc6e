"""What branches of one architecture have in common, and their weights as arguments."""

import contextlib
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.activations import CLipSwish, CPila, FullSort, LipschitzCube, LipSwish, MaxMin
from tf_resflow.layers.fusion import _FUSED
from tf_resflow.layers.learned_concatenation import LearnableConcatenation
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.lipschitz_constants import known_slope
from tf_resflow.layers.lipschitz_conv2d import LipschitzConv2D
from tf_resflow.layers.lipschitz_dense import LipschitzDense
from tf_resflow.layers.lipschitz_layer import _SCALED, _STORED
from tf_resflow.private_api import graph_steps, is_xla

__all__ = ["shared_architecture", "weights_of", "with_weights"]

# Layers of which the configuration says all but the values of the weights.
_KNOWN = (
    LipschitzDense, LipschitzConv2D, LipSwish, CLipSwish, CPila, MaxMin, FullSort, LipschitzCube,
    LearnableConcatenation, keras.layers.Activation, keras.layers.Add, keras.layers.Concatenate, keras.layers.Dense,
    keras.layers.Flatten, keras.layers.Reshape,
)  # fmt: skip


def shared_architecture(branch: Any) -> Hashable | None:
    """What is equal for the branches of a graph that differ in the values of their weights alone.

    It is known of `keras.Sequential` and functional models of the layers of this package and of a few of Keras, and
    None of others, in eager mode, and while kernels are held for a branch.
    """
    known = isinstance(branch, keras.Model) and type(branch).__module__.startswith("keras.")
    if not known or tf.executing_eagerly() or is_xla():
        return None
    held = _SCALED.get() or {}
    tensors: dict[int, int] = {}
    orders: dict[int, int] = {}

    def numbers(several):
        return tuple(tensors.setdefault(id(tensor), len(tensors)) for tensor in several)

    steps: list[Any] = [(numbers(branch.inputs), tuple((tuple(x.shape), x.dtype) for x in branch.inputs))]
    for layer, arguments, results in graph_steps(branch):
        custom = type(layer) in (keras.layers.Activation, keras.layers.Dense) and known_slope(layer) is None
        if type(layer) not in _KNOWN or custom or id(layer) in held:
            return None
        steps.append((numbers(arguments), _settings(layer, orders), numbers(results)))
    return (*steps, numbers(branch.outputs), _STORED.get(), _FUSED.get())


def _settings(layer, orders):
    """The settings of a layer here and now, and what its weights are; learned orders by number."""
    config = {name: value for name, value in layer.get_config().items() if not name.endswith("initializer")}
    config |= {"name": None, "dtype": (layer.dtype_policy.name, layer.compute_dtype)}
    for name, value in config.items():
        if isinstance(value, LearnedOrder):
            config[name] = ("order", orders.setdefault(id(value), len(orders)), value.low, value.high)
    weights = tuple((tuple(weight.shape), weight.dtype) for weight in layer.weights)
    operator = getattr(layer, "_operator", None)
    return type(layer), json.dumps(config, sort_keys=True, default=str), operator, weights


def weights_of(branch: Any) -> list[tf.Tensor]:
    """The values of the variables of a branch, in their order."""
    return [tf.convert_to_tensor(variable) for variable in branch.variables]


@contextlib.contextmanager
def with_weights(branch: keras.Model, values: Sequence[tf.Tensor]) -> Iterator[None]:
    """A context in which the variables of a branch, in their order, have these values."""
    with keras.StatelessScope(state_mapping=list(zip(branch.variables, values, strict=True))):
        yield
