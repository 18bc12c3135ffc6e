"""The scikit-learn digits: 1,797 images of 8 x 8 pixels with 17 levels."""

__all__ = ["load_digits"]

import numpy as np

from tf_resflow.data.dataset import Dataset

_NUM_TRAIN = 1497


def load_digits(flip=False, crop_padding=0):
    """Loads the handwritten digits that come with scikit-learn; nothing is downloaded.

    The pixels are counts 0, ..., 16. The split is fixed: the first 1,497 examples of the
    permutation `np.random.RandomState(0).permutation(1797)` are for training, the last 300 for
    testing.

    Args:
        flip: whether the train stream mirrors images at random.
        crop_padding: pixels by which the train stream pads images, by reflection, before it crops
            them to their size at random.

    Returns:
        A `Dataset` of event shape `(8, 8, 1)` and 17 levels, with the 10 classes.

    References:
        E. Alpaydin, C. Kaynak. Optical recognition of handwritten digits. UCI Machine Learning
        Repository, 1998.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(digits.images))
    parts = {"train": order[:_NUM_TRAIN], "test": order[_NUM_TRAIN:]}
    return Dataset.from_arrays(
        "digits",
        {split: digits.images[part][..., np.newaxis] for split, part in parts.items()},
        levels=17,
        labels={split: digits.target[part] for split, part in parts.items()},
        num_classes=10,
        flip=flip,
        crop_padding=crop_padding,
    )
