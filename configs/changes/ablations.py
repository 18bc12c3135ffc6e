r"""The paper's ablations and others, by name: `cifar10.py` or another config with one change.

resflow-train --config=ablations:poisson --workdir=runs/poisson --config.data.data_dir=DIR
resflow-train --config=ablations:poisson,mnist_small --workdir=runs/poisson_small \
  --config.data.data_dir=DIR

- iresnet: truncated power series and ELU, as in i-ResNets (Behrmann et al. 2019)
- immediate_downsampling: a squeeze before the first block; less work, and 53.1 million parameters (53,052,403) with
  cifar10. 28 x 28 images can be halved only twice: add --config.model.num_blocks="(2,2)" with mnist_small
- learned_norms: each block learns the orders of its norms, with LipSwish, which is 1-Lipschitz in all of them
- poisson: Poisson number of terms, the default of the published code, with infinite variance
- whiten: a convolution in the domain of the cosine transform, which is initialized to whiten photographs, instead
  of the logit; not in the paper, and part of best_small
- an activation: clipswish, cpila, elu, fullsort, lipschitz_cube, maxmin, relu, softplus, tanh. MaxMin pairs
  channels, but images have 1 or 3, so a squeeze comes before the first block, as with immediate_downsampling

All evaluations are unbiased. The paper's table of ablations is not reproduced here. docs/results.md has scores of
cpila.
"""

from tf_resflow.training import base_config

_ACTIVATIONS = ("clipswish", "cpila", "elu", "fullsort", "lipschitz_cube", "relu", "softplus", "tanh")
ABLATIONS = {
    "iresnet": {
        "model.activation": "elu",
        "model.estimator.train.kind": "power_series",
        "model.estimator.train.num_terms": 5,
    },
    "immediate_downsampling": {"model.squeeze_first": True},
    "learned_norms": {"model.learned_norms": True, "model.activation": "lipswish"},
    "poisson": {
        "model.estimator.train.distribution": "poisson",
        "model.estimator.train.p": 2.0,
    },
    "whiten": {"model.whiten": True, "model.logit_alpha": None},
    "maxmin": {"model.activation": "maxmin", "model.squeeze_first": True},
    **{name: {"model.activation": name} for name in _ACTIVATIONS},
}


def get_config(argument=""):
    """Returns the config of "NAME,BASE", by default of cifar10."""
    name, _, base = argument.partition(",")
    if name not in ABLATIONS:
        raise ValueError(
            f"Unknown ablation {name!r}. Give --config=ablations:NAME, with one of {', '.join(ABLATIONS)}."
        )
    config = base_config(base or "cifar10")
    config.update_from_flattened_dict(ABLATIONS[name])
    return config
