"""Fields, defaults and rules of the `model` and `hybrid` sections of a config."""

import math
from typing import Any

from tf_resflow.flows.names import ACTIVATIONS, COUPLINGS, ESTIMATORS, RESIDUAL_BLOCKS
from tf_resflow.training.config_fields import ABOVE_0, AT_LEAST_0, AT_LEAST_1, ConfigDict, Field, Rule, one_of


def _are(numbers, kind, least):
    return all(isinstance(number, kind) and number >= least for number in numbers)


def _are_kernels(sizes):
    return sizes and _are(sizes, int, 1) and all(size % 2 for size in sizes)


def _estimator(kind, num_exact_terms, *more_kinds):
    """Returns the fields of an estimator section: the kind, and arguments of the estimator classes."""
    return {
        "kind": Field(kind, one_of(*more_kinds, *ESTIMATORS)),
        "num_probes": Field(1, AT_LEAST_1),
        # adaptive_roulette
        "rtol": Field(1e-2, Rule(lambda v: 0 < v < 1, "above 0 and below 1")),
        # russian_roulette
        "num_exact_terms": Field(num_exact_terms, AT_LEAST_0),
        "distribution": Field("geometric", one_of("geometric", "poisson")),
        "p": 0.5,  # parameter of the geometric distribution, or rate of the Poisson distribution
        # power_series, which is biased
        "num_terms": Field(10, AT_LEAST_1),
    }


MODEL_FIELDS: dict[str, Any] = {
    "kind": Field("image", one_of("image", "vector")),
    # Number of blocks in each scale. Flows on vectors have one scale with the sum of these numbers.
    "num_blocks": Field((4, 4), Rule(lambda v: _are(v, int, 0) and sum(v) > 0, "a tuple such as (4, 4)")),
    "coefficient": Field(0.98, ABOVE_0),  # Lipschitz bound of each linear layer; same default as the layers
    # "automatic" is cpila for vectors with norms of order 2, otherwise lipswish.
    "activation": Field("automatic", one_of("automatic", *ACTIVATIONS)),
    # Orders of the norms before, between and after the layers. Any number of twos means order 2 everywhere.
    "norms": Field((2.0,) * 4, Rule(lambda v: _are(v, (int, float), 1), "orders of at least 1, such as (2, 2)")),
    "learned_norms": False,  # whether each block learns its orders instead of using `norms`
    # Lipschitz bound of a block, not verified. None uses the product of the coefficients, which must be below 1.
    "lipschitz_constant": Field(None, Rule(lambda v: v is None or 0 < v < 1, "None, or above 0 and below 1")),
    "act_norm": True,
    # With "mixed_bfloat16", the blocks' networks compute in bfloat16 in training. Everything else is float32.
    "compute_dtype": Field("float32", one_of("float32", "mixed_bfloat16")),
    # "label" models the density of images given their label, p(x | label).
    "condition": Field("", one_of("", "label")),
    # Networks of residual and monotone blocks. "dense_net" replaces kernels and width, or hidden.
    "branch": Field("plain", one_of("plain", "dense_net")),
    "depth": Field(3, AT_LEAST_1),
    "growth": Field(32, AT_LEAST_1),  # number of channels that each of the `depth` concatenations adds
    # Vectors. affine_layers: numbers of affine autoregressive layers before and after the blocks.
    "affine_layers": Field((0, 0), Rule(lambda v: len(v) == 2 and _are(v, int, 0), "two numbers, such as (2, 0)")),
    "hidden": Field((64, 64, 64), Rule(lambda v: _are(v, int, 1), "a tuple of widths, such as (64, 64, 64)")),
    # Couplings need images, and ignore coefficient, activation and norms.
    "block": Field("residual", one_of(*RESIDUAL_BLOCKS, *COUPLINGS)),
    # Images.
    "inv_1x1_conv": False,  # whether an invertible 1x1 convolution precedes each convolutional block
    "width": Field(64, AT_LEAST_1),
    "kernels": Field((3, 1, 3), Rule(_are_kernels, "a tuple of odd kernel sizes, such as (3, 1, 3)")),
    "num_fc_blocks": Field(4, AT_LEAST_0),  # number of fully connected blocks at the end
    "fc_width": Field(64, AT_LEAST_1),
    # None or 0 omits the logit. A hybrid model then normalizes each channel by its mean and standard deviation.
    "logit_alpha": Field(None, Rule(lambda v: v is None or 0 <= v < 0.5, "None, or at least 0 and below 0.5")),
    "whiten": False,  # whether to start with an elementwise ActNorm and a DCTConv, which whiten photographs
    "squeeze_first": False,
    "factor_out": False,
    # "variational" learns the density of the noise that is added to integer data.
    "dequantization": Field("uniform", one_of("uniform", "variational")),
    "dequantization_blocks": Field(2, AT_LEAST_1),
    "dequantization_width": Field(32, AT_LEAST_1),
    # Estimators of the log-determinant for training and evaluation.
    "estimator": {
        # "automatic" is exact for small vectors (see logdet.default_estimator), otherwise russian_roulette.
        # Evaluations of small events are always exact; `eval` has the estimator of larger events.
        "train": _estimator("automatic", 2, "automatic"),
        "eval": _estimator("adaptive_roulette", 20),
    },
}

HYBRID_FIELDS = {
    # The loss is cross entropy + density_weight * bits/dim. For the objective log p(y | x) + lambda log p(x) with
    # D coordinates, density_weight is lambda D: the paper's lambda = 0, 1/D and 1 are 0.0, 1.0 and D.
    "density_weight": Field(1.0, Rule(lambda v: 0 <= v < math.inf, "at least 0 and finite")),
    "features": Field(256, AT_LEAST_1),  # number of channels of the head for each scale
}


def check_model(model: ConfigDict) -> None:
    """Raises a ValueError if a field of a `model` section would be ignored because of another field."""
    is_coupling = model.block in COUPLINGS
    names = ", ".join(RESIDUAL_BLOCKS)
    if model.kind == "vector" and (is_coupling or model.inv_1x1_conv or model.whiten):
        raise ValueError(
            f"config.model.block is {model.block!r}, config.model.inv_1x1_conv is {model.inv_1x1_conv} and "
            f"config.model.whiten is {model.whiten}, but config.model.kind is 'vector'. Set block to one of "
            f"{names}, and inv_1x1_conv and whiten to False."
        )
    if model.branch == "dense_net" and is_coupling:
        raise ValueError(
            f"config.model.branch is 'dense_net', but config.model.block is {model.block!r}. Set block to one of "
            f"{names}, or branch to 'plain'."
        )
