"""Prints as JSON which examples one of two workers receives and decodes, and its error for a different config.

The examples of the streamed data set are 0, ..., 63. In the encoded stream the numbers are larger by 64 in each
further epoch. The argument is a workdir. The seed of the config is the worker's index, so the configs differ.
"""

import json
import sys

import tensorflow as tf

from tf_resflow.data import Dataset
from tf_resflow.training import default_config, train
from tf_resflow.training.strategies import STRATEGIES, replica_batches

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
next(batches)  # a batch of the second epoch, so all of the first epoch is decoded

config = default_config()
config.seed = strategy.cluster_resolver.task_id
try:
    train(config, sys.argv[1], strategy=strategy, progress=False)
    error = ""
except ValueError as raised:
    error = str(raised)
print(json.dumps([taken, [number for number in decoded if number < 64], error]))
