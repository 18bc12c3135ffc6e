"""Prints what one of several workers takes and decodes of the first epoch of a streamed data set, as JSON.

An example is its number, 0, ..., 63. The stream, encoded, has numbers that are larger by 64 for each epoch.
"""

import json

import tensorflow as tf

from tf_resflow.data import Dataset
from tf_resflow.training import STRATEGIES
from tf_resflow.training.data import replica_batches

strategy = STRATEGIES["multiworker"]()
decoded = []


def stream(split, seed, skip):
    del split
    order = tf.random.experimental.stateless_shuffle(tf.range(64, dtype=tf.int64), seed)
    return tf.data.Dataset.from_tensor_slices(order + 64 * seed[1]).skip(skip)


def note(number):
    decoded.append(int(number))
    return (number % 64).astype("uint8")


def decode(number):
    return (tf.ensure_shape(tf.numpy_function(note, [number], tf.uint8, stateful=False), []),)


dataset = Dataset("numbers", (), 64, {"train": 64}, stream=stream, decode=decode)
batches = iter(replica_batches(strategy, dataset, 8, seed=3))
taken = [strategy.experimental_local_results(next(batches))[0].numpy().tolist() for _ in range(8)]
next(batches)  # of the second epoch: the first one is decoded
print(json.dumps([taken, [number for number in decoded if number < 64]]))
