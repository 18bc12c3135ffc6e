"""Keras configs for bijectors, estimators and solvers, including TFP's bijectors and distributions."""

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.private_api import object_sharing, record_sharing, sublayers

_PACKAGE = "tf_resflow"
_TFP_TYPES = (tfp.bijectors.Bijector, tfp.distributions.Distribution)
_NAMESPACES = {"bijectors": tfp.bijectors, "distributions": tfp.distributions}


def serialize(value: Any) -> Any:
    """Returns the config of a value in the format of `keras.saving.serialize_keras_object`.

    Unlike the Keras function, it also accepts bijectors and distributions of TFP with their variables, alone or
    inside other values.

    Raises:
      TypeError: If an object has no config.
      ValueError: If Keras could not find the class of an object when it loads the config.
    """
    if isinstance(value, Mapping):
        return {key: serialize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [serialize(item) for item in value]
    if isinstance(value, tfp.bijectors.AutoregressiveNetwork):
        return _wrapped(OfTFP(value))
    if isinstance(value, _TFP_TYPES) and not hasattr(value, "get_config"):
        return _wrapped(OfTFP(value))
    if isinstance(value, (tf.Variable, tfp.util.DeferredTensor)):
        config = _wrapped(OfVariable(value))
        record_sharing(value, config)
        return config
    if isinstance(value, Serializable) and not isinstance(value, keras.Layer):  # Keras would copy nested configs
        kind = type(value)
        config = {"class_name": kind.__name__, "config": value.get_config(), "module": kind.__module__}
        config["registered_name"] = keras.saving.get_registered_name(kind)
        record_sharing(value, config)
        return config
    if isinstance(value, types.FunctionType):
        check_registered(value)
    if isinstance(value, (np.dtype, type)):
        return tf.as_dtype(value).name
    return keras.saving.serialize_keras_object(value)


def _wrapped(wrapper):
    """Returns the config of a wrapper. Keras would record the id of the short-lived wrapper."""
    name = type(wrapper).__name__
    registered_name = f"{_PACKAGE}>{name}"
    return {
        "module": None,
        "class_name": name,
        "config": wrapper.get_config(),
        "registered_name": registered_name,
    }


def deserialize(config: Any) -> Any:
    """Returns the value of a config from `serialize`. Keras alone would treat some strings as custom objects."""
    if isinstance(config, list):
        return [deserialize(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    if "class_name" in config:
        return keras.saving.deserialize_keras_object(config)
    return {key: deserialize(item) for key, item in config.items()}


def instance(what: str, value: Any, base: type, kinds: Sequence[type]) -> Any:
    """Returns an argument that is an object or the snake-case name of one of the `kinds`, as an object.

    A ValueError names the argument, `what`, if it is a class, an unknown name, not callable, or of another base.
    """
    names = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in kinds}
    if isinstance(value, str) and value in names:
        return names[value]()
    is_other = isinstance(value, Serializable) and not isinstance(value, base)
    if is_other or not callable(value) or isinstance(value, type):
        advice = f"an instance, such as {kinds[0].__name__}(), or one of the names {', '.join(names)}"
        raise ValueError(f"{what} is {value!r}. Pass {advice}.")
    return value


def check_registered(value: Any) -> None:
    """Raises a ValueError if Keras cannot look up a function, or the class of an object or its sublayers."""
    kind = value if isinstance(value, types.FunctionType) else type(value)
    is_of_keras = kind.__module__.split(".")[0] == "keras"
    if not is_of_keras and keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is not kind:
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__} cannot be saved, because Keras could not find it when it loads "
            "the file. Decorate it with @keras.saving.register_keras_serializable()."
        )
    if isinstance(value, keras.Layer):
        for layer in sublayers(value):
            check_registered(layer)


def _is_ours(kind):
    return kind.__module__.startswith(f"{_PACKAGE}.")


class Serializable:
    """Mixin that gives an object a Keras config with its constructor arguments.

    The arguments are the fields of a dataclass, or the attribute `parameters`. Classes in this library are
    registered when they are defined. Other classes need the decorator
    `@keras.saving.register_keras_serializable()`. The arguments that their constructors were called with are
    recorded, so a subclass with more arguments needs no `get_config`.
    """

    _call: functools.partial | None = (
        None  # the call of a constructor outside the library; tf.Module looks into tuples
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        new = super().__new__
        instance = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
        constructing = _definers(cls, "__init__")[0]
        is_outside = issubclass(constructing, Serializable) and not _is_ours(constructing)
        if is_outside and _is_ours(_definers(cls, "get_config")[0]):
            object.__setattr__(instance, "_call", functools.partial(cls, *args, **kwargs))
        return instance

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _is_ours(cls):
            keras.saving.register_keras_serializable(_PACKAGE)(cls)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as a Keras config."""
        check_registered(self)
        with object_sharing():
            return serialize_arguments(self, constructor_arguments(self))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns an object built with the arguments in a config."""
        with object_sharing():
            return cls(**{name: deserialize(value) for name, value in config.items()})


class Settings(Serializable):
    """Mixin of frozen dataclasses. All of their state is in fields, so equal objects compute the same.

    Blocks share traced functions if their programs and settings are equal. A subclass with settings of its own must
    therefore be a frozen dataclass, too.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(
            f"{name!r} of {type(self).__name__} cannot be set, because it is frozen. For another value, use "
            "dataclasses.replace. In a subclass, declare a field, and decorate the class with "
            "@dataclasses.dataclass(frozen=True)."
        )


class SerializableLayer(Serializable, keras.layers.Layer):
    """Base class of layers that store each constructor argument in an attribute of the same name."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as a Keras config. Layers in it stay objects, so they stay shared."""
        config = super(Serializable, self).get_config()
        for kind in reversed(type(self).__mro__):
            if _is_ours(kind) and "__init__" in vars(kind):
                for name in list(inspect.signature(vars(kind)["__init__"]).parameters)[
                    1:-1
                ]:  # the last one is **kwargs
                    value = getattr(self, name)
                    config[name] = value if isinstance(value, keras.Layer) else serialize(value)
        arguments = as_called(self, config)
        recorded = {name: value for name, value in arguments.items() if value is not config.get(name)}
        without_layers = {name: value for name, value in recorded.items() if not isinstance(value, keras.Layer)}
        return arguments | serialize_arguments(self, without_layers)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns a layer built with the arguments in a config."""
        values = {name: value if name == "dtype" else deserialize(value) for name, value in config.items()}
        return super(Serializable, cls).from_config(values)


def serialize_arguments(value, arguments):
    """Returns the configs of the constructor arguments of an object. Errors name arguments that have none."""
    configs = {}
    for name, argument in arguments.items():
        try:
            configs[name] = serialize(argument)
        except (NotImplementedError, TypeError, ValueError) as error:
            if value._call is None:  # the error names a class or function that the user passed
                raise
            raise ValueError(
                f"{type(value).__name__} cannot be saved, because its argument {name!r} has no Keras config: "
                f"{error} Alternatively, define get_config and from_config in the class."
            ) from error
    return configs


def constructor_arguments(value):
    """Returns the constructor arguments of an object."""
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.init]
        return as_called(value, {field.name: getattr(value, field.name) for field in fields})
    if not hasattr(value, "parameters"):
        raise TypeError(f"{type(value).__name__} has no Keras config. Define its method get_config.")
    if getattr(value, "_call", None) is not None:
        return as_called(value, value.parameters)
    defaults = {key: known.default for key, known in inspect.signature(type(value).__init__).parameters.items()}
    return {
        key: argument
        for key, argument in value.parameters.items()
        if key in defaults and not (callable(argument) and argument is defaults[key])
    }


def as_called(value, arguments):
    """Returns the `arguments` of an object, or those of its recorded call if its class is outside the library.

    A constructor outside the library may have more arguments than its base class, and may pass on other values than
    it gets. The arguments that it names are therefore the recorded ones. Of those that it passes on as `*args` and
    `**kwargs`, the base class knows the current values.
    """
    call = value._call
    if call is None:
        return arguments
    constructing, base, *_ = _definers(type(value), "__init__")
    bound = inspect.signature(constructing.__init__).bind(value, *call.args, **call.keywords)
    names_of_base = list(inspect.signature(base.__init__).parameters)[1:]
    result: dict[str, Any] = {}
    for name, argument in list(bound.arguments.items())[1:]:
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            result |= {key: arguments.get(key, passed) for key, passed in argument.items()}
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            result |= {key: arguments[key] for key, _ in zip(names_of_base, argument, strict=False)}
        else:
            result[name] = argument
    return result


def _definers(kind, name):
    """Returns the class and its base classes that define a method, in the order of resolution."""
    return [base for base in kind.__mro__ if name in vars(base)]


def _with_dtype(value):
    """Converts NumPy scalars to tensors, because Keras would store them without their dtype."""
    return tf.constant(value) if isinstance(value, (np.floating, np.ndarray)) and not np.ndim(value) else value


@keras.saving.register_keras_serializable(_PACKAGE)
class OfTFP:
    """The config of a bijector, a network or a distribution of TFP whose class has a public name."""

    def __init__(self, value: Any):
        self._value = value

    def get_config(self) -> dict[str, Any]:
        """Returns the public name of the class and the constructor arguments."""
        kind = type(self._value)
        name = kind.__name__.removeprefix("_")  # tfb.Chain(...) and tfb.Invert(...) can be a _Chain and an _Invert
        for namespace, module in _NAMESPACES.items():
            if kind.__module__.startswith("tensorflow_probability.") and hasattr(module, name):
                if isinstance(self._value, tfp.bijectors.AutoregressiveNetwork):
                    arguments = self._value.get_config()
                else:
                    arguments = tf.nest.map_structure(_with_dtype, constructor_arguments(self._value))
                return {"of_tfp": f"{namespace}.{name}", "arguments": serialize(arguments)}
        raise ValueError(
            f"{self._value.name!r} is a {kind.__module__}.{kind.__name__}, which has no Keras config. Define "
            "get_config and from_config in the class. Subclasses of tf_resflow.bijectors.FlowBijector have both."
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns the bijector or the distribution, not a wrapper."""
        namespace, _, name = config["of_tfp"].partition(".")
        kind = getattr(_NAMESPACES.get(namespace), name, None)
        if kind is tfp.bijectors.AutoregressiveNetwork:
            arguments = deserialize(config["arguments"])
            network = kind(**arguments)
            if arguments.get("event_shape") is not None:
                network.build([None, *np.atleast_1d(arguments["event_shape"])])
            return network
        if not (isinstance(kind, type) and issubclass(kind, _TFP_TYPES)):
            raise ValueError(
                f"The config names {config['of_tfp']!r}. It must name a public bijector or distribution of TFP."
            )
        return kind(**deserialize(config["arguments"]))


@keras.saving.register_keras_serializable(_PACKAGE)
class OfVariable:
    """The config of a `tf.Variable`, or of a function of one, such as a `tfp.util.TransformedVariable`."""

    def __init__(self, value: tf.Variable | tfp.util.DeferredTensor):
        self._value = value

    def get_config(self) -> dict[str, Any]:
        """Returns the value and the settings of the variable, and the bijector that transforms it."""
        variable = self._value
        if isinstance(variable, tfp.util.DeferredTensor):
            bijector = getattr(variable.transform_fn, "__self__", None)  # of its method forward
            if not isinstance(bijector, tfp.bijectors.Bijector):
                raise ValueError(
                    f"{variable.name!r} is a tfp.util.DeferredTensor with the function {variable.transform_fn!r}, "
                    "which has no Keras config. Use a tfp.util.TransformedVariable with a bijector."
                )
            return {"variable": serialize(variable.pretransformed_input), "bijector": serialize(bijector)}
        return {
            "value": serialize(tf.constant(variable.numpy())),
            "trainable": bool(variable.trainable),
            "name": variable.name.partition(":")[0],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns the variable or the function of one, not a wrapper."""
        if "bijector" in config:
            return tfp.util.DeferredTensor(deserialize(config["variable"]), deserialize(config["bijector"]))
        return tf.Variable(deserialize(config["value"]), trainable=config["trainable"], name=config["name"])
