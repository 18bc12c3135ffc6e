"""The scikit-learn digits: 1,797 images of 8 x 8 pixels with 17 levels."""

__all__ = ["load_digits"]

import numpy as np

from tf_resflow.data.dataset import Dataset

_NUM_TRAIN = 1497


def load_digits(flip=False):
    """Loads the handwritten digits that come with scikit-learn; nothing is downloaded.

    The pixels are counts 0, ..., 16. The split is fixed: the first 1,497 examples of the
    permutation `np.random.RandomState(0).permutation(1797)` are for training, the last 300 for
    testing.

    Args:
        flip: whether the train stream mirrors images at random.

    Returns:
        A `Dataset` of event shape `(8, 8, 1)` and 17 levels.

    References:
        E. Alpaydin, C. Kaynak. Optical recognition of handwritten digits. UCI Machine Learning
        Repository, 1998.
    """
    from sklearn import datasets

    images = datasets.load_digits().images[..., np.newaxis]
    order = np.random.RandomState(0).permutation(len(images))
    splits = {"train": images[order[:_NUM_TRAIN]], "test": images[order[_NUM_TRAIN:]]}
    return Dataset.from_arrays("digits", splits, levels=17, flip=flip)
