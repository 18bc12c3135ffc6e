"""The `model` and `hybrid` sections of a config: their fields, defaults and rules."""

import math

from tf_resflow.config_fields import ABOVE_0, AT_LEAST_0, AT_LEAST_1, ConfigDict, Field, Rule, one_of
from tf_resflow.flows.names import ACTIVATIONS, COUPLINGS, ESTIMATORS, RESIDUAL_BLOCKS


def _are_whole(numbers, least):
    return all(isinstance(number, int) and number >= least for number in numbers)


def _are_kernels(sizes):
    return sizes and _are_whole(sizes, 1) and all(size % 2 for size in sizes)


def _are_orders(norms):
    return all(isinstance(order, (int, float)) and order >= 1 for order in norms)


def _estimator(kind, num_exact_terms, *more_kinds):
    """The kind, and the arguments of the estimators, by their names."""
    return {
        "kind": Field(kind, one_of(*more_kinds, *ESTIMATORS)),
        "num_probes": Field(1, AT_LEAST_1),
        # adaptive_roulette
        "rtol": Field(1e-2, Rule(lambda v: 0 < v < 1, "above 0 and below 1")),
        # russian_roulette
        "num_exact_terms": Field(num_exact_terms, AT_LEAST_0),
        "distribution": Field("geometric", one_of("geometric", "poisson")),
        "p": 0.5,  # of the geometric distribution; the rate of the Poisson distribution
        # power_series, which is biased
        "num_terms": Field(10, AT_LEAST_1),
    }


MODEL_FIELDS = {
    "kind": Field("image", one_of("image", "vector")),
    # Blocks of each scale; vectors have one scale, with the sum of these numbers.
    "num_blocks": Field((4, 4), Rule(lambda v: _are_whole(v, 0) and sum(v) > 0, "a tuple such as (4, 4)")),
    "coefficient": Field(0.98, ABOVE_0),  # Lipschitz bound of each linear layer, as in `layers.lipschitz_layer`
    # "automatic": cpila in vectors with norms of order 2, else lipswish.
    "activation": Field("automatic", one_of("automatic", *ACTIVATIONS)),
    # Orders of the norms before, between and after the layers. Any number of twos stands for 2 everywhere.
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
    # Vectors. First the affine autoregressive layers before and after the blocks.
    "affine_layers": Field((0, 0), Rule(lambda v: len(v) == 2 and _are_whole(v, 0), "two numbers, such as (2, 0)")),
    "hidden": Field((64, 64, 64), Rule(lambda v: _are_whole(v, 1), "a tuple of widths, such as (64, 64, 64)")),
    # Couplings are for images, and have no coefficient, activation or norms.
    "block": Field("residual", one_of(*RESIDUAL_BLOCKS, *COUPLINGS)),
    # Images.
    "inv_1x1_conv": False,  # an invertible 1x1 convolution before each convolutional block
    "width": Field(64, AT_LEAST_1),
    "kernels": Field((3, 1, 3), Rule(_are_kernels, "a tuple of odd kernel sizes, such as (3, 1, 3)")),
    "num_fc_blocks": Field(4, AT_LEAST_0),  # fully connected blocks at the end
    "fc_width": Field(64, AT_LEAST_1),
    # None or 0: no logit. A hybrid model then normalizes each channel by its mean and standard deviation.
    "logit_alpha": Field(None, Rule(lambda v: v is None or 0 <= v < 0.5, "None, or at least 0 and below 0.5")),
    "whiten": False,  # an ActNorm of each pixel and a DCTConv in front: photographs start white
    "squeeze_first": False,
    "factor_out": False,
    # "variational": the noise of integer data is drawn from a density that is learned, not from the uniform one.
    "dequantization": Field("uniform", one_of("uniform", "variational")),
    "dequantization_blocks": Field(2, AT_LEAST_1),
    "dequantization_width": Field(32, AT_LEAST_1),
    # Of the log-determinant, in training and in evaluation.
    "estimator": {
        # "automatic": exact for small vectors, see logdet.default_estimator; else russian_roulette.
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
    """Raises a ValueError if a field of a `model` section would be ignored because of another one."""
    is_coupling, names = model.block in COUPLINGS, ", ".join(RESIDUAL_BLOCKS)
    if model.kind == "vector" and (is_coupling or model.inv_1x1_conv or model.whiten):
        raise ValueError(
            f"config.model.block is {model.block!r}, config.model.inv_1x1_conv is {model.inv_1x1_conv} and "
            f"config.model.whiten is {model.whiten}, but a flow on vectors has one of {names}, and no convolutions."
        )
    if model.branch == "dense_net" and is_coupling:
        blocks = f"config.model.block is {model.block!r}, which is not one of {names}"
        raise ValueError(f"config.model.branch is 'dense_net', but {blocks}: change one of the two.")
