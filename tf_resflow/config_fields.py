"""The fields of a config: their defaults, and rules for their values."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tf_resflow.extras import extra

with extra("training"):
    from ml_collections import ConfigDict, config_dict


class Rule(NamedTuple):
    """What a value must be: a predicate, and the end of the message "it must be ..."."""

    holds: Callable[[Any], Any]
    expected: str


class Field(NamedTuple):
    """A field with a rule. A default of None is that of a float that may be absent."""

    default: Any
    rule: Rule


def one_of(*names: str) -> Rule:
    """The rule of a choice between names."""
    return Rule(names.__contains__, "one of " + ", ".join(repr(name) for name in names))


AT_LEAST_0 = Rule(lambda v: v >= 0, "at least 0")
AT_LEAST_1 = Rule(lambda v: v > 0, "at least 1")
ABOVE_0 = Rule(lambda v: v > 0, "above 0")
IN_0_1 = Rule(lambda v: 0 <= v < 1, "at least 0 and below 1")


def make_section(fields: Mapping[str, Any]) -> ConfigDict:
    """Makes a section of a config from names and a `Field`, a default, or the fields of an inner section.

    A default of `object` makes a field of any type, which is None.
    """
    section = ConfigDict()
    for name, field in fields.items():
        default = field.default if isinstance(field, Field) else field
        default = make_section(default) if isinstance(default, dict) else default
        is_absent = default is None or default is object
        section[name] = config_dict.placeholder(default or float) if is_absent else default
    return section


def check_section(section: ConfigDict, fields: Mapping[str, Any], name: str = "config") -> None:
    """Raises ValueError for the first value of a section that breaks the rule of its field."""
    for key, field in fields.items():
        value = section[key]
        if isinstance(field, dict):
            check_section(value, field, f"{name}.{key}")
        elif isinstance(field, Field) and not field.rule.holds(value):
            raise ValueError(f"{name}.{key} is {value!r}; it must be {field.rule.expected}.")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: which of the known names is most like it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "nothing has a similar name."
