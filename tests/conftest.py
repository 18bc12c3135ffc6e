"""Two logical CPUs, so that tests can run on a MirroredStrategy of two replicas; a patient garbage collector."""

import gc

import pytest
import tensorflow as tf

import tf_resflow  # noqa: F401

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Tracing makes many objects that stay: the collector need not search what was imported each time, nor so often.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
