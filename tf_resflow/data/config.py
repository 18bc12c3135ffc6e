"""The `data` section of a config: its fields and their defaults."""

from tf_resflow.extras import extra

with extra("training"):
    import ml_collections

__all__ = ["default_config", "suggest"]

import difflib


def default_config(**fields):
    """Returns the `data` section of a config, with every field that `load` knows.

    - `name`: "digits", one of the eight 2-D densities (`DENSITIES`), "images" or "tabular" for files of
      one's own, or the name of an image data set in TensorFlow Datasets ("mnist", "tfds/mnist").
    - Images, tables: `path`, a folder or file (see `load_image_files`, `load_tabular`), `path_validation`,
      `path_test`, `key` of a .npz file, `test_fraction`, `split_seed`.
    - All images: `levels` (0 keeps the data's own: 256, or 17 for digits), `image_size` (0 keeps the
      data's own), and of the train stream `flip` and `crop_padding`.
    - TensorFlow Datasets: `data_dir` ("" is TFDS's default), `download`, `split_train`,
      `split_validation` ("" for that of TFDS, if any), `split_test`.
    - 2-D densities: `num_test`.
    - All: `validation_fraction`, the fraction of the train split that is held back for validation where there is no
      such split; 0 for none. For files it is of all examples; densities, which have no end, draw `num_test` more.

    Args:
        **fields: values that replace the defaults.

    Returns:
        An `ml_collections.ConfigDict`.
    """
    config = ml_collections.ConfigDict(
        {
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
            "path": "",
            "path_validation": "",
            "path_test": "",
            "key": "",
            "validation_fraction": 0.1,
            "test_fraction": 0.1,
            "split_seed": 0,
            "num_test": 10_000,
        }
    )
    for field in fields:
        if field not in config:
            raise ValueError(f"Unknown field data.{field}; {suggest(field, config)}")
    config.update(fields)
    return config


def suggest(word, known):
    """The end of a message: which of the known names is most like the word."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "nothing has a similar name."
