"""Settings of runs and models by name, and their comparison."""

import json
from collections.abc import Mapping
from typing import Any


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a dict of the dotted name of each field in nested dicts to its value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_fields(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the names of the settings that differ.

    Settings that only one of them has are ignored, because other versions of a class may have more or fewer.
    """
    common = [name for name in before if name in now]
    return [name for name in common if json.dumps(before[name]) != json.dumps(now[name])]  # as text, NaN equals NaN
