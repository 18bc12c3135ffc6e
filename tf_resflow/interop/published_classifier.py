"""The classifier of a published hybrid model, as named arrays."""

import re

import einops

__all__ = ["published_classifier"]

_TABLE = (
    (r"classification_heads\.(\d+)\.0\.weight", r"head\1/conv/kernel", "o i y x -> y x i o"),
    (r"classification_heads\.(\d+)\.0\.bias", r"head\1/conv/bias", "o -> o"),
    (r"classification_heads\.(\d+)\.1\.weight", r"head\1/act_norm/log_scale", "o -> o"),
    (r"classification_heads\.(\d+)\.1\.bias", r"head\1/act_norm/shift", "o -> o"),
    (r"logit_layer\.weight", "logits/kernel", "o i -> i o"),
    (r"logit_layer\.bias", "logits/bias", "o -> o"),
)


def published_classifier(tensors):
    """The heads and the linear layer of a hybrid model.

    Head i takes the output of scale i, after its squeeze: 3x3 convolution, ActNorm, ReLU, mean over the image. The
    heads' outputs, one after the other, are the input of the linear layer, which gives the logits. (With factor-out
    the published code gives head i the channels that leave there, and the last head those of the scale before it.)

    Args:
      tensors: dict of published name to array.

    Returns:
      A dict of name, such as "head0/conv/kernel", to array, in the axes of Keras; empty for a model without one.
    """
    arrays = {}
    for name, tensor in tensors.items():
        for pattern, ours, axes in _TABLE:
            match = re.fullmatch(pattern, name)
            if match:
                arrays[match.expand(ours)] = einops.rearrange(tensor, axes)
    return arrays
