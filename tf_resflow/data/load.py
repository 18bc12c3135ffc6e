"""A data set from the `data` section of a config."""

__all__ = ["load"]

import pathlib

from tf_resflow.data.config import default_config, suggest
from tf_resflow.data.densities_2d import DENSITIES, load_density
from tf_resflow.data.digits import load_digits
from tf_resflow.data.images import load_images
from tf_resflow.data.tabular import load_tabular

_OF_IMAGES = ("levels", "flip", "crop_padding", "image_size")


def load(config):
    """Loads the data set that a config describes.

    ```python
    import tf_resflow as resflow
    print(resflow.data.load({"name": "digits"}).event_shape)
    # (8, 8, 1)
    ```

    Args:
        config: mapping of some of the fields of `default_config`; the others take their defaults.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: if a field or the name is unknown, or the data are missing or malformed.
    """
    config = default_config(**dict(config))
    name = config.name
    if name in DENSITIES:
        _reject(config, *_OF_IMAGES)
        return load_density(name, config.num_test)
    if name == "tabular":
        _reject(config, *_OF_IMAGES)
        fields = ["path", "path_test", "path_validation", "key"]
        fields += ["test_fraction", "validation_fraction", "split_seed"]
        return load_tabular(**{field: config[field] for field in fields})
    if name == "digits":
        if config.levels not in (0, 17):
            raise ValueError(f"digits have 17 levels, not {config.levels}: set levels = 0.")
        if config.image_size not in (0, 8):
            raise ValueError(f"digits are 8 x 8, not of size {config.image_size}: set image_size = 0.")
        return load_digits(config.flip, config.crop_padding)
    _check_is_name(name)
    name = name.removeprefix("tfds/")
    _check_image_name(name, config.data_dir)
    fields = ["data_dir", "split_train", "split_test", "split_validation", "download"]
    fields = {field: config[field] for field in (*fields, "image_size", "flip", "crop_padding")}
    return load_images(name, levels=config.levels or 256, **fields)


def _check_is_name(name):
    if name.startswith(("/", "~", ".")) or name.endswith((".npy", ".npz", ".csv")):
        raise ValueError(
            f"data.name is {name!r}, a path. For a table set data.name = 'tabular' and data.path = {name!r}; for "
            "images data.name is the name of their data set, and data.data_dir the folder that it is in."
        )


def _check_image_name(name, data_dir):
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    directory = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    known = tfds.list_builders(with_community_datasets=False)
    if base in known or (base and (directory / base).is_dir()):
        return
    ours = ["digits", "tabular", *DENSITIES]
    found = sorted(p.name for p in directory.iterdir() if p.is_dir()) if directory.is_dir() else []
    raise ValueError(
        f"Unknown data set {name!r}; {suggest(base, ours + found + known)} Known are "
        f"{', '.join(ours)}; in {directory}: {', '.join(found) or 'nothing'}; and the image data "
        "sets of TensorFlow Datasets. Images of your own become a data set by "
        "tfds.dataset_builders.store_as_tfds_dataset."
    )


def _reject(config, *fields):
    for field in fields:
        if config[field]:
            raise ValueError(
                f"data.{field} = {config[field]} is for images, but {config.name!r} holds vectors. "
                f"Leave {field} at {default_config()[field]}."
            )
