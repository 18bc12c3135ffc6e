"""Tests the peak memory of a training step in a separate process."""

import json
import os
import sys

import pytest

MEASURE = """
import dataclasses, json, pathlib, statistics
import keras, numpy as np, tensorflow as tf
import tf_resflow as resflow

@dataclasses.dataclass(frozen=True)
class Constant(resflow.logdet.Geometric):
    num_terms: int = 4

    def sample(self, shape, seed):
        return tf.fill(shape, self.num_terms - 2)

def memory(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024

kept = []

def measure(num_blocks, log_det):
    before = memory("VmRSS")
    block = resflow.flows.residual_image_block(log_det_estimator=log_det)
    flow = resflow.flows.image_flow((28, 28, 1), (num_blocks,), 64, num_fc_blocks=0, block=block)
    model = resflow.FlowModel(flow, (28, 28, 1), levels=256)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda x, seed: resflow.models.train_step(model, x, seed), autograph=False)
    x = tf.constant(np.random.default_rng(0).integers(0, 256, [64, 28, 28, 1]), tf.uint8)
    compiled = step.get_concrete_function(x, tf.constant([0, 0]))
    compiled(x, tf.constant([0, 0]))  # optimizes the graph and compiles its kernels
    kept.append(compiled)
    held, growths = memory("VmRSS") - before, []
    for seed in (1, 2, 3):
        start = memory("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current use
        compiled(x, tf.constant([0, seed]))
        growths.append(memory("VmHWM") - start)
    return statistics.median(growths), held

def growth(num_blocks, num_terms):
    return measure(num_blocks, resflow.logdet.RussianRoulette(2, Constant(num_terms=num_terms)))[0]

def held(num_blocks):
    return measure(num_blocks, resflow.logdet.PowerSeries(4))[1]

print(json.dumps([growth(1, 4), growth(1, 20), growth(3, 4), held(2), held(10)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(process):
    """The peak of a step minus the use between steps, in MB: for one block, for 5 times the terms, for 3 blocks.

    A block has at least ten activations of 12.8 MB (64 images, width 64), but keeps only x, u and v. Between steps,
    blocks hold their weights, the optimizer's state, and nodes of the graph, since they share traced functions.
    """
    # Without oneDNN's memory pool, freed memory returns to the system immediately.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    one, many_terms, three, two_held, ten_held = json.loads(
        process("-c", MEASURE, environment=environment, check=True).stdout
    )
    assert one > 50 and many_terms < 1.1 * one
    assert (three - one) / 2 < 40
    assert 0 < (ten_held - two_held) / 8 < 15
