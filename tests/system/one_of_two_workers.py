"""Prints as JSON what one of two workers takes, decodes, and is told of a config that is not that of the other.

It takes the first epoch of a streamed data set. An example is its number, 0, ..., 63. The stream, encoded, has
numbers that are larger by 64 for each epoch. The argument is the workdir of a run whose seed is the worker's.
"""

import json
import sys

import tensorflow as tf

from tf_resflow.data import Dataset
from tf_resflow.training import default_config, train
from tf_resflow.training.data import replica_batches
from tf_resflow.training.strategies import STRATEGIES

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

config = default_config()
config.seed = strategy.cluster_resolver.task_id
try:
    train(config, sys.argv[1], strategy=strategy, progress=False)
    error = ""
except ValueError as raised:
    error = str(raised)
print(json.dumps([taken, [number for number in decoded if number < 64], error]))
