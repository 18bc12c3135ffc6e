import numpy as np
from sklearn import datasets

from tf_resflow.data import load_digits


def test_splits_partition_the_digits():
    dataset = load_digits()
    assert dataset.sizes == {"train": 1347, "validation": 150, "test": 300}
    assert dataset.event_shape == (8, 8, 1)
    ours = np.concatenate([dataset.array(split) for split in dataset.sizes])
    theirs = datasets.load_digits().images[..., np.newaxis]
    assert ours.dtype == np.uint8
    assert dataset.levels == 17 == ours.max() + 1
    np.testing.assert_array_equal(
        np.sort(ours.reshape(1797, 64), axis=0), np.sort(theirs.reshape(1797, 64), axis=0)
    )
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs.astype(np.uint8)))


def test_the_split_is_fixed():
    order = np.random.RandomState(0).permutation(1797)
    images = datasets.load_digits().images[..., np.newaxis]
    for fraction, num_train in [(0.1, 1347), (0.0, 1497)]:
        dataset = load_digits(validation_fraction=fraction)
        np.testing.assert_array_equal(dataset.array("test"), images[order[1497:]])
        np.testing.assert_array_equal(dataset.array("train"), images[order[:num_train]])
    assert "validation" not in dataset.sizes
