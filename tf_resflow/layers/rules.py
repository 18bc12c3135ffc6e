"""What the library knows about layers: one rule for each type, in one table."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import tensorflow as tf

from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.operations import FunctionOperation, IdentityKey, Operation
from tf_resflow.serialization import SerializableLayer

Rule = TypeVar("Rule", bound="type[LayerRule]")
_RULES: dict[type, "LayerRule"] = {}
_MADE_BY_KERAS = {"build", "loss", "quantize"}  # attributes of instances that replace methods


class Site(NamedTuple):
    """Where a layer is applied.

    Attributes:
      dtype: the dtype in which it computes.
      inputs: the shapes of its inputs, with the batch; empty where they are not known.
      output: the shape of its output, None where it is not known.
      fused: whether elementwise functions are to pass over memory once.
    """

    dtype: str
    inputs: tuple[tuple[int | None, ...], ...] = ()
    output: tuple[int | None, ...] | None = None
    fused: bool = False


class TensorBound(NamedTuple):
    """A tensor in a network: its Lipschitz constant in the first input, the order of the norm, its shape."""

    constant: Any
    order: Any
    shape: Any

    @property
    def is_fixed(self) -> bool:
        """Whether the tensor does not depend on the first input."""
        return isinstance(self.constant, float) and self.constant == 0.0


class LayerRule:
    """What the library knows about one type of layers; see `register_rule`.

    A rule of an activation gives its `function` and its `lipschitz_constant`. A layer without an operation is
    opaque: it is called as Keras calls it, and shares no traced functions.
    """

    def function(self, layer: Any) -> Callable[..., tf.Tensor] | None:
        """The elementwise function f(x, *weights) that the layer computes, if it is one.

        Layers share traced functions only if this is the same object.
        """
        return None

    def operation(self, layer: Any, site: Site) -> Operation | None:
        """What the layer computes at a site: its value and derivatives. By default it applies `function`."""
        function = self.function(layer)
        return None if function is None else FunctionOperation(site.dtype, IdentityKey(function), True)

    def variables(self, layer: Any) -> list[Any]:
        """The variables behind the weights of the operation, one for each weight."""
        return []

    def weights(self, layer: Any, dtype: str) -> list[tf.Tensor]:
        """The weights, differentiable in the variables. By default the variables in this dtype."""
        return [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in self.variables(layer)]

    def lipschitz_constant(self, layer: Any) -> float | None:
        """The Lipschitz constant; None if unknown. By default the layer's attribute of this name.

        It holds in the norm of the layer's attribute `lipschitz_order`, or in every l^p norm without one.
        """
        return declared_constant(layer)

    def domain(self, layer: Any) -> Any:
        """The order of the norm of its inputs, if the layer prescribes one."""
        return None

    def bound(
        self,
        layer: Any,
        inputs: Sequence[TensorBound],
        shape: Any,
        certified: bool,
        weights: Sequence[tf.Tensor] | None,
    ) -> TensorBound:
        """The bound of the output. By default the sum over the inputs times `lipschitz_constant`.

        Args:
          layer: the layer.
          inputs: the bounds of its inputs. At least one is not fixed, and all that are not have one order.
          shape: the shape of the output, None if unknown.
          certified: whether the constant must be proved for the current weights.
          weights: the weights of the operation if they are not the layer's current ones.
        """
        constant = self.lipschitz_constant(layer)
        if constant is None:
            raise ValueError(unknown_constant(layer))
        live = [x for x in inputs if not x.is_fixed]
        check_order(layer, live[0].order)
        return TensorBound(sum(x.constant for x in live) * constant, live[0].order, shape)


_NO_RULE = LayerRule()


def register_rule(*kinds: type[keras.layers.Layer]) -> Callable[[Rule], Rule]:
    """Registers the decorated `LayerRule` for these exact types of layers, not for their subclasses.

    It teaches the library a layer: its derivatives, its Lipschitz constant, and when two networks compute the same,
    so that they share traced functions.

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
      *kinds: types of layers; a later rule replaces an earlier one.

    Returns:
      A decorator of a class whose constructor takes no arguments.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, rule()))
        return rule

    return register


def rule_of(layer: Any) -> LayerRule:
    """The rule of a layer's exact type. Without one, or if an attribute replaces a method, it has no operation."""
    return _NO_RULE if is_altered(layer) else _RULES.get(type(layer), _NO_RULE)


def is_altered(layer: Any) -> bool:
    """Whether an attribute of the instance replaces a method."""
    replaced = {name for name in vars(layer) if callable(getattr(type(layer), name, None))}
    return not replaced <= _MADE_BY_KERAS


class RuledLayer(SerializableLayer):
    """A layer that computes what its rule says, or the rule of the class that it extends."""

    def call(self, inputs: Any) -> tf.Tensor:
        rule = next(_RULES[kind] for kind in type(self).__mro__ if kind in _RULES)
        operation = rule.operation(self, Site(self.compute_dtype))
        assert operation is not None
        return operation(operation.cast(tf.nest.flatten(inputs)), rule.weights(self, self.compute_dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def declared_constant(layer: Any) -> float | None:
    """The attribute `lipschitz_constant`, if the class that defines the call or a subclass of it sets it."""
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
            f"only, but its input is in the {order_name(order)}-norm. Use another layer there, or other orders."
        )


def unknown_constant(layer: Any) -> str:
    """The message of the error for a layer whose Lipschitz constant is unknown."""
    name = f"'{layer.name}' ({type(layer).__name__})" if hasattr(layer, "name") else repr(layer)
    return (
        f"The Lipschitz constant of {name} is unknown. Give it a rule (tf_resflow.layers.register_rule) or an "
        "attribute `lipschitz_constant` (which a subclass that overrides `call` does not inherit), replace it by a "
        "layer of known constant, or pass lipschitz_constant= to the bijector or estimator."
    )


def order_name(order: Any) -> str:
    """The order of a norm in messages."""
    return f"{order.name} (learned)" if isinstance(order, LearnedOrder) else f"{order:g}"
