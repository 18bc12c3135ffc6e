"""Loads a data set from the `data` section of a config."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.messages import suggest
from tf_resflow.data.config import DEFAULTS, check_paths, with_defaults
from tf_resflow.data.dataset import Dataset
from tf_resflow.data.densities_2d import DENSITIES, load_density
from tf_resflow.data.digits import load_digits
from tf_resflow.data.files import read_array
from tf_resflow.data.image_files import load_image_files
from tf_resflow.data.tfds_images import load_tfds_images

tfds: Any = LazyPackage("tensorflow_datasets", "data")

_PIXELS = ("levels", "image_size", "flip", "crop_padding", "validation_fraction")
_FILES = ("path", "path_validation", "path_test", "key", "test_fraction", "split_seed", "skip_unreadable")
_FIELDS = {  # the fields that apply to each data set, apart from `name`, `data_dir` and `download`
    "images": (*_PIXELS, "max_image_size", *_FILES),
    "digits": _PIXELS,
    **dict.fromkeys(DENSITIES, ("num_test", "validation_fraction")),
}
_TFDS_FIELDS = (*_PIXELS, "split_train", "split_validation", "split_test")


def load(config: Mapping[str, Any]) -> Dataset:
    """Loads the `Dataset` that a config describes.

    The fields are those of the `data` section of `tf_resflow.training.default_config`:

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

    ```python
    import tf_resflow as resflow
    print(resflow.data.load({"name": "digits"}).event_shape)
    # (8, 8, 1)
    ```

    Args:
      config: Dict, or `ConfigDict`, of some of the fields; the rest have their defaults.

    Raises:
      ValueError: If a field or the name is unknown, or the data are missing or malformed.
    """
    config = with_defaults(config)
    name = config["name"]
    fields = {field: config[field] for field in _FIELDS.get(name, _TFDS_FIELDS)}
    foreign = set(DEFAULTS) - {"name", "data_dir", "download", *fields}
    changed = sorted(field for field in foreign if config[field] != DEFAULTS[field])
    if changed:
        raise ValueError(
            f"data.{changed[0]} does not apply to data.name = {name!r}, which has {', '.join(fields)}. Leave it at "
            "its default, or set data.name to 'images' for your own images."
        )
    check_paths(config)
    if name in DENSITIES:
        return load_density(name, config["num_test"], config["num_test"] if config["validation_fraction"] else 0)
    if name == "digits":
        if fields.pop("levels") not in (0, 17) or fields.pop("image_size") not in (0, 8):
            raise ValueError("digits have 17 levels and 8 x 8 pixels: leave data.levels and data.image_size at 0.")
        return load_digits(**fields)
    fields["levels"] = config["levels"] or 256
    if name == "images":
        return load_image_files(**fields)
    name = name.removeprefix("tfds/")
    _check_tfds_name(name, config["data_dir"])
    return load_tfds_images(name, config["data_dir"], download=config["download"], **fields)


def load_images(
    path: str | os.PathLike[str], *, event_shape: Sequence[int], levels: int, **options: Any
) -> tuple[np.ndarray, list[str] | None]:
    """Loads the images of all splits of a file or folder: uint8 `[num, *event_shape]`, and their paths or None.

    See `load_image_files` for the options.
    """
    files = None
    if levels & (levels - 1):  # not a power of two, as for digits
        array, _ = read_array(pathlib.Path(path).expanduser(), options.get("key"), ["labels"])
        examples = Dataset.from_arrays(str(path), {"all": array}, levels).array("all")
    else:
        images = load_image_files(path, test_fraction=0.0, validation_fraction=0.0, **options)
        examples = np.concatenate([images.array(split) for split in images.sizes]) // np.uint8(256 // levels)
        if images.files:
            files = list(itertools.chain.from_iterable(images.files[split] for split in images.sizes))
            if examples.shape[-1] == 1 and event_shape[-1] == 3:  # as in a folder of gray and color images
                examples = np.repeat(examples, 3, axis=-1)
    if examples.shape[1:] != tuple(event_shape):
        raise ValueError(f"{path} has examples of shape {examples.shape[1:]}; expected {tuple(event_shape)}.")
    return examples, files


def _check_tfds_name(name, data_dir):
    base = name.split("/")[0].split(":")[0]
    directory = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    prepared = sorted(p.name for p in directory.iterdir() if p.is_dir()) if directory.is_dir() else []
    known = tfds.list_builders(with_community_datasets=False)
    if base not in [*known, *prepared]:
        raise ValueError(
            f"Unknown data set {name!r}; {suggest(base, [*_FIELDS, *prepared, *known])} Known names are "
            f"{', '.join(_FIELDS)}; in {directory}: {', '.join(prepared) or 'nothing'}; and the image data sets of "
            "TensorFlow Datasets. For your own images, set data.name to images, and set data.path."
        )
