import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.data import Dataset
from tf_resflow.training.loop import initial_batch
from tf_resflow.training.strategies import replica_batches


@pytest.fixture(scope="module")
def dataset():
    images = np.random.default_rng(0).integers(256, size=[30, 4, 6, 3]).astype(np.uint8)
    fields = {"labels": {"train": np.arange(30)}, "num_classes": 30, "flip": True}
    return Dataset.from_arrays("images", {"train": images}, 256, **fields)


def test_replicas_divide_the_batches_of_one_device(dataset, two_replicas):
    one = replica_batches(tf.distribute.get_strategy(), dataset, 8, 5, 2, labels=True)
    two = replica_batches(two_replicas, dataset, 8, 5, 2, labels=True)
    expected = dataset.train_batches(8, 5, 2, labels=True)
    for whole, batch, parts in itertools.islice(zip(expected, one, two, strict=True), 4):
        for tensor, same, replicas in zip(whole, batch, parts, strict=True):
            np.testing.assert_array_equal(same, tensor)
            values = two_replicas.experimental_local_results(replicas)
            assert [value.device[-5:] for value in values] == ["CPU:0", "CPU:1"]
            assert all(value.dtype == tensor.dtype for value in values)
            np.testing.assert_array_equal(np.concatenate(values), tensor)
    assert one.element_spec[0] == tf.TensorSpec([8, 4, 6, 3], tf.uint8)


def test_one_gpu_gets_its_batches_ahead(dataset, monkeypatch):
    """A second logical CPU plays the role of the GPU."""
    cpus = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: {"GPU": cpus[1:], "CPU": cpus}[kind])
    batches = replica_batches(tf.distribute.get_strategy(), dataset, 8, 5)
    for x, expected in itertools.islice(zip(batches, dataset.train_batches(8, 5), strict=True), 4):
        assert x.device.endswith("CPU:1") and x.dtype == tf.uint8
        np.testing.assert_array_equal(x, expected)


def test_initial_examples(dataset, make_config):
    """A model is initialized on one batch, but on at least 64 examples if available."""
    many = Dataset.from_arrays("many", {"train": np.zeros([120, 2])})
    for data, batch_size, expected in ((many, 16, 64), (many, 100, 100), (dataset, 8, 30)):
        assert len(initial_batch(make_config(train__batch_size=batch_size), data)) == expected
