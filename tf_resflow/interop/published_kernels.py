"""The kernels that the published layers apply, from those that they store."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_resflow.extras import extra

with extra("training"):
    import einops

__all__ = ["applied_kernels"]


def applied_kernels(
    parameters: Mapping[str, np.ndarray],
    buffers: Mapping[str, np.ndarray],
    *,
    coefficient: float,
    orders: Sequence[float],
) -> dict[str, np.ndarray]:
    r"""Divides each constrained kernel W by its \\(\max(1, \sigma / c)\\), as the published layers do at each call.

    \\(\sigma = u^T W v\\) with the vectors u and v that the checkpoint holds. Their power iterations stop early:
    \\(\sigma\\) is below the norm of W, and the norm of the kernel that is applied is above c. If the norm
    p -> q has a closed form (p = 1, or q = inf with p = 2 or inf), a layer scales each row or column of its kernel
    by its own norm.

    Args:
      parameters: by published name: the weights, or their averages.
      buffers: by published name: u and v.
      coefficient: c.
      orders: of the norms before, between and after the layers of a branch; only those with closed forms matter.
    """
    applied = dict(parameters)
    for name, kernel in parameters.items():
        layer, _, attribute = name.rpartition(".")
        if attribute != "weight" or f"{layer}.scale" not in buffers:
            continue
        if f"{layer}.u" in buffers:
            norm = _estimate(layer, kernel, buffers)
        else:
            position = int(layer.rpartition(".")[2]) // 2  # There is an activation between two layers.
            norm = _line_norms(kernel, *orders[position : position + 2])
        applied[name] = kernel / np.maximum(1.0, norm / coefficient).astype(kernel.dtype)
    return applied


def _estimate(layer, kernel, buffers):
    """The published estimate u'Wv, of a matrix, a 1x1 convolution or a convolution."""
    u, v = buffers[f"{layer}.u"], buffers[f"{layer}.v"]
    outputs, inputs = kernel.shape[:2]
    pointwise = kernel[0, 0].size == 1
    height, width = (1, 1) if pointwise else (int(size) for size in buffers[f"{layer}.spatial_dims"])
    if (u.size, v.size) != (outputs * height * width, inputs * height * width):
        raise ValueError(
            f"The checkpoint is of another architecture: {layer!r} has u and v of {u.size} and {v.size} numbers, "
            f"which do not fit its kernel of shape {kernel.shape} on images of {height} x {width}."
        )
    if pointwise:
        return np.vdot(u, kernel.reshape(outputs, inputs) @ v)
    image = einops.rearrange(v, "(i h w) -> 1 h w i", h=height, w=width)
    image = tf.nn.conv2d(image, einops.rearrange(kernel, "o i y x -> y x i o"), 1, "SAME")
    return np.vdot(u, einops.rearrange(image.numpy(), "1 h w o -> (o h w)"))


def _line_norms(kernel, domain, codomain):
    """||column||_q of each input for p = 1; ||row||_{p*} of each output for q = inf."""
    kept, order = (1, codomain) if domain == 1.0 else (0, {2.0: 2.0, math.inf: 1.0}[domain])
    lines = np.moveaxis(kernel, kept, 0).reshape(kernel.shape[kept], -1)
    norms = np.linalg.norm(lines, order, axis=1)
    return np.expand_dims(norms, [axis for axis in range(kernel.ndim) if axis != kept])
