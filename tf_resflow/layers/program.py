"""The program of a network: its computation, read once and evaluated with weights as arguments."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.private_api import accepts_list, graph_steps
from tf_resflow.layers.operations import BoundaryOperation, OpaqueOperation, Operation
from tf_resflow.layers.precision import evaluation_dtype, in_evaluation_dtype
from tf_resflow.layers.rules import LayerRule, Site, is_altered, rule_of


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation with the indices of its input and output tensors.

    Attributes:
      weights: Indices of its weights among the parameters of the program. A repeated layer has the same ones.
      layer: Layer that the operation was read from.
      shapes: Shape of each output, None if unknown.
    """

    operation: Operation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[int, ...] = ()
    layer: Any = dataclasses.field(default=None, compare=False)
    shapes: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Program:
    """What a network computes from its inputs and parameters. Equal programs compute the same function.

    Attributes:
      inputs: Shape (with the batch) and dtype of each input. The first tensor indices belong to them. Empty if
        nothing is known about the network, which is then a single step.
      outputs: Tensor indices of the outputs.
      sources: Layers with weights, in the order of the parameters, and the dtypes that they compute in.
    """

    inputs: tuple[tuple[tuple[int | None, ...], str], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    sources: tuple[tuple[Any, str], ...] = dataclasses.field(compare=False)

    @functools.cached_property
    def is_known(self) -> bool:
        return not any(isinstance(step.operation, OpaqueOperation) for step in self.steps)

    @functools.cached_property
    def supports_jvp(self) -> bool:
        """Whether each step that depends on the first input has a known derivative along a vector."""
        return self._supports("jvp")

    @functools.cached_property
    def supports_jacobian(self) -> bool:
        """Whether the first input is a vector, and each step that depends on it has a known Jacobian."""
        return bool(self.inputs) and len(self.inputs[0][0]) == 2 and self._supports("jacobian")

    @functools.cached_property
    def reached(self) -> set[int]:
        """The indices of the tensors that depend on the first input."""
        reached = {0}
        for step in self.steps:
            if reached.intersection(step.inputs):
                reached.update(step.outputs)
        return reached

    def _supports(self, derivative):
        if not self.is_known or len(self.outputs) != 1 or self.outputs[0] not in self.reached:
            return False
        shapes = dict(enumerate(shape for shape, _ in self.inputs))
        for step in self.steps:
            shapes.update(zip(step.outputs, step.shapes, strict=True))
            varying = [shapes[i] for i in step.inputs if i in self.reached]
            if varying and not step.operation.supports(derivative, varying, step.shapes[0]):
                return False
        return True


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model that evaluates the graph of its layers, not a subclass with its own `call`."""
    if not (isinstance(layer, (keras.Sequential, keras.Function)) and hasattr(layer, "inputs")):
        return False
    calls = type(layer).call, type(layer).__call__
    is_keras = all(f.__module__.startswith("keras.") for f in calls)
    return is_keras and accepts_list(layer) and not is_altered(layer)


def read(network: Any, *, training: bool = False) -> Program:
    """Reads the program of a network in its current state.

    `keras.Sequential` and functional models are read layer by layer, including nested models, if their layers have
    a rule (see `register_rule`). Any other layer is one step, called as Keras calls it. In a training step, layers
    with a mixed policy compute in its lower precision, and elementwise functions pass over memory once.
    """
    return _Reader(training).program(network)


class BoundNetwork:
    """A network with the weights of its program as they are applied: a function of its inputs.

    With `inline`, it is traced where it is evaluated and shares no function, as TFLite requires.
    """

    def __init__(
        self, network: Any, program: Program, parameters: Sequence[Any], training: bool, inline: bool = False
    ):
        self.network = network
        self.program = program
        self.parameters = list(parameters)
        self.training = training
        self.inline = inline

    def __call__(self, inputs: Any) -> tf.Tensor:
        inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if not self.program.inputs:
            with in_evaluation_dtype(self.network):
                return self.network(inputs[0] if len(inputs) == 1 else inputs)
        outputs, _ = self._evaluate(inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def with_parameters(self, parameters: Sequence[Any]) -> "BoundNetwork":
        return BoundNetwork(self.network, self.program, parameters, self.training, self.inline)

    @property
    def key(self) -> Program | None:
        """A key that is equal for networks that may share a traced function. None if this one shares none."""
        return self.program if self.program.is_known and not self.inline else None

    def tensors(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(parameter) for parameter in self.parameters]

    def value_and_jvp(self, inputs: Sequence[tf.Tensor], v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns g(x) and J v, `[rows, *event]`, for a program that `supports_jvp`; differentiable once."""
        (value,), (derivative,) = self._evaluate(inputs, v, "jvp")
        return value, derivative

    def jacobian(self, inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the value `[batch, outputs]` and its derivatives in x, `[outputs, size, batch]`.

        Requires a program that `supports_jacobian`. Differentiable any number of times. `inputs`: x and conditions.
        """
        x = inputs[0]
        unit = tf.eye(x.shape[-1], dtype=x.dtype)[..., tf.newaxis]  # one row, shared by all examples
        (value,), (tangents,) = self._evaluate(inputs, unit, "jacobian")
        return value, tangents + tf.zeros([tf.shape(x)[0]], tangents.dtype)

    def _evaluate(self, inputs, derivative=None, kind=None):
        """Returns the outputs and their derivatives ("jvp" or "jacobian") from that of the first input."""
        values = dict(enumerate(self._converted(inputs)))
        derivatives = {0: derivative}
        parameters = self.tensors()
        for step in self.program.steps:
            operation = step.operation
            weights = [parameters[i] for i in step.weights]
            step_inputs = operation.cast([values[i] for i in step.inputs])
            directions = [derivatives.get(i) for i in step.inputs]
            if all(direction is None for direction in directions):
                results = operation(step_inputs, weights)
            else:
                differentiate = getattr(operation, kind)
                results, *directions = differentiate(step_inputs, operation.cast(directions), weights)
            values.update(zip(step.outputs, tf.nest.flatten(results), strict=True))
            derivatives.update(zip(step.outputs, directions, strict=False))
        return [values[i] for i in self.program.outputs], [derivatives.get(i) for i in self.program.outputs]

    def _converted(self, inputs):
        expected = [shape for shape, _ in self.program.inputs]
        shapes = [x.shape for x in inputs]
        if len(shapes) != len(expected) or not all(map(_fits, shapes, expected)):
            raise ValueError(
                f"The network '{self.network.name}' got inputs of shapes {shapes}; expected {expected}."
            )
        return [tf.cast(x, dtype) for (_, dtype), x in zip(self.program.inputs, inputs, strict=True)]


def _fits(shape, expected):
    """Whether an input has the expected rank and number of channels."""
    return shape.rank == len(expected) and shape[-1:].is_compatible_with(expected[-1:])


def bind(network: Any, *, training: bool = False) -> BoundNetwork:
    """Returns a network as a function whose kernels are scaled once, now. A bound network is returned unchanged.

    Gradients in the kernels flow through the scaled kernels, so bind the network inside the gradient tape. Later
    changes of the weights do not affect the bound network.
    """
    return network if isinstance(network, BoundNetwork) else bind_all([network], training=training)[0]


def bind_all(networks: Iterable[Any], *, training: bool = False) -> list[BoundNetwork]:
    """Binds several networks like `bind`, but computes the weights of similar layers together."""
    networks = list(networks)
    programs = [read(network, training=training) for network in networks]
    by_rule: dict[LayerRule, dict[tuple[Any, str], None]] = {}
    for program in programs:
        for source in program.sources:
            by_rule.setdefault(rule_of(source[0]), {})[source] = None
    weights: dict[tuple[Any, str], list[tf.Tensor]] = {}
    for rule, sources in by_rule.items():
        weights.update(zip(sources, rule.weights_of_all(list(sources), training), strict=True))

    def parameters(program):
        return [weight for source in program.sources for weight in weights[source]]

    pairs = zip(networks, programs, strict=True)
    return [BoundNetwork(network, program, parameters(program), training) for network, program in pairs]


class _Reader:
    def __init__(self, training):
        self._training = training
        self._steps: list[Step] = []
        self._sources: dict[Any, tuple[str, tuple[int, ...]]] = {}
        self._num_tensors = self._num_weights = 0

    def program(self, network):
        if is_graph(network):
            inputs = tuple((tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for x in network.inputs)
            outputs = self._graph(network, self._numbers(len(inputs)))
        else:
            inputs = ()
            outputs = self._step(OpaqueOperation("", network, network), network, self._numbers(1), (None,))
        sources = tuple((layer, dtype) for layer, (dtype, _) in self._sources.items())
        return Program(inputs, tuple(self._steps), tuple(outputs), sources)

    def _numbers(self, num):
        self._num_tensors += num
        return tuple(range(self._num_tensors - num, self._num_tensors))

    def _graph(self, model, inputs):
        """Adds the steps of a model and returns the indices of its outputs."""
        known = dict(zip(map(id, model.inputs), inputs, strict=True))
        for step in graph_steps(model):
            layer = step.operation
            numbers = [known[id(tensor)] for tensor in step.inputs]
            shapes = tuple(tuple(tensor.shape) for tensor in step.outputs)
            if is_graph(layer) and step.is_plain:
                outputs = self._inner(layer, numbers, shapes)
            else:
                outputs = self._step(self._operation(step), layer, numbers, shapes)
            known.update(zip(map(id, step.outputs), outputs, strict=True))
        return [known[id(tensor)] for tensor in model.outputs]

    def _inner(self, model, numbers, shapes):
        dtypes = [keras.backend.standardize_dtype(x.dtype) for x in model.inputs]
        inputs = self._boundaries(model, numbers, dtypes, [tuple(x.shape) for x in model.inputs])
        return self._boundaries(model, self._graph(model, inputs), [""] * len(shapes), shapes)

    def _boundaries(self, model, numbers, dtypes, shapes):
        boundaries = zip(numbers, dtypes, shapes, strict=True)
        return [self._step(BoundaryOperation(dtype), model, [i], (shape,))[0] for i, dtype, shape in boundaries]

    def _step(self, operation, layer, numbers, shapes):
        weights = self._indices_of_weights(operation, layer)
        outputs = self._numbers(len(shapes))
        self._steps.append(Step(operation, tuple(numbers), outputs, weights, layer, shapes))
        return outputs

    def _indices_of_weights(self, operation, layer):
        """Returns the indices of a layer's weights among the parameters, the same if the layer occurs again."""
        num = 0 if isinstance(operation, OpaqueOperation) else len(rule_of(layer).variables(layer))
        if num and layer not in self._sources:
            self._sources[layer] = operation.dtype, tuple(range(self._num_weights, self._num_weights + num))
            self._num_weights += num
        return self._sources[layer][1] if num else ()

    def _operation(self, step):
        layer, arguments, results, call, is_plain = step
        opaque = OpaqueOperation("", layer, call)
        is_floating = all(tf.as_dtype(x.dtype).is_floating for x in (*arguments, *results))
        if not isinstance(layer, keras.Layer) or not is_plain or not is_floating:
            return opaque
        if layer.activity_regularizer or layer.quantization_mode or not (layer.autocast and layer.built):
            return opaque
        dtype = layer.compute_dtype if self._training else evaluation_dtype(layer)
        inputs = tuple(tuple(x.shape) for x in arguments)
        site = Site(dtype, inputs, tuple(results[0].shape), self._training)
        return rule_of(layer).operation(layer, site) or opaque
