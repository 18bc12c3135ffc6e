"""The config of a run on a table: its fields, their defaults and rules."""

import csv
import pathlib
from collections.abc import Iterable
from typing import Any

from tf_resflow.data.files import check_table
from tf_resflow.tables.arguments import ARGUMENTS
from tf_resflow.tables.columns.kinds import Bounds, parse_kinds
from tf_resflow.training import config_fields
from tf_resflow.training.config_fields import IN_0_1, IS_SEED, AnyType, ConfigDict, Field, Rule, one_of

TASK = "table"
"""The value of `config.task` of a run on a table."""

READ_OPTIONS = (
    *("comment", "date_format", "decimal", "encoding", "engine", "header", "na_values", "sep", "sheet_name"),
    *("skiprows", "thousands"),
)
"""The arguments of pandas.read_csv and pandas.read_excel that a config can have."""

FIELDS = {
    "seed": Field(0, IS_SEED),
    "task": Field(TASK, one_of(TASK)),
    "data": {
        "path": "",
        "path_test": "",
        "key": "",
        "columns": AnyType(""),
        "exclude_columns": AnyType(""),
        "condition_columns": AnyType(""),
        "kinds": "",
        "bounds": "",
        "test_fraction": Field(0.1, IN_0_1),
        "split_seed": Field(0, IS_SEED),
        "read_options": dict.fromkeys(READ_OPTIONS, AnyType()),
    },
    "density": {
        name: Field(
            AnyType(argument.default) if argument.default in (None, "auto") else argument.default,
            Rule(argument.is_valid, argument.expected),
        )
        for name, argument in ARGUMENTS.items()
    },
}


def default_config() -> Any:
    """Returns the config of a run on a table, which `configs/tabular.py` returns.

    - `seed` is the `random_state` of `FlowDensity`, and `density` has its arguments of the same names.
    - `data.path` and `data.path_test` are files. Without `path_test`, a share `test_fraction` of the rows, drawn
      with `split_seed`, is for testing. `key` is the name of an array in an .npz file.
    - `data.columns`, `exclude_columns` and `condition_columns` are names or numbers from 1: a sequence, or a text
      in which commas separate them. "" means all columns, or none.
    - `data.kinds` is a text such as "wind: number; temp: 0.1; rooms: whole; code: category; size: S < M < L; rain:
      {0}; sold: day + year", and `data.bounds` one such as "price: 0..; share: 0..1".
    - `data.read_options` are arguments of `pandas.read_csv` or `pandas.read_excel`.

    Returns:
      A locked `ml_collections.ConfigDict`.
    """
    return config_fields.make_section(FIELDS).lock()


def validate_config(config: ConfigDict) -> None:
    """Raises ValueError for the first invalid value in a config that has the fields of `default_config`."""
    config_fields.check_section(config, FIELDS)
    parse_kinds(config.data.kinds)
    parse_bounds(config.data.bounds)


def check_paths(data: ConfigDict) -> None:
    """Raises ValueError unless the files of a `data` section exist and have the suffix of a table."""
    if not data.path:
        raise ValueError("config.data.path is missing: set it to the file with your table.")
    for path in filter(None, (data.path, data.path_test)):
        check_table(pathlib.Path(path).expanduser())


def parse_names(columns: Any) -> list[str]:
    """Returns the names in a field of columns. In a text, a name that contains a comma is in double quotes."""
    if isinstance(columns, str):
        return [name.strip() for row in csv.reader([columns], skipinitialspace=True) for name in row]
    return [str(name) for name in (columns if isinstance(columns, Iterable) else [columns])]


def parse_bounds(text: str) -> dict[str, Bounds]:
    """Parses the field `data.bounds` of a config, such as "price: 0..; share: 0..1"."""
    bounds = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        name, _, ends = entry.rpartition(":")
        try:
            low, high = (float(end) if end.strip() else None for end in ends.split(".."))
        except ValueError:
            name = ""
        if not name:
            raise ValueError(f"data.bounds = {text!r} is malformed. Write it like 'price: 0..; share: 0..1'.")
        bounds[name.strip()] = low, high
    return bounds
