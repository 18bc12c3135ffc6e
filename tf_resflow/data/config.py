"""The `data` section of a config: its fields, their defaults and rules."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tf_resflow.config_fields import AT_LEAST_0, AT_LEAST_1, ConfigDict, Field, Rule, make_section
from tf_resflow.messages import suggest

PLACES = ("path", "path_validation", "path_test", "data_dir")
"""The fields that hold paths of files or folders."""

FIELDS = {
    "name": "digits",
    "data_dir": "",
    "levels": Field(0, Rule(lambda v: v == 0 or 2 <= v <= 256, "0 (the levels of the data) or in 2, ..., 256")),
    "split_train": "train",
    "split_validation": "",
    "split_test": "test",
    "download": False,
    "flip": False,
    "crop_padding": Field(0, AT_LEAST_0),
    "image_size": Field(0, AT_LEAST_0),
    "max_image_size": Field(0, AT_LEAST_0),
    "path": "",
    "path_validation": "",
    "path_test": "",
    "key": "",
    "validation_fraction": 0.1,
    "test_fraction": 0.1,
    "split_seed": 0,
    "skip_unreadable": False,
    "num_test": Field(10_000, AT_LEAST_1),
}


def default_config(**fields: Any) -> Any:
    """Returns the `data` section of a config, with all fields of `load`.

    - `name`: "digits", one of the eight 2-D densities (`DENSITIES`), "images" for your own images, or the name of
      an image data set in TensorFlow Datasets ("mnist", "tfds/mnist").
    - Your own images: `path`, `path_validation`, `path_test`, `key`, `test_fraction`, `split_seed`,
      `max_image_size` (0 for no maximum) and `skip_unreadable`. See `load_image_files`.
    - Images: `levels` and `image_size` (0 keeps those of the data), `flip` and `crop_padding`.
    - TensorFlow Datasets: `data_dir`, `download`, `split_train`, `split_validation` and `split_test`. If `data_dir`
      or `split_validation` is "", TFDS's default applies. See `load_tfds_images`.
    - 2-D densities: `num_test`.
    - All: `validation_fraction`, the fraction of the train split (for files, of all examples) that is held out for
      validation if there is no validation split; 0 for none. 2-D densities draw `num_test` new examples instead.

    Args:
      **fields: Values that override the defaults.

    Returns:
      An `ml_collections.ConfigDict`.
    """
    config = make_section(FIELDS)
    for field in fields:
        if field not in config:
            raise ValueError(f"Unknown field data.{field}; {suggest(field, config)}")
    config.update(fields)
    return config


def check_paths(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises ValueError unless the files and folders of a `data` section exist."""
    if config["name"] != "images":
        return
    if not config["path"]:
        raise ValueError("config.data.path is missing: set it to the file or folder with your images.")
    for field in ("path", "path_validation", "path_test"):
        path = pathlib.Path(config[field]).expanduser()
        if not path.exists():
            raise ValueError(f"config.data.{field}: there is no file or folder {path.absolute()}.")
