"""The configuration of an experiment: the sections of the packages, and the `train` section."""

import inspect
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from tf_resflow.config_fields import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    IN_0_1,
    ConfigDict,
    Field,
    Rule,
    check_section,
    make_section,
    one_of,
    suggest,
)
from tf_resflow.data.config import FIELDS as DATA_FIELDS
from tf_resflow.evaluation.config import FIELDS as EVAL_FIELDS
from tf_resflow.flows.config import HYBRID_FIELDS, MODEL_FIELDS, check_model

__all__ = [
    "CONFIGS",
    "base_config",
    "config_of_file",
    "default_config",
    "flat_fields",
    "validate_config",
]

_PACKAGE = pathlib.Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "experiments" / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # the latter in a checkout

_TRAIN_FIELDS = {
    "steps": Field(3000, AT_LEAST_1),
    "batch_size": Field(64, AT_LEAST_1),
    "optimizer": Field("adamw", one_of("adam", "adamw", "muon")),
    "learning_rate": Field(1e-3, ABOVE_0),
    "warmup_steps": Field(100, AT_LEAST_0),  # half of the steps, if they leave none to a cosine
    "schedule": Field("constant", one_of("constant", "cosine")),  # after the warm-up
    "beta_2": Field(0.99, IN_0_1),
    "weight_decay": Field(5e-4, AT_LEAST_0),
    "ema_momentum": Field(0.999, IN_0_1),  # limit of the average's momentum; 0: no average
    "global_clipnorm": Field(0.0, AT_LEAST_0),  # 0: gradients are not clipped
    "log_every": Field(50, AT_LEAST_1),
    "eval_every": Field(500, AT_LEAST_1),
    "checkpoint_every": Field(500, AT_LEAST_1),
    "keep": Field(3, AT_LEAST_1),  # newest checkpoints to keep
    "keep_best": False,  # whether the result has the weights with the best validation score, not the last ones
    "patience": Field(0, AT_LEAST_0),  # evaluations without a better one, after which the run ends; 0: it does not
}

_FIELDS = {
    "seed": Field(0, Rule(lambda v: 0 <= v < 2**31, "in 0, ..., 2^31 - 1")),
    # "hybrid": p(x) and p(label | x), of labeled images.
    "task": Field("density", one_of("density", "hybrid")),
    "data": DATA_FIELDS,
    "model": MODEL_FIELDS,
    "hybrid": HYBRID_FIELDS,
    "train": _TRAIN_FIELDS,
    "eval": EVAL_FIELDS,
}


def default_config() -> Any:
    """The configuration that every config starts from.

    A locked `ConfigDict` takes new values of the same type for its fields, and no new field. Zero or None switches
    a field off where its comment says so.

    Returns:
      An `ml_collections.ConfigDict` with `seed`, `task` and the sections `data`, `model`, `hybrid`, `train`,
      `eval`.
    """
    return make_section(_FIELDS).lock()


def base_config(name: str) -> Any:
    """The config of a name, as `--config` takes it, to be changed in a config of your own.

    ```python
    def get_config():
        config = resflow.training.base_config("monotone:digits")
        config.train.steps = 500
        return config
    ```

    Args:
      name: a config of `configs/`, such as "digits"; or "CHANGE:CONFIG", where CHANGE is one of `configs/changes/`
        and CONFIG may be changed itself, such as "monotone:idensenet:digits". Three take other arguments:
        "images:SIZE", "ablations:NAME,CONFIG" and "hybrid:CONFIG,TRUNK,LAMBDA".

    Returns:
      A locked `ml_collections.ConfigDict`, see `default_config`.

    Raises:
      ValueError: when there is no such config; it lists those that there are.
    """
    stem, *arguments = name.split(":", 1)
    for folder in (CONFIGS, CONFIGS / "changes"):
        if (path := folder / f"{stem}.py").is_file():
            return config_of_file(path, *arguments)
    configs, changes = (sorted(path.stem for path in f.glob("*.py")) for f in (CONFIGS, CONFIGS / "changes"))
    raise ValueError(
        f"Unknown config {stem!r}; {suggest(stem, configs + changes)} Give one of {', '.join(configs)}; or "
        f"CHANGE:CONFIG, such as monotone:digits or monotone:idensenet:digits, where CHANGE is one of "
        f"{', '.join(changes)}."
    )


def config_of_file(path: pathlib.Path, *arguments: str) -> Any:
    """What `get_config(*arguments)` of a file returns."""
    functions = runpy.run_path(str(path))
    if "get_config" not in functions:
        raise ValueError(f"{path} has no function get_config, which returns the config.")
    get_config = functions["get_config"]
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        got = f"got {arguments[0]!r}" if arguments else "give one behind a colon"
        raise ValueError(f"The argument of {path.name} is wrong: {error}; {got}.") from None
    config = get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() of {path} must return a ConfigDict, as default_config(); got {config!r:.40}."
        )
    return config


def flat_fields(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """The fields of a config by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= {f"{key}.{name}": inner for name, inner in flat_fields(value).items()}
        else:
            flat[key] = value
    return flat


def validate_config(config: ConfigDict) -> None:
    """Checks the values of a configuration.

    Args:
      config: an `ml_collections.ConfigDict` with the fields of `default_config`.

    Raises:
      ValueError: names the key, its value and what it may be.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(f"A config is an ml_collections.ConfigDict, such as default_config(); got {config!r}.")
    check_section(config, _FIELDS)
    if config.model.kind == "vector" and config.task == "hybrid":
        raise ValueError("config.model.kind is 'vector'; with config.task = 'hybrid' it must be 'image'.")
    if config.model.condition and config.task == "hybrid":
        raise ValueError(
            "config.task is 'hybrid', whose classifier predicts the label: leave config.model.condition at ''."
        )
    if config.model.dequantization == "variational" and config.task == "hybrid":
        raise ValueError(
            "config.task is 'hybrid', whose classifier would be trained by the noise, too: leave "
            "config.model.dequantization at 'uniform'."
        )
    check_model(config.model)
