"""The flag `--config`: the name of a config of this package, or a file, and fields that it overrides."""

import pathlib
import sys
import traceback
from typing import Any

from absl import flags

from tf_resflow.config_fields import suggest
from tf_resflow.extras import extra
from tf_resflow.training.config import CONFIGS, base_config, config_of_file, flat_fields

__all__ = ["define_config"]


def define_config() -> None:
    """Defines `--config`."""
    with extra("training"):
        from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "Name or file of the configuration.")
    flags.FLAGS["config"].parser = _Parser()


class _Parser(flags.ArgumentParser):
    """Reads the config that `--config` names, and checks the names of the fields that other flags override."""

    def parse(self, argument: str) -> Any:
        file, *arguments = argument.split(":", 1)
        config = _read(pathlib.Path(file), *arguments) if file.endswith(".py") else base_config(argument)
        fields = flat_fields(config)
        for override in sys.argv[1:]:
            flag, _, field = override.lstrip("-").removeprefix("no").partition("=")[0].partition(".")
            if flag == "config" and field and field.partition("[")[0] not in fields:
                raise ValueError(f"the config has no field {field!r}; {suggest(field, fields)}")
        return config.lock()


def _read(path, *arguments):
    """The config of a file, which may import others of its folder: `from FOLDER import NAME`."""
    if not path.is_file():
        near = suggest(path.name, [file.name for file in path.parent.glob("*.py")])
        raise ValueError(f"there is no file {path}; {near}")
    sys.path.insert(0, str(path.absolute().parent.parent))
    try:
        return config_of_file(path, *arguments)
    except Exception as error:  # the code of the file may raise any
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, ValueError) and (not lines or CONFIGS in path.resolve().parents):
            raise  # an error of ours, about the argument
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
