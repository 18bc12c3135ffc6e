"""Mapping from the tensors of a published checkpoint to variables, and the kernels that published layers apply."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, layers
from tf_resflow._internal.extras import extra

with extra("training"):
    import einops

# For each kind of module: our variable, the published tensor, and the axes of the published tensor and of ours.
# c, h, w: channels, rows and columns of an event; i, o: inputs and outputs of a layer; y, x: rows and columns of a
# kernel. In published images, and in vectors flattened from them, the channels come first.
_TABLE = {
    "act_norm": (("log_scale", "weight", "c -> c"), ("shift", "bias", "c -> c")),
    "elementwise_act_norm": (
        ("log_scale", "fc_module.weight", "(c h w) -> h w c"),
        ("shift", "fc_module.bias", "(c h w) -> h w c"),
    ),
    "activation": (("beta", "beta", "1 -> "),),
    "conv": (("kernel", "weight", "o i y x -> y x i o"), ("bias", "bias", "o -> o")),
    "dense": (("kernel", "weight", "o i -> i o"), ("bias", "bias", "o -> o")),
    "first_dense": (("kernel", "weight", "o (c h w) -> (h w c) o"), ("bias", "bias", "o -> o")),
    "last_dense": (("kernel", "weight", "(c h w) i -> i (h w c)"), ("bias", "bias", "(c h w) -> (h w c)")),
}


class PublishedTensor(NamedTuple):
    """A tensor of a published checkpoint, and the variable that receives its value.

    The value is `function(tensor)`, rearranged by `einops.rearrange` with the arguments `axes` and `sizes`.
    """

    name: str
    variable: Any
    axes: str
    sizes: dict[str, int]
    function: Callable[[np.ndarray], np.ndarray] = lambda values: values

    def value(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the variable's value, given the tensors of the checkpoint by name."""
        theirs, ours = self.axes.split("->")
        shape = einops.rearrange(np.zeros(self.variable.shape), f"{ours}->{theirs}", **self.sizes).shape
        tensor = tensors.get(self.name)
        if tensor is None or tensor.shape != shape:
            fault = "is missing" if tensor is None else f"has the shape {tensor.shape}"
            raise ValueError(
                f"The checkpoint is of another architecture: {self.name!r} {fault}, but its arguments require a "
                f"tensor of shape {shape}. Convert an unmodified checkpoint of train_img.py."
            )
        return einops.rearrange(np.asarray(self.function(tensor)), self.axes, **self.sizes)


def published_tensors(flow: bijectors.FlowBijector, classifier: keras.Model | None = None) -> list[PublishedTensor]:
    """Returns the published tensor of each trainable variable of an image flow and a hybrid model's classifier.

    The published model is a list of scales. Each scale is a list of layers, which are the members of the flow. For
    example, `transforms.1.chain.2.nnet.3.weight` is the kernel of layer 3 of the branch of member 2 of scale 1. A
    squeeze before the first scale is not in these lists.
    """
    tensors = []
    for prefix, member in _members(flow):
        if isinstance(member, bijectors.ActNorm):
            shape = member.shift.shape
            kind = "act_norm" if shape.rank == 1 else "elementwise_act_norm"
            tensors += _rows(prefix, member, kind, dict(zip("hwc"[-shape.rank :], shape, strict=True)))
        elif isinstance(member, bijectors.ResidualBlock):
            tensors += _branch(f"{prefix}.nnet", member.branch)
    return tensors if classifier is None else tensors + _classifier(classifier)


def _members(flow):
    """Yields the published name of each member of a flow, and the member."""
    flows = flow.flows if isinstance(flow, bijectors.MultiscaleFlow) else [flow]
    scale = 0
    position = 0
    for member in itertools.chain.from_iterable(scale_flow.bijectors for scale_flow in flows):
        if member.name == "squeeze_first":
            continue
        yield f"transforms.{scale}.chain.{position}", member
        position += 1
        if isinstance(member, bijectors.Squeeze2D):  # the last layer of a scale
            scale += 1
            position = 0


def _branch(prefix, branch):
    sizes = dict(zip("hwc", branch.inputs[0].shape[1:], strict=True))
    members = [m for m in branch.layers if not isinstance(m, (keras.layers.Flatten, keras.layers.Reshape))]
    linear = [member for member in members if isinstance(member, layers.lipschitz_layer.LipschitzLayer)]
    if isinstance(linear[0], layers.LipschitzDense):
        prefix += ".nnet"
    names = {member: f"{prefix}.{position}" for position, member in enumerate(members)}
    tensors = []
    for member in members:
        tensors += _rows(names[member], member, _kind(member, linear), sizes)
    if linear[0].learned_orders:  # the last codomain equals the first domain
        orders = {f"{names[linear[0]]}.domain": linear[0].domain}
        orders |= {f"{names[layer]}.codomain": layer.codomain for layer in linear[:-1]}
        tensors += [PublishedTensor(name, p.theta, " -> ", {}, _order_parameter) for name, p in orders.items()]
    return tensors


def _kind(layer, linear):
    """Returns the key in `_TABLE` of a layer of a branch with these linear layers."""
    if isinstance(layer, layers.LipschitzConv2D):
        return "conv"
    if isinstance(layer, layers.LipschitzDense):
        return {linear[0]: "first_dense", linear[-1]: "last_dense"}.get(layer, "dense")
    return "activation"


def _classifier(classifier):
    tensors = []
    for i, _ in enumerate(classifier.inputs):
        prefix = f"classification_heads.{i}"
        tensors += _rows(f"{prefix}.0", classifier.get_layer(f"scale{i}_conv"), "conv", {})
        tensors += _rows(f"{prefix}.1", classifier.get_layer(f"scale{i}_act_norm").act_norm, "act_norm", {})
    return tensors + _rows("logit_layer", classifier.get_layer("logits"), "dense", {})


def _rows(prefix, owner, kind, sizes):
    """Returns the published tensors of the variables that a layer or bijector has."""
    tensors = []
    for attribute, suffix, axes in _TABLE[kind]:
        variable = getattr(owner, attribute, None)
        if variable is not None:
            sizes_of_axes = {axis: size for axis, size in sizes.items() if axis in axes}
            tensors.append(PublishedTensor(f"{prefix}.{suffix}", variable, axes, sizes_of_axes))
    return tensors


def _order_parameter(x):
    """Returns the theta of a `LearnedOrder`, given the published parameter x."""
    # The order is 3 + 2 tanh(-h) = 1 + 4 sigmoid(-2 h), with h = 0.3 z + 0.7 elu(z) and z = artanh(1/2) - x.
    z = np.arctanh(0.5) - x
    return -2.0 * (0.3 * z + 0.7 * np.where(z > 0.0, z, np.expm1(z)))


def applied_kernels(
    parameters: Mapping[str, np.ndarray],
    buffers: Mapping[str, np.ndarray],
    *,
    coefficient: float,
    orders: Sequence[float],
) -> dict[str, np.ndarray]:
    r"""Divides each constrained kernel W by \\(\max(1, \sigma / c)\\), as the published layers do at each call.

    \\(\sigma = u^T W v\\), with u and v from the checkpoint. Their power iterations stop early, so \\(\sigma\\) is
    below the norm of W, and the norm of the applied kernel can exceed c. If the norm p -> q has a closed form (p=1,
    or q=inf with p=2 or p=inf), each row or column of a kernel is scaled by its own norm.

    `parameters` are the weights or their averages, and `buffers` has the vectors, both by published name. c is the
    `coefficient`. `orders` are the orders of the norms before, between and after the layers of a branch.
    """
    applied = dict(parameters)
    for name, kernel in parameters.items():
        layer, _, attribute = name.rpartition(".")
        if attribute != "weight" or f"{layer}.scale" not in buffers:
            continue
        if f"{layer}.u" in buffers:
            norm = _estimate(layer, kernel, buffers)
        else:
            position = int(layer.rpartition(".")[2]) // 2  # activations are at odd positions
            norm = _line_norms(kernel, *orders[position : position + 2])
        applied[name] = kernel / np.maximum(1.0, norm / coefficient).astype(kernel.dtype)
    return applied


def _estimate(layer, kernel, buffers):
    """Returns the published estimate u'Wv for a matrix, a 1x1 convolution or a larger convolution."""
    u = buffers[f"{layer}.u"]
    v = buffers[f"{layer}.v"]
    if kernel[0, 0].size == 1:
        return np.vdot(u, kernel.reshape(kernel.shape[:2]) @ v)
    height, width = (int(size) for size in buffers[f"{layer}.spatial_dims"])
    image = einops.rearrange(v, "(i h w) -> 1 h w i", h=height, w=width)
    image = tf.nn.conv2d(image, einops.rearrange(kernel, "o i y x -> y x i o"), 1, "SAME")
    return np.vdot(u, einops.rearrange(image.numpy(), "1 h w o -> (o h w)"))


def _line_norms(kernel, domain, codomain):
    """Returns ||column||_q of each input for p = 1, or ||row||_{p*} of each output for q = inf."""
    kept, order = (1, codomain) if domain == 1.0 else (0, {2.0: 2.0, math.inf: 1.0}[domain])
    lines = np.moveaxis(kernel, kept, 0).reshape(kernel.shape[kept], -1)
    norms = np.linalg.norm(lines, order, axis=1)
    return np.expand_dims(norms, [axis for axis in range(kernel.ndim) if axis != kept])
