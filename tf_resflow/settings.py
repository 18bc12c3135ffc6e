"""Settings of runs and models by name, and their comparison."""

import json
import re
from collections.abc import Mapping
from typing import Any

# Settings that affect neither the weights at a given step nor the density. Of a run: how often it is evaluated and
# saved. Of a model: names, initial values, dtypes, and arguments of views.
_FREE = re.compile(
    r"config\.(eval|model\.estimator\.eval)\..*|config\.data\.(data_dir|download)|"
    r"config\.train\.(log_every|eval_every|checkpoint_every|keep|keep_best|patience)|"
    r"(len\()?model\.(.*\.)?("
    r"name|registered_name|module|build_config|compile_config|shared_object_id|dtype|autocast|trainable|seed|initial|"
    r"\w*initializer|\w*regularizer|\w*constraint|quantization_config|validate_args|allow_nan_stats|"
    r"log_det_estimator|evaluation_log_det_estimator|inverse_solver|lipschitz_constant|tolerance|max_iterations"
    r")([.[)].*)?"
)


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a dict of the dotted name of each field in nested dicts to its value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_section = isinstance(value, Mapping)
        flat |= flat_fields(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the names of the settings that differ and matter.

    Settings that only one of them has are ignored, because other versions of a class may have more or fewer.

    Args:
      before: Settings by name. The names of a run begin with "config.", those of a model with "model.".
      now: Settings to compare.
    """
    common = [name for name in before if name in now and not _FREE.fullmatch(name)]
    return [name for name in common if json.dumps(before[name]) != json.dumps(now[name])]  # as text, NaN equals NaN
