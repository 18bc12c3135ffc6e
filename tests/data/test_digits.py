import numpy as np
from sklearn import datasets

from tf_resflow.data import load_digits


def test_the_split_is_fixed():
    digits, order = datasets.load_digits(), np.random.RandomState(0).permutation(1797)
    for fraction, num_train in [(0.1, 1347), (0.0, 1497)]:
        dataset = load_digits(validation_fraction=fraction)
        parts = {"train": order[:num_train], "validation": order[num_train:1497], "test": order[1497:]}
        parts = {split: part for split, part in parts.items() if len(part)}
        assert dataset.sizes == {split: len(part) for split, part in parts.items()}
        for split, part in parts.items():
            images, labels = next(iter(dataset.eval_batches(split, 1797, labels=True)))
            np.testing.assert_array_equal(images, digits.images[part][..., np.newaxis])
            np.testing.assert_array_equal(labels, digits.target[part])
            assert images.dtype == np.uint8
    assert (dataset.event_shape, dataset.levels, dataset.num_classes) == ((8, 8, 1), 17, 10)
