import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.evaluation import held_out


class SumOfSquares:
    """Stands in for a FlowModel: the loss of an example is known."""

    def __init__(self):
        self.traces = 0

    def loss_per_example(self, x, seed, evaluation):
        assert evaluation
        self.traces += 1
        return tf.reduce_sum(tf.square(x), axis=-1)


def batches(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("size", [4, 7, 23, 50])
def test_partial_batches_count_once(two_replicas, replicas, size):
    x = np.random.default_rng(0).normal(size=[23, 3]).astype(np.float32)
    model = SumOfSquares()
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    evaluate = held_out.HeldOut(model, strategy)
    score = evaluate(batches(x, size), seed=0)
    losses = np.sum(x.astype(np.float64) ** 2, axis=-1)
    assert score.mean == pytest.approx(losses.mean(), rel=1e-6)
    assert score.stderr == pytest.approx(losses.std(ddof=1) / np.sqrt(23), rel=1e-6)
    assert score.num_examples == 23
    assert evaluate(batches(x, size), seed=1) == score
    assert model.traces == replicas


def test_no_example_is_an_error():
    with pytest.raises(ValueError, match="no example"):
        held_out.HeldOut(SumOfSquares())([], seed=0)
