"""Times training steps of a residual block with kernels normalized by estimates or upper bounds of their norms.

    python benchmarks/compare_normalizations.py --shapes=10 --width=64 --batch=256
    python benchmarks/compare_normalizations.py --shapes=32x32x3,16x16x12,8x8x48 --width=512 --batch=32

Steps with both normalizations alternate, and each includes the update of the layers' norms. The table lists the
median processor seconds of a step over all threads, and the median of the ratios. If other programs are running,
set TF_NUM_INTRAOP_THREADS=1 and TF_NUM_INTEROP_THREADS=1, so that no thread waits for another.
"""

import math
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags

import tf_resflow as resflow

_SHAPES = flags.DEFINE_list("shapes", ["10"], "Event shapes: SIZE for vectors, HEIGHTxWIDTHxCHANNELS for images.")
_WIDTH = flags.DEFINE_integer("width", 64, "Hidden units or channels.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 256, "Batch size.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "Number of timed steps per normalization.", lower_bound=1)

NORMALIZATIONS = ("induced", "schatten")


def _is_shape(text):
    sizes = text.split("x")
    return len(sizes) in (1, 3) and all(size.isdigit() and int(size) for size in sizes)


flags.register_validator("shapes", lambda shapes: all(map(_is_shape, shapes)), "such as 10 or 32x32x3")


def _step(shape, normalization):
    """Returns a function of a seed that takes a training step."""
    options = {"log_det_estimator": resflow.logdet.RussianRoulette(), "normalization": normalization}
    if len(shape) == 1:
        hidden = (_WIDTH.value,) * 2
        flow = resflow.flows.vector_flow(shape, num_blocks=1, hidden=hidden, coefficient=0.9, **options)
    else:
        block = resflow.flows.residual_image_block(**options)
        flow = resflow.flows.image_flow(shape, (1,), _WIDTH.value, num_fc_blocks=0, block=block)
    model = resflow.FlowModel(flow, event_shape=shape)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    x = tf.random.stateless_uniform([_BATCH.value, *shape], [0, 0])
    return tf.function(lambda seed: resflow.models.train_step(model, x, seed), autograph=False)


def _seconds(step, seed):
    start = time.process_time()
    step(tf.constant([0, seed]))["gradient_norm"].numpy()
    return time.process_time() - start


def main(_):
    """Prints the table."""
    print(f"{'shape':<14}{'induced, s':>12}{'schatten, s':>13}{'ratio':>9}")
    for text in _SHAPES.value:
        shape = tuple(map(int, text.split("x")))
        steps = [_step(shape, normalization) for normalization in NORMALIZATIONS]
        for step in steps:
            _seconds(step, 0)  # traces
        pairs = [[_seconds(step, i) for step in steps] for i in range(_STEPS.value)]
        induced, schatten = (statistics.median(found) for found in zip(*pairs, strict=True))
        ratio = statistics.median(b / a if a else math.nan for a, b in pairs)
        print(f"{text:<14}{induced:>12.4f}{schatten:>13.4f}{ratio:>9.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)
