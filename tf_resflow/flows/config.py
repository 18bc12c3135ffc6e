"""The `model` and `hybrid` sections of a config: their fields, defaults and rules."""

import math
from typing import Any

from tf_resflow.config_fields import ABOVE_0, AT_LEAST_0, AT_LEAST_1, ConfigDict, Field, Rule, one_of
from tf_resflow.flows.activations import ACTIVATIONS

__all__ = ["COUPLINGS", "HYBRID_FIELDS", "MODEL_FIELDS", "RESIDUAL_BLOCKS", "check_model"]

# Names of blocks, and the classes in `tf_resflow.bijectors`.
RESIDUAL_BLOCKS = {"residual": "ResidualBlock", "monotone": "MonotoneBlock"}
COUPLINGS = {"affine_coupling": "AffineCoupling", "additive_coupling": "AdditiveCoupling"}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_blocks(counts: Any) -> bool:
    return bool(counts) and all(map(_is_whole, counts)) and min(counts) >= 0 and sum(counts) > 0


def _are_orders(norms: Any) -> bool:
    return all(isinstance(order, (int, float)) and order >= 1 for order in norms)


def _are_odd(sizes: Any) -> bool:
    return bool(sizes) and _are_widths(sizes) and all(size % 2 for size in sizes)


def _are_numbers_of_layers(numbers: Any) -> bool:
    return len(numbers) == 2 and all(map(_is_whole, numbers)) and min(numbers) >= 0


def _are_widths(sizes: Any) -> bool:
    return all(_is_whole(size) and size > 0 for size in sizes)


def _estimator(kind: str, num_exact_terms: int, *more_kinds: str) -> dict[str, Any]:
    return {
        "kind": Field(kind, one_of(*more_kinds, "adaptive_roulette", "exact", "power_series", "russian_roulette")),
        "num_probes": Field(1, AT_LEAST_1),
        # adaptive_roulette
        "rtol": Field(1e-2, Rule(lambda v: 0 < v < 1, "above 0 and below 1")),
        # russian_roulette
        "num_exact_terms": Field(num_exact_terms, AT_LEAST_0),
        "distribution": Field("geometric", one_of("geometric", "poisson")),
        "p": 0.5,  # of the geometric distribution; the rate, for Poisson
        # power_series, which is biased
        "num_terms": Field(10, AT_LEAST_1),
    }


MODEL_FIELDS = {
    "kind": Field("image", one_of("image", "vector")),
    # Blocks of each scale; one number for vectors.
    "num_blocks": Field(
        (4, 4), Rule(_are_blocks, "a tuple of whole numbers, such as (4, 4), with at least one block")
    ),
    "coefficient": Field(0.98, ABOVE_0),  # Lipschitz bound of each linear layer
    "activation": Field("lipswish", one_of(*ACTIVATIONS)),
    # Orders of the norms before, between and after the layers.
    "norms": Field((2.0,) * 4, Rule(_are_orders, "a tuple of orders of at least 1, such as (2, 2, 2, 2)")),
    "learned_norms": False,  # instead of `norms`, orders that each block learns
    # Of the kernels: by an estimate of these norms, or by an upper bound, which needs norms of 2.
    "normalization": Field("induced", one_of("induced", "schatten")),
    # Bound of a block, not verified. None: the product of its coefficients, which must then be below 1.
    "lipschitz_constant": Field(None, Rule(lambda v: v is None or 0 < v < 1, "None, or above 0 and below 1")),
    "act_norm": True,
    # "mixed_bfloat16": the networks of the blocks compute in bfloat16 in training. All else is in float32.
    "compute_dtype": Field("float32", one_of("float32", "mixed_bfloat16")),
    # "label": the density of images given their label, p(x | label). (Tables have data.condition_columns.)
    "condition": Field("", one_of("", "label")),
    # The networks of residual and monotone blocks: "dense_net" instead of `kernels` and `width`, or of `hidden`.
    "branch": Field("plain", one_of("plain", "dense_net")),
    "depth": Field(3, AT_LEAST_1),
    "growth": Field(32, AT_LEAST_1),  # channels that each of so many concatenations adds
    # Vectors.
    # Affine autoregressive layers before and after the blocks.
    "affine_layers": Field((0, 0), Rule(_are_numbers_of_layers, "two whole numbers, such as (2, 0)")),
    "hidden": Field((64, 64, 64), Rule(_are_widths, "a tuple of widths, such as (64, 64, 64)")),
    # Couplings are of images, and have no coefficient, activation or norms.
    "block": Field("residual", one_of(*RESIDUAL_BLOCKS, *COUPLINGS)),
    # Images.
    "inv_1x1_conv": False,  # an invertible 1x1 convolution before each convolutional block
    "width": Field(64, AT_LEAST_1),
    "kernels": Field((3, 1, 3), Rule(_are_odd, "a tuple of odd kernel sizes, such as (3, 1, 3)")),
    "num_fc_blocks": Field(4, AT_LEAST_0),  # fully connected blocks at the end
    "fc_width": Field(64, AT_LEAST_1),
    # None or 0: no logit; a hybrid model then normalizes each channel by its mean and standard deviation.
    "logit_alpha": Field(None, Rule(lambda v: v is None or 0 <= v < 0.5, "None, or at least 0 and below 0.5")),
    "whiten": False,  # an ActNorm of each pixel and a DCTConv in front: photographs begin white
    "squeeze_first": False,
    "factor_out": False,
    # "variational": the noise of integer data is drawn from a density that is learned, not from the uniform one.
    "dequantization": Field("uniform", one_of("uniform", "variational")),
    "dequantization_blocks": Field(2, AT_LEAST_1),
    "dequantization_width": Field(32, AT_LEAST_1),
    # Of the log-determinant, in training and in evaluation.
    "estimator": {
        # "automatic": exact for vectors of few coordinates, see logdet.default_estimator; else russian_roulette.
        "train": _estimator("automatic", 2, "automatic"),
        "eval": _estimator("adaptive_roulette", 20),
    },
}

HYBRID_FIELDS = {
    # The loss is cross entropy + density_weight * bits/dim. The weight is lambda D for
    # log p(y | x) + lambda log p(x) and D coordinates: the paper's lambda = 0, 1/D and 1 are 0.0, 1.0 and D.
    "density_weight": Field(1.0, Rule(lambda v: 0 <= v < math.inf, "at least 0 and finite")),
    "features": Field(256, AT_LEAST_1),  # channels of the head on each scale
}


def check_model(model: ConfigDict) -> None:
    """Raises a ValueError unless the fields of a `model` section, which each keep their rule, fit each other."""
    has_branches = model.block in RESIDUAL_BLOCKS
    if model.kind == "vector" and (not has_branches or model.inv_1x1_conv or model.whiten):
        raise ValueError(
            f"config.model.block is {model.block!r}, config.model.inv_1x1_conv is {model.inv_1x1_conv} and "
            f"config.model.whiten is {model.whiten}; flows on vectors have no couplings or convolutions: set them "
            "to 'residual' or 'monotone', and to False."
        )
    if model.branch == "dense_net" and not has_branches:
        raise ValueError(
            f"config.model.block is {model.block!r}, and config.model.branch is 'dense_net': only residual and "
            "monotone blocks have such a branch. Set the block to 'residual', or the branch to 'plain'."
        )
    if not has_branches:
        return
    if model.coefficient >= 1 and model.lipschitz_constant is None:
        raise ValueError(
            f"config.model.coefficient is {model.coefficient!r}; it must be below 1, since a block with a bound "
            "of 1 need not be invertible (unless config.model.lipschitz_constant gives its bound)."
        )
    if model.branch == "dense_net":
        if model.learned_norms or any(order != 2 for order in model.norms):
            raise ValueError(
                f"config.model.learned_norms is {model.learned_norms} and config.model.norms is {model.norms}; the "
                "branch 'dense_net' is Lipschitz in the norm of order 2 only: set them to False and (2.0,)."
            )
        return
    image = model.kind == "image"
    layers = len(model.kernels) if image else len(model.hidden) + 1
    if len(model.norms) != layers + 1:
        raise ValueError(
            f"config.model.norms has {len(model.norms)} orders; config.model.{'kernels' if image else 'hidden'} "
            f"makes {layers} layers, so {layers + 1} orders are needed: before, between and after them."
        )
    if model.norms[0] != model.norms[-1]:
        raise ValueError(
            f"config.model.norms begins with {model.norms[0]} and ends with {model.norms[-1]}; a "
            "block maps a space to itself, so both must be the same order."
        )
    if model.normalization == "schatten" and (model.learned_norms or set(model.norms) != {2.0}):
        raise ValueError(
            f"config.model.normalization is 'schatten', which bounds norms of order 2, but config.model.norms is "
            f"{tuple(model.norms)} and config.model.learned_norms is {model.learned_norms}: set them to twos and "
            "False, or the normalization to 'induced'."
        )
