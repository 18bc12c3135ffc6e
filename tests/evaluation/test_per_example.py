import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.evaluation import per_example


@pytest.mark.parametrize("replicas", [1, 2])
def test_nests_in_and_out(two_replicas, replicas):
    """Of 10 rows in batches of 4, 4 and 2: each comes out once, at its place, with the seed of its batch."""
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    x = np.arange(30.0).reshape(10, 3).astype("float32")
    labels = np.arange(10)
    batches = [(x[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)]

    def function(batch, seed):
        x, labels = batch
        return {"sum": tf.reduce_sum(x, -1), "seeds": tf.tile(seed[None], [x.shape[0], 1])}, labels

    values, again = per_example.PerExample(function, strategy)(batches, seed=7)
    np.testing.assert_array_equal(values["sum"], x.sum(-1))
    np.testing.assert_array_equal(values["seeds"], [[7, i // 4] for i in range(10)])
    np.testing.assert_array_equal(again, labels)
