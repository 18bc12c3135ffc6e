import numpy as np
from sklearn import datasets

from tf_resflow.data import load_digits


def test_splits_partition_the_digits():
    dataset = load_digits()
    assert dataset.sizes == {"train": 1497, "test": 300}
    assert dataset.event_shape == (8, 8, 1)
    ours = np.concatenate([dataset.array("train"), dataset.array("test")])
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
    np.testing.assert_array_equal(load_digits().array("test"), images[order[1497:]])
