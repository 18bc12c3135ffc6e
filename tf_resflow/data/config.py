"""The fields that describe a data set, their defaults, and the paths among them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tf_resflow._internal.messages import suggest

PLACES = ("path", "path_validation", "path_test", "data_dir")
"""The fields that hold paths of files or folders."""

DEFAULTS: dict[str, Any] = {
    "name": "digits",
    "data_dir": "",
    "levels": 0,
    "split_train": "train",
    "split_validation": "",
    "split_test": "test",
    "download": False,
    "flip": False,
    "crop_padding": 0,
    "image_size": 0,
    "max_image_size": 0,
    "path": "",
    "path_validation": "",
    "path_test": "",
    "key": "",
    "validation_fraction": 0.1,
    "test_fraction": 0.1,
    "split_seed": 0,
    "skip_unreadable": False,
    "num_test": 10_000,
}
"""The default of each field of `load`, which are also the fields of the `data` section of a config."""


def with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given fields and the defaults of the others, also of those that are None.

    Raises:
      ValueError: If a name is unknown, or a value has a wrong type.
    """
    given_fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in fields.items():
        if name not in DEFAULTS:
            raise ValueError(f"Unknown field data.{name}; {suggest(name, DEFAULTS)}")
        expected = type(DEFAULTS[name])
        is_whole_number = expected is float and isinstance(value, int)
        if value is not None and not isinstance(value, expected) and not is_whole_number:
            raise ValueError(
                f"data.{name} is {value!r}, of the type {type(value)}. Set it to a value of the type "
                f"{expected.__name__}."
            )
    return DEFAULTS | given_fields


def check_paths(fields: Mapping[str, Any]) -> None:
    """Raises ValueError unless the files and folders of a data set exist."""
    if fields["name"] != "images":
        return
    if not fields["path"]:
        raise ValueError("config.data.path is missing: set it to the file or folder with your images.")
    for field in ("path", "path_validation", "path_test"):
        path = pathlib.Path(fields[field]).expanduser()
        if not path.exists():
            raise ValueError(f"config.data.{field}: there is no file or folder {path.absolute()}.")
