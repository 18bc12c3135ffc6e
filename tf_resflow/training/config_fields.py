"""Config fields: default values, and rules that values must satisfy."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tf_resflow._internal.extras import extra

with extra("training"):
    from ml_collections import ConfigDict, config_dict


class Rule(NamedTuple):
    """A predicate for valid values. `expected` completes the message "it must be ..."."""

    holds: Callable[[Any], Any]
    expected: str


class Field(NamedTuple):
    """A config field with a rule. A default of None declares an optional float."""

    default: Any
    rule: Rule


class AnyType(NamedTuple):
    """A default of a field that accepts values of any type."""

    default: Any = None


def one_of(*names: str) -> Rule:
    """Returns the rule that a value must be one of the names."""
    return Rule(names.__contains__, "one of " + ", ".join(repr(name) for name in names))


AT_LEAST_0 = Rule(lambda v: v >= 0, "at least 0")
AT_LEAST_1 = Rule(lambda v: v > 0, "at least 1")
ABOVE_0 = Rule(lambda v: v > 0, "above 0")
IN_0_1 = Rule(lambda v: 0 <= v < 1, "at least 0 and below 1")
IS_SEED = Rule(lambda v: 0 <= v < 2**31, "in 0, ..., 2^31 - 1")


def make_section(fields: Mapping[str, Any]) -> ConfigDict:
    """Builds a config section. Each value is a `Field`, a default, or the dict of a nested section."""
    section = ConfigDict()
    for name, field in fields.items():
        default = field.default if isinstance(field, Field) else field
        if isinstance(default, AnyType):
            default = config_dict.FieldReference(default.default, field_type=object)
        default = make_section(default) if isinstance(default, dict) else default
        section[name] = config_dict.placeholder(float) if default is None else default
    return section


def check_section(section: ConfigDict, fields: Mapping[str, Any], name: str = "config") -> None:
    """Raises a ValueError for the first value in a section that breaks the rule of its field."""
    for key, field in fields.items():
        value = section[key]
        if isinstance(field, dict):
            check_section(value, field, f"{name}.{key}")
        elif isinstance(field, Field) and not field.rule.holds(value):
            raise ValueError(f"{name}.{key} is {value!r}; it must be {field.rule.expected}.")
