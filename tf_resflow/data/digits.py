"""The handwritten digits of scikit-learn."""

import numpy as np

from tf_resflow._internal.extras import extra
from tf_resflow.data.dataset import Dataset
from tf_resflow.data.splits import split_sizes

_NUM_DIGITS = 1497  # training and validation; the remaining 300 are for testing


def load_digits(*, flip: bool = False, crop_padding: int = 0, validation_fraction: float = 0.1) -> Dataset:
    """Loads the handwritten digits of scikit-learn, without a download.

    Pixels are integers 0, ..., 16. The splits are fixed: after a permutation with seed 0, the last 300 examples are
    for testing, and the last tenth of the 1,497 before them is for validation.

    Args:
      flip: See `Dataset`, also for `crop_padding`.
      validation_fraction: Fraction of the 1,497 examples for validation; 0 for none.

    Returns:
      A `Dataset` of event shape `(8, 8, 1)`, with 17 levels and 10 classes.

    References:
      E. Alpaydin, C. Kaynak. Optical recognition of handwritten digits. UCI Machine Learning Repository, 1998.
    """
    with extra("data"):
        from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(digits.images))
    num_train = split_sizes(_NUM_DIGITS, {"validation": validation_fraction}, "digits")["train"]
    splits = {"train": order[:num_train], "validation": order[num_train:_NUM_DIGITS], "test": order[_NUM_DIGITS:]}
    splits = {split: indices for split, indices in splits.items() if len(indices)}
    images = {split: digits.images[indices][..., np.newaxis] for split, indices in splits.items()}
    labels = {split: digits.target[indices] for split, indices in splits.items()}
    fields: dict = {"num_classes": 10, "flip": flip, "crop_padding": crop_padding}
    return Dataset.from_arrays("digits", images, levels=17, labels=labels, **fields)
