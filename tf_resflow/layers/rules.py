"""Rules: what the library knows about each type of layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import tensorflow as tf

from tf_resflow._internal.serialization import SerializableLayer
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.operations import FunctionOperation, Operation

Rule = TypeVar("Rule", bound="type[LayerRule]")
_RULES: dict[type, "LayerRule"] = {}
_REPLACED_BY_KERAS = {"build", "loss", "quantize"}  # instance attributes that replace methods


class Site(NamedTuple):
    """Where a layer is applied.

    Attributes:
      inputs: Shapes of the inputs, with the batch; empty if unknown.
      output: Shape of the output, None if unknown.
      fused: Whether elementwise functions are fused into one pass over memory.
    """

    dtype: str
    inputs: tuple[tuple[int | None, ...], ...] = ()
    output: tuple[int | None, ...] | None = None
    fused: bool = False


class TensorBound(NamedTuple):
    """The Lipschitz constant of a tensor with respect to the first input, the order of its norm, and its shape."""

    constant: Any
    order: Any
    shape: Any

    @property
    def is_fixed(self) -> bool:
        """Whether the tensor does not depend on the first input."""
        return isinstance(self.constant, float) and self.constant == 0.0


class LayerRule:
    """Base class of rules. A rule describes one type of layer to the library; see `register_rule`.

    The rule of an activation defines `function` and `lipschitz_constant`. A layer without an operation is opaque:
    it is called as Keras calls it, and shares no traced functions.
    """

    def function(self, layer: Any) -> Callable[..., tf.Tensor] | None:
        """Returns the elementwise function f(x, *weights) of the layer, or None if the layer is not elementwise.

        Layers share traced functions only if their functions are equal.
        """
        return None

    def operation(self, layer: Any, site: Site) -> Operation | None:
        """Returns the layer's operation (value and derivatives) at a site. By default, it applies `function`."""
        function = self.function(layer)
        return None if function is None else FunctionOperation(site.dtype, function, True)

    def variables(self, layer: Any) -> list[Any]:
        """Returns the variables behind the weights of the operation, one per weight."""
        return []

    def weights(self, layer: Any, dtype: str) -> list[tf.Tensor]:
        """Returns the weights, differentiable in the variables. By default, the variables are cast to the dtype."""
        return [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in self.variables(layer)]

    def weights_of_all(self, sources: Sequence[tuple[Any, str]], stored: bool) -> list[list[tf.Tensor]]:
        """Returns the `weights` of several pairs of a layer and a dtype. A rule can compute them together.

        With `stored`, norms use stored vectors without a check (see `tf_resflow.bijectors.Networks`).
        """
        return [self.weights(layer, dtype) for layer, dtype in sources]

    def lipschitz_constant(self, layer: Any) -> float | None:
        """Returns the Lipschitz constant, or None if unknown. By default, it is the layer's attribute of this name.

        It holds in the norm of the layer's attribute `lipschitz_order`, or in every l^p norm if there is none.
        """
        return declared_constant(layer)

    def domain(self, layer: Any) -> Any:
        """Returns the order of the norm of the inputs if the layer has one (by `lipschitz_order`), or else None."""
        return getattr(layer, "lipschitz_order", None)

    def bound(
        self,
        layer: Any,
        inputs: Sequence[TensorBound],
        shape: Any,
        certified: bool,
        weights: Sequence[tf.Tensor] | None,
    ) -> TensorBound:
        """Returns the bound of the output. By default, `lipschitz_constant` times the sum over the inputs.

        Args:
          inputs: Bounds of the inputs. At least one is not fixed, and all that are not fixed have the same order.
          shape: Shape of the output, None if unknown.
          certified: Whether the constant must be proven for the current weights.
          weights: Weights of the operation, if they differ from the layer's current weights.
        """
        constant = self.lipschitz_constant(layer)
        if constant is None:
            raise ValueError(unknown_constant(layer))
        varying = [x for x in inputs if not x.is_fixed]
        check_order(layer, varying[0].order)
        return TensorBound(sum(x.constant for x in varying) * constant, varying[0].order, shape)


class KernelRule(LayerRule):
    """Base class of rules for layers with a kernel and, if it is not None, a bias."""

    def variables(self, layer):
        return [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]


_NO_RULE = LayerRule()


def register_rule(*kinds: type[keras.layers.Layer]) -> Callable[[Rule], Rule]:
    """Registers the decorated `LayerRule` for these exact layer types, but not for their subclasses.

    The rule describes a layer to the library: its derivatives, its Lipschitz constant, and when two networks
    compute the same function and can share traced code.

    ```python
    import keras
    import tensorflow as tf
    import tf_resflow as resflow

    class Sine(keras.layers.Layer):
        def call(self, x):
            return tf.sin(x)

    @resflow.layers.register_rule(Sine)
    class SineRule(resflow.layers.LayerRule):
        def function(self, layer):
            return tf.sin

        def lipschitz_constant(self, layer):
            return 1.0

    branch = resflow.flows.dense_branch([2], (16,), activation=Sine, coefficient=0.9)
    print(f"{resflow.layers.lipschitz_constant(branch):.2f}")
    # 0.81
    ```

    Args:
      *kinds: Layer types. A later rule replaces an earlier one.

    Returns:
      A decorator for a class whose constructor has no arguments.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, rule()))
        return rule

    return register


def rule_of(layer: Any) -> LayerRule:
    """Returns the rule of a layer's exact type, or an empty rule if none exists or the layer is altered."""
    return _NO_RULE if is_altered(layer) else _RULES.get(type(layer), _NO_RULE)


def is_altered(layer: Any) -> bool:
    """Whether an attribute of the instance replaces a method."""
    replaced = {name for name in vars(layer) if callable(getattr(type(layer), name, None))}
    return not replaced <= _REPLACED_BY_KERAS


class RuledLayer(SerializableLayer):
    """A layer whose call is defined by its rule, or by the rule of the class that it extends."""

    def call(self, inputs: Any) -> tf.Tensor:
        rule = next(_RULES[kind] for kind in type(self).__mro__ if kind in _RULES)
        operation = rule.operation(self, Site(self.compute_dtype))
        assert operation is not None
        (weights,) = rule.weights_of_all([(self, self.compute_dtype)], stored=False)
        return operation(operation.cast(tf.nest.flatten(inputs)), weights)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def declared_constant(layer: Any) -> float | None:
    """Returns `layer.lipschitz_constant`, or None if a subclass overrides the call without setting it again."""
    if "lipschitz_constant" in getattr(layer, "__dict__", {}):
        return layer.lipschitz_constant
    if not is_altered(layer):
        for kind in type(layer).__mro__:
            if "lipschitz_constant" in vars(kind):
                return layer.lipschitz_constant
            if "call" in vars(kind) or "__call__" in vars(kind):
                break
    return None


def check_order(layer: Any, order: Any) -> None:
    """Raises a ValueError unless the layer's constant holds in the norm of this order."""
    if getattr(layer, "lipschitz_order", None) not in (None, order):
        raise ValueError(
            f"The Lipschitz constant of layer '{layer.name}' holds in the {order_name(layer.lipschitz_order)}-norm "
            f"only, but its input is in the {order_name(order)}-norm. Use another layer, or other orders."
        )


def unknown_constant(layer: Any) -> str:
    """Returns the error message for a layer whose Lipschitz constant is unknown."""
    name = f"'{layer.name}' ({type(layer).__name__})" if hasattr(layer, "name") else repr(layer)
    linear = {keras.layers.Dense: "LipschitzDense", keras.layers.Conv2D: "LipschitzConv2D"}
    if type(layer) in linear:
        return (
            f"The Lipschitz constant of {name} is unknown. Its kernel is not constrained. Use "
            f"tf_resflow.layers.{linear[type(layer)]}, or pass lipschitz_constant= to the bijector or estimator."
        )
    return (
        f"The Lipschitz constant of {name} is unknown. Register a rule (tf_resflow.layers.register_rule), set its "
        "attribute `lipschitz_constant` (a subclass that overrides `call` does not inherit it), use a layer with a "
        "known constant, or pass lipschitz_constant= to the bijector or estimator."
    )


def order_name(order: Any) -> str:
    """Formats the order of a norm for messages."""
    return f"{order.name} (learned)" if isinstance(order, LearnedOrder) else f"{order:g}"
