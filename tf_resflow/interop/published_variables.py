"""Which tensor of a published checkpoint is which variable of a model, and how their axes correspond."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_resflow import bijectors, layers
from tf_resflow.extras import extra

with extra("training"):
    import einops

__all__ = ["PublishedTensor", "published_tensors"]

# For each part of a model: our variable, the published tensor, and the axes of the latter and of the former.
# c, h, w: channels, rows and columns of an event; i, o: inputs and outputs of a layer; y, x: rows and columns of a
# kernel. Published images, and vectors flattened from them, have the channels first.
_TABLE = {
    "act_norm": (
        ("log_scale", "weight", "c -> c"),
        ("shift", "bias", "c -> c"),
    ),
    "elementwise_act_norm": (
        ("log_scale", "fc_module.weight", "(c h w) -> h w c"),
        ("shift", "fc_module.bias", "(c h w) -> h w c"),
    ),
    "activation": (("beta", "beta", "1 -> "),),
    "conv": (
        ("kernel", "weight", "o i y x -> y x i o"),
        ("bias", "bias", "o -> o"),
    ),
    "dense": (
        ("kernel", "weight", "o i -> i o"),
        ("bias", "bias", "o -> o"),
    ),
    "first_dense": (
        ("kernel", "weight", "o (c h w) -> (h w c) o"),
        ("bias", "bias", "o -> o"),
    ),
    "last_dense": (
        ("kernel", "weight", "(c h w) i -> i (h w c)"),
        ("bias", "bias", "(c h w) -> (h w c)"),
    ),
}


class PublishedTensor(NamedTuple):
    """A tensor of a published checkpoint, and the variable that it becomes.

    Attributes:
      name: of the tensor.
      variable: the variable.
      axes: those of the tensor and of the variable, as for `einops.rearrange`.
      sizes: of axes that do not follow from the shape of the tensor.
      function: of the values.
    """

    name: str
    variable: Any
    axes: str
    sizes: dict[str, int]
    function: Callable[[np.ndarray], np.ndarray] = lambda values: values

    def value(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The variable's value, from the tensors of the checkpoint by name."""
        if self.name not in tensors:
            raise ValueError(f"The checkpoint is of another architecture: it has no tensor {self.name!r}.")
        tensor = tensors[self.name]
        if tensor.shape != self.shape:
            raise ValueError(
                f"The checkpoint is of another architecture: its tensor {self.name!r} has the shape "
                f"{tensor.shape}, and its arguments ask for {self.shape}."
            )
        return einops.rearrange(np.asarray(self.function(tensor)), self.axes, **self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        theirs, ours = self.axes.split("->")
        variable = np.broadcast_to(0.0, tuple(self.variable.shape))
        return einops.rearrange(variable, f"{ours}->{theirs}", **self.sizes).shape


def published_tensors(flow: bijectors.FlowBijector, classifier: keras.Model | None = None) -> list[PublishedTensor]:
    """The published tensor of each trainable variable of an image flow, and of a hybrid model's classifier.

    The published model is a list of scales, and a scale is a list of layers. They are the members of the flow one
    for one: `transforms.1.chain.2.nnet.3.weight` is the kernel of layer 3 of the branch of member 2 of scale 1. A
    squeeze before the first scale has no place in the lists. Both classifiers have a head on the output of each
    scale, `classification_heads.1.0.weight`, and one linear layer, `logit_layer.weight`.
    """
    tensors = []
    for prefix, member in _members(flow):
        if isinstance(member, bijectors.ActNorm):
            tensors += _act_norm(prefix, member)
        elif isinstance(member, bijectors.ResidualBlock):
            tensors += _branch(f"{prefix}.nnet", member.branch)
    return tensors if classifier is None else tensors + _classifier(classifier)


def _members(flow):
    """The members of a flow with their published names."""
    flows = flow.flows if isinstance(flow, bijectors.MultiscaleFlow) else [flow]
    scale, position = 0, 0
    for member in itertools.chain.from_iterable(part.bijectors for part in flows):
        if member.name == "squeeze_first":
            continue
        yield f"transforms.{scale}.chain.{position}", member
        if isinstance(member, bijectors.Squeeze2D):
            scale, position = scale + 1, 0
        else:
            position += 1


def _act_norm(prefix, act_norm):
    shape = act_norm.shift.shape
    part = "act_norm" if shape.rank == 1 else "elementwise_act_norm"
    return _rows(prefix, act_norm, part, dict(zip("hwc"[-shape.rank :], shape, strict=True)))


def _branch(prefix, branch):
    sizes = dict(zip("hwc", branch.inputs[0].shape[1:], strict=True))
    members = [m for m in branch.layers if not isinstance(m, (keras.layers.Flatten, keras.layers.Reshape))]
    linear = [member for member in members if isinstance(member, layers.lipschitz_layer.LipschitzLayer)]
    if isinstance(linear[0], layers.LipschitzDense):
        prefix += ".nnet"
    tensors, names = [], {}
    for position, member in enumerate(members):
        names[member] = f"{prefix}.{position}"
        tensors += _rows(names[member], member, _part(member, linear), sizes)
    if linear[0].learned_orders:
        tensors += _orders([(names[member], member) for member in linear])
    return tensors


def _part(layer, linear):
    """The key of a layer in `_TABLE`."""
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


def _rows(prefix, owner, part, sizes):
    tensors = []
    for attribute, suffix, axes in _TABLE[part]:
        variable = getattr(owner, attribute, None)
        if variable is not None:
            used = {axis: size for axis, size in sizes.items() if axis in axes}
            tensors.append(PublishedTensor(f"{prefix}.{suffix}", variable, axes, used))
    return tensors


def _orders(linear):
    """The learned orders of a branch: the first layer's domain, then each one's codomain but the last's.

    The published parameters are shared: the others of these names are the same tensors again.
    """
    first = linear[0]
    orders = [(f"{first[0]}.domain", first[1].domain)]
    orders += [(f"{name}.codomain", layer.codomain) for name, layer in linear[:-1]]
    return [PublishedTensor(name, order.theta, " -> ", {}, _order_parameter) for name, order in orders]


def _order_parameter(x):
    """The theta of a `LearnedOrder`, from the published parameter x.

    The order is 3 + 2 tanh(-h), with h = 0.3 z + 0.7 elu(z) and z = artanh(1/2) - x: it is 2 at x = 0. That is
    1 + 4 sigmoid(-2 h), and theta = -2 h.
    """
    z = np.arctanh(0.5) - x
    return -2.0 * (0.3 * z + 0.7 * np.where(z > 0.0, z, np.expm1(z)))
