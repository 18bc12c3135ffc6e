r"""Writes a report about a GPU: how its results differ from the CPU's, and the time of training steps.

    python benchmarks/report_gpu.py --output=gpu.md
    python benchmarks/report_gpu.py --output=gpu.md --data_dir=DIR --published_dir=CHECKOUT

- Results: the latents, samples, log-densities and the gradient of the loss of a small flow with each kind of block,
  with the same weights on both devices. The difference is the largest absolute difference divided by the largest
  absolute value, with and without TF32. The command fails if a difference without TF32 is above 1e-3.
- Steps: the median seconds of --num_steps training steps of --configs on random images, and the fraction of the
  peaks --tflops and --terabytes, with the operations and bytes that benchmarks/count_operations.py counts.
- With --data_dir: the table of benchmarks/time_to_score.py for MNIST and one seed.
"""

import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # other processes also use the GPU

import numpy as np
import tensorflow as tf
from absl import app, flags
from count_operations import count

import tf_resflow as resflow
from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.checkpoints import make_optimizer
from tf_resflow.writing import check_output_path, whole_file

_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write.", required=True)
_DEVICE = flags.DEFINE_string("device", "GPU:0", "Device to test.")
_CONFIGS = flags.DEFINE_list("configs", ["cifar10", "best_small:cifar10_small"], "Configs whose steps are timed.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["16", "64"], "Batch sizes.")
_STEPS = flags.DEFINE_integer("num_steps", 20, "Number of timed steps.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS directory.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "Checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "Python executable with torch.")

_MOST_DIFFERENT = 1e-3
_BLOCKS = {
    "residual": {},
    "dense nets with CPila": {"dense_net": (2, 4), "activation": "cpila"},
    "monotone": {"block": resflow.bijectors.MonotoneBlock},
}


def _numbers(device, options, weights=None):
    """Returns a function that computes the results of a small flow on a device, and the flow's weights."""
    with tf.device(device):
        estimator = resflow.logdet.RussianRoulette(4)
        block = resflow.flows.residual_image_block(**options, log_det_estimator=estimator)
        shape = (8, 8, 3)
        flow = resflow.flows.image_flow(shape, (1,), 16, num_fc_blocks=0, block=block, whiten=True)
        model = resflow.FlowModel(flow, shape, levels=256, evaluation_log_det_estimator=estimator)
        x = tf.constant(np.random.default_rng(0).integers(0, 256, [16, *shape]), tf.uint8)
        model.initialize(x)
        if weights is not None:
            model.set_weights(weights)

        @tf.function(autograph=False)
        def compute():
            z = model.encode(x)
            samples = flow.inverse(tf.identity(z))
            variables = [variable.value for variable in model.trainable_variables]
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model.example_losses(x, tf.constant([0, 1]), training=True)[model.objective])
            gradient = tf.concat([tf.reshape(part, [-1]) for part in tape.gradient(loss, variables)], axis=0)
            log_prob = model.log_prob(x, seed=tf.constant([0, 2]), evaluation=True)
            return {"latents": z, "samples": samples, "log-densities": log_prob, "gradient": gradient}

    return lambda: {name: value.numpy() for name, value in compute().items()}, model.get_weights()


def _compare():
    """Returns the lines of a table, and the largest difference without TF32."""
    lines, differences = ["| block | result | with TF32 | without TF32 |", "|---|---|---|---|"], []
    for name, options in _BLOCKS.items():
        compute, weights = _numbers("CPU:0", options)
        compute_there, _ = _numbers(_DEVICE.value, options, weights)
        found = []
        for fast in (True, False):
            tf.config.experimental.enable_tensor_float_32_execution(fast)
            found.append(compute_there())
        for key, value in compute().items():
            errors = [np.max(np.abs(other[key] - value)) / np.max(np.abs(value)) for other in found]
            lines.append(f"| {name} | {key} | {errors[0]:.1g} | {errors[1]:.1g} |")
            differences.append(errors[1])
    tf.config.experimental.enable_tensor_float_32_execution(True)
    return lines, np.max(differences)  # NaN if any of them is


def _step_seconds(config, batch_size):
    """Returns the median seconds of a training step, the seconds to the first step, and the counts."""
    shape = (2,) if config.model.kind == "vector" else (32, 32, 3)
    levels = None if config.model.kind == "vector" else 256
    with tf.device(_DEVICE.value):
        model = resflow.models.build_model(config, DataInfo("random", shape, levels))
        model.compile(optimizer=make_optimizer(config.train, model.trainable_variables))
        rng = np.random.default_rng(0)
        x = rng.normal(size=[batch_size, *shape]) if levels is None else rng.integers(0, 256, [batch_size, *shape])
        x = tf.constant(x, tf.float32 if levels is None else tf.uint8)
        start = time.perf_counter()
        model.initialize(x)
        step = tf.function(lambda seed: resflow.models.train_step(model, x, seed)[model.objective], autograph=False)
        seconds = []
        for number in range(_STEPS.value + 1):
            step(tf.constant([0, number])).numpy()
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    blocks = resflow.bijectors.flow.residual_blocks(model.flow)
    is_counted = all(isinstance(block.log_det_estimator, resflow.logdet.RussianRoulette) for block in blocks)
    return statistics.median(seconds[1:]), seconds[0], count(model) if is_counted else None


def _times():
    """Returns the lines of a table."""
    lines = ["| config | batch size | s per step | s to first step | share of the peaks |", "|---|---|---|---|---|"]
    for name in _CONFIGS.value:
        for size in map(int, _BATCHES.value):
            seconds, first, counted = _step_seconds(resflow.training.base_config(name), size)
            share = "-"
            if counted:
                peaks = counted["operations"] / flags.FLAGS.tflops + counted["bytes"] / flags.FLAGS.terabytes
                share = f"{size * peaks / 1e12 / seconds:.0%}"
            lines.append(f"| {name} | {size} | {seconds:.3g} | {first:.0f} | {share} |")
    return lines


def _scores():
    """Returns the lines of the table of time_to_score.py."""
    script = str(pathlib.Path(__file__).parent / "time_to_score.py")
    options = [f"--data_dir={_DATA_DIR.value}", "--seeds=1", "--steps=300,600"]
    if _PUBLISHED_DIR.value:
        options += [f"--published_{key}={flags.FLAGS[f'published_{key}'].value}" for key in ("dir", "python")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, *options, f"--output={folder}/times.json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [line for line in done.stdout.splitlines() if line.startswith("|")]


def main(_):
    """Writes the page."""
    try:
        check_output_path(_OUTPUT.value, [".md"])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    devices = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    if _DEVICE.value not in devices:
        sys.exit(f"Error: device {_DEVICE.value} was not found. Pass one of {', '.join(devices)} as --device.")
    gpus = tf.config.list_physical_devices("GPU")
    card = tf.config.experimental.get_device_details(gpus[0]).get("device_name") if gpus else platform.processor()
    lines = [f"# tf_resflow {resflow.__version__}, TensorFlow {tf.__version__}, {_DEVICE.value}: {card}", ""]
    numbers, worst = _compare()
    lines += [*numbers, "", *_times(), ""] + (_scores() if _DATA_DIR.value else [])
    with whole_file(_OUTPUT.value) as temporary:
        pathlib.Path(temporary).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if not worst <= _MOST_DIFFERENT:
        sys.exit(
            f"Error: {_DEVICE.value} and the CPU differ by {worst:.2g} without TF32; at most 1e-3 is expected."
        )


if __name__ == "__main__":
    app.run(main)
