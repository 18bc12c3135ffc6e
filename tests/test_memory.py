"""Peak memory of a training step, with a process for each case, because a peak never falls."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEASURE = """
import json, sys
import keras, numpy as np, tensorflow as tf
import tf_resflow as resflow

num_blocks, num_terms = map(int, sys.argv[1:])

class Constant(resflow.logdet.Geometric):
    def sample(self, shape, seed):
        return tf.fill(shape, num_terms - 2)

def peak():
    # Not getrusage: its maximum survives fork and exec, and may be that of the parent.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

log_det = resflow.logdet.RussianRoulette(2, Constant(0.5))
block = resflow.flows.residual_image_block(log_det=log_det)
flow = resflow.flows.image_flow((28, 28, 1), (num_blocks,), 64, num_fc_blocks=0, block=block)
model = resflow.FlowModel(flow, (28, 28, 1), levels=256)
model.compile(optimizer=keras.optimizers.Adam(1e-3))
model.optimizer.build(model.trainable_variables)
step = tf.function(lambda x, seed: resflow.models.train_step(model, x, seed), autograph=False)
x = tf.constant(np.random.default_rng(0).integers(0, 256, [64, 28, 28, 1]), tf.uint8)
compiled = step.get_concrete_function(x, tf.constant([0, 0]))
start = peak()
for i in range(2):
    compiled(x, tf.constant([0, i]))
print(json.dumps(peak() - start))
"""


def growth(num_blocks, num_terms):
    """Peak above the start, in MB: the start is the traced, not yet executed step."""
    command = [sys.executable, "-c", MEASURE, *map(str, (num_blocks, num_terms))]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    growth = json.loads(done.stdout)
    assert growth > 50
    return growth


@pytest.fixture(scope="module")
def two_blocks():
    return growth(2, 4)


def test_memory_does_not_grow_with_the_number_of_terms(two_blocks):
    assert growth(2, 20) < 1.1 * two_blocks


def test_memory_does_not_keep_the_activations_of_a_block(two_blocks):
    """A block has at least ten activations of 12.8 MB (64 images, width 64); it keeps x, u, v."""
    assert (growth(8, 4) - two_blocks) / 6 < 40
