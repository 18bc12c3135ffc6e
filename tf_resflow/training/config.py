"""Configs of runs: their fields, defaults and rules. Those of the model are in `model_config`."""

import inspect
import pathlib
import runpy
from typing import Any

from tf_resflow._internal.messages import suggest
from tf_resflow.data import config as data_config
from tf_resflow.training import config_fields
from tf_resflow.training.config_fields import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    IN_0_1,
    IS_SEED,
    ConfigDict,
    Field,
    Rule,
    one_of,
)
from tf_resflow.training.model_config import HYBRID_FIELDS, MODEL_FIELDS, check_model

_PACKAGE = pathlib.Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "experiments" / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # the latter in a checkout

_DATA_RULES = {
    "levels": Rule(lambda v: v == 0 or 2 <= v <= 256, "0 (the levels of the data) or in 2, ..., 256"),
    "crop_padding": AT_LEAST_0,
    "image_size": AT_LEAST_0,
    "max_image_size": AT_LEAST_0,
    "num_test": AT_LEAST_1,
}

_DATA_FIELDS = {
    name: Field(default, _DATA_RULES[name]) if name in _DATA_RULES else default
    for name, default in data_config.DEFAULTS.items()
}

_TRAIN_FIELDS = {
    "steps": Field(3000, AT_LEAST_1),
    "batch_size": Field(64, AT_LEAST_1),
    "optimizer": Field("adamw", one_of("adam", "adamw", "muon")),
    "learning_rate": Field(1e-3, ABOVE_0),
    "warmup_steps": Field(100, AT_LEAST_0),
    "schedule": Field("constant", one_of("constant", "cosine")),  # after the warm-up
    "beta_2": Field(0.99, IN_0_1),
    "weight_decay": Field(5e-4, AT_LEAST_0),
    "ema_momentum": Field(0.999, IN_0_1),  # largest momentum of the averaged weights; 0: no averaging
    "global_clipnorm": Field(0.0, AT_LEAST_0),  # 0: no gradient clipping
    "log_every": Field(50, AT_LEAST_1),
    "eval_every": Field(500, AT_LEAST_1),
    "checkpoint_every": Field(500, AT_LEAST_1),
    "keep": Field(3, AT_LEAST_1),  # number of newest checkpoints to keep
    "keep_best": False,  # whether to use the weights with the best validation score instead of the last ones
    "patience": Field(0, AT_LEAST_0),  # end after this many evaluations without a better score; 0: never
}

_EVAL_FIELDS = {
    "split": Field("test", one_of("test", "validation", "train")),
    "batch_size": Field(100, AT_LEAST_1),
    "num_examples": Field(0, AT_LEAST_0),  # evaluate only the first num_examples; 0: all
    "num_samples": Field(64, AT_LEAST_1),  # samples in the grid of images
}

_FIELDS = {
    "seed": Field(0, IS_SEED),
    # "hybrid": both p(x) and p(label | x), for labeled images
    "task": Field("density", one_of("density", "hybrid")),
    "data": _DATA_FIELDS,
    "model": MODEL_FIELDS,
    "hybrid": HYBRID_FIELDS,
    "train": _TRAIN_FIELDS,
    "eval": _EVAL_FIELDS,
}

FREE_FIELDS = frozenset(
    (
        *("data.data_dir", "data.download"),
        *(f"model.estimator.eval.{name}" for name in MODEL_FIELDS["estimator"]["eval"]),
        *("train.log_every", "train.eval_every", "train.checkpoint_every"),
        *("train.keep", "train.keep_best", "train.patience"),
        *(f"eval.{name}" for name in _EVAL_FIELDS),
    )
)
"""The fields that may change when a run resumes: they affect neither the weights of a step nor the density."""


def default_config() -> Any:
    """Returns the config that every other config starts from.

    Returns:
      A locked `ml_collections.ConfigDict` with `seed`, `task` and the sections `data`, `model`, `hybrid`, `train`
      and `eval`. Its fields accept new values of the same type.
    """
    return config_fields.make_section(_FIELDS).lock()


def base_config(name: str) -> Any:
    """Returns a config by name, as in `--config`, locked like `default_config`. Use it as the base of your own.

    ```python
    def get_config():
        config = resflow.training.base_config("monotone:digits")
        config.train.steps = 500
        return config
    ```

    Args:
      name: Name of a config in `configs/`, such as "digits"; or "CHANGE:CONFIG", where CHANGE is in
        `configs/changes/`. CONFIG may be changed itself, as in "monotone:idensenet:digits". Three names have other
        arguments: "images:SIZE", "ablations:NAME,CONFIG" and "hybrid:CONFIG,TRUNK,LAMBDA".
    """
    stem, *arguments = name.split(":", 1)
    for folder in (CONFIGS, CONFIGS / "changes"):
        path = folder / f"{stem}.py"
        if path.is_file():
            try:
                return load_config_file(path, *arguments)
            except (AttributeError, KeyError) as error:
                if folder == CONFIGS:
                    raise
                raise ValueError(
                    f"{name}: {stem} does not apply to this config ({error}). Choose another one."
                ) from None
    configs, changes = (sorted(path.stem for path in f.glob("*.py")) for f in (CONFIGS, CONFIGS / "changes"))
    hint = suggest(stem, configs + changes)
    known = f"{', '.join(configs)}; or CHANGE:CONFIG, such as monotone:digits, with one of {', '.join(changes)}"
    raise ValueError(f"Unknown config {stem!r}; {hint} Give one of {known}.")


def load_config_file(path: pathlib.Path, *arguments: str) -> Any:
    """Calls `get_config(*arguments)` in a file and returns the config."""
    functions = runpy.run_path(str(path))
    if "get_config" not in functions:
        raise ValueError(f"{path} has no function get_config. Define get_config() in it, which returns the config.")
    get_config = functions["get_config"]
    if arguments and not inspect.signature(get_config).parameters:
        raise ValueError(
            f"The config {path.stem!r} takes no argument, but got {arguments[0]!r}. Leave out the text after the "
            "colon, and set fields with flags, such as --config.data.path."
        )
    config = get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config() of {path} must return a ConfigDict; got {config!r:.40}.")
    return config


def validate_config(config: ConfigDict) -> None:
    """Raises ValueError for the first invalid value in a config that has the fields of `default_config`."""
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config must be an ml_collections.ConfigDict, such as default_config(); got {config!r}.")
    config_fields.check_section(config, _FIELDS)
    for field, expected in {"kind": "image", "condition": "", "dequantization": "uniform"}.items():
        value = config.model[field]
        if config.task == "hybrid" and value != expected:
            raise ValueError(
                f"config.model.{field} is {value!r}, but it must be {expected!r} if config.task is 'hybrid'."
            )
    check_model(config.model)
