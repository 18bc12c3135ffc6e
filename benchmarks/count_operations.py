r"""Counts the operations, traffic and memory of a training step of a config, and estimates the time of its run.

    python benchmarks/count_operations.py --config=configs/cifar10.py --tflops=156 --terabytes=2.0

Nothing is executed: the model is built, and its layers are counted, including the layers of learned noise. A layer
with K weights in its kernel, applied at P positions, needs K P multiplications and as many additions per image. A
training step does this 7 + n times: once forward, once for each of the n terms of the series, and 6 times backward
(the branch again, one vector-Jacobian product, two gradients in the input and two in the kernel). The network of
the noise's context has no series, so its layers do this 3 times. Each time, the layer's input and output are moved
twice as float32: by the product, and by the surrounding activations. The norms of the kernels, the optimizer and
the start of operations on the device are not counted.

The time is an estimate: all operations at --share of --tflops, followed by all traffic at --share of --terabytes.
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from ml_collections import config_flags

from tf_resflow import bijectors, layers
from tf_resflow.data.data_info import DataInfo
from tf_resflow.models.build import build_model

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.")
_SHAPE = flags.DEFINE_list("shape", ["32", "32", "3"], "Height, width and channels of an image.")
_TFLOPS = flags.DEFINE_float("tflops", 156.0, "Peak of a GPU, in 10^12 operations per second.", lower_bound=1e-3)
_TERABYTES = flags.DEFINE_float(
    "terabytes", 2.0, "Peak of its memory, in 10^12 bytes per second.", lower_bound=1e-3
)
_SHARE = flags.DEFINE_float(
    "share", 0.5, "Fraction of both peaks that is assumed.", lower_bound=1e-3, upper_bound=1.0
)

_BACKWARD = 6  # products per layer
_UNCONSTRAINED = 3  # products per layer without a series: forward, and two gradients
_FLOAT32 = 4  # bytes
_KEPT = 3  # tensors of the input's size that a block keeps for the backward pass
_COPIES = 5  # values per weight: itself, its gradient, two moments of Adam, and its average


def count(model):
    """Returns the totals per image and step: "operations", "products", and the bytes moved, kept and of weights."""
    totals = dict.fromkeys(("operations", "bytes", "kept", "products"), 0.0)

    def add(layer, products, positions):
        *_, inputs, outputs = layer.kernel.shape
        positions = positions if len(layer.kernel.shape) == 4 else 1
        totals["products"] += products
        totals["operations"] += products * 2 * math.prod(layer.kernel.shape) * positions
        totals["bytes"] += products * 2 * (inputs + outputs) * positions * _FLOAT32

    noise = model.data_space.dequantizer
    for flow in [model.flow] + ([] if noise is None else [noise.flow]):
        for block in bijectors.flow.residual_blocks(flow):
            for layer in layers.norm_updates.lipschitz_layers(block):
                add(layer, 1 + _terms(block.log_det_estimator) + _BACKWARD, math.prod(block.event_shape[:2]))
            totals["kept"] += _KEPT * math.prod(block.event_shape) * _FLOAT32
    for layer in [] if noise is None else noise.context.layers:
        add(layer, _UNCONSTRAINED, math.prod(noise.event_shape[:2]))
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return totals | {"weights": weights * _COPIES * _FLOAT32}


def _terms(log_det):
    """Returns the expected number of terms of a Russian roulette, where E[N] is the sum of P(N >= k)."""
    survival = (float(log_det.distribution.survival(k, "float64")) for k in range(1, 200))
    return log_det.num_exact_terms + sum(survival)


def main(_):
    """Prints the counts and the estimated time."""
    config = _CONFIG.value
    model = config.model
    is_roulette = model.estimator.train.kind in ("automatic", "russian_roulette")  # the default of images
    if (model.kind, model.block) != ("image", "residual") or not is_roulette:
        raise app.UsageError(
            f"The config has model.kind={model.kind!r}, model.block={model.block!r} and "
            f"model.estimator.train.kind={model.estimator.train.kind!r}. Choose one with residual blocks on images "
            "that trains with Russian roulette."
        )
    info = DataInfo("images", tuple(map(int, _SHAPE.value)), 256)
    found = count(build_model(config, info))
    images = config.train.steps * config.train.batch_size
    print(
        f"{found['operations'] / 1e9:,.1f} 10^9 operations and {found['bytes'] / 1e9:,.2f} GB of traffic per image"
    )
    print(f"{found['products']:,.0f} sequential products per step")
    print(f"{found['weights'] / 1e6:,.0f} MB for the training state, {found['kept'] / 1e6:,.2f} MB kept per image")
    print(f"{images:,} images: {images * found['operations']:.3g} operations, {images * found['bytes']:.3g} bytes")
    seconds = (
        images * (found["operations"] / _TFLOPS.value + found["bytes"] / _TERABYTES.value) / 1e12 / _SHARE.value
    )
    duration = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.0f} seconds"
    print(f"{duration} on one GPU, at {_SHARE.value:.0%} of its peaks (an estimate)")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
