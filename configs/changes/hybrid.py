r"""The paper's hybrid models: one network for p(x) and p(label | x), with the data and size of another config.

resflow-train --config=hybrid:cifar10 --workdir=runs/hybrid --config.data.data_dir=DIR
resflow-train --config=hybrid:mnist_small,coupling_1x1,1 --workdir=runs/hybrid_small \
  --config.data.data_dir=DIR

The argument is BASE,TRUNK,LAMBDA; the last two are optional:

- BASE: a config of labeled images: cifar10, mnist, fashion_mnist, each also with _small; svhn; digits; images or
  images:32 (--config.data.path=DIR with a subfolder per class); or, without commas, a change of these, such as
  monotone:digits
- TRUNK: residual (default), the blocks of BASE; coupling (affine); coupling_1x1, each after an invertible 1x1
  convolution
- LAMBDA: the weight in log p(label | x) + LAMBDA log p(x): 0, 1/D (the default) or 1. The config stores LAMBDA D,
  the weight of bits/dim relative to the cross entropy. Set any other weight with --config.hybrid.density_weight=0.1

As in the paper, the data are normalized instead of the logit. CIFAR-10 is shifted by up to 4 pixels and mirrored,
as in the published code, which uses a logit for MNIST and SVHN. The paper's table of hybrid models is not
reproduced here, and the time is not measured here.
"""

from tf_resflow.training import base_config

DIMENSIONS = {"cifar10": 3072, "digits": 64, "fashion_mnist": 784, "mnist": 784, "svhn_cropped": 3072}
TRUNKS = {
    "residual": {},
    "coupling": {"model.block": "affine_coupling"},
    "coupling_1x1": {"model.block": "affine_coupling", "model.inv_1x1_conv": True},
}
LAMBDAS = ("0", "1/D", "1")


def get_config(argument=""):
    """Returns the config of "BASE,TRUNK,LAMBDA", by default of cifar10, residual and 1/D."""
    base, trunk, weight, *rest = (*argument.split(","), "", "", "")
    base, trunk, weight = base or "cifar10", trunk or "residual", weight or "1/D"
    if trunk not in TRUNKS or weight not in LAMBDAS or any(rest):
        raise ValueError(
            f"Unknown argument {argument!r}. Give --config=hybrid:BASE,TRUNK,LAMBDA, with the name of a config, "
            f"one of {', '.join(TRUNKS)}, and one of {', '.join(LAMBDAS)}."
        )
    config = _base(base)
    dimensions = DIMENSIONS.get(config.data.name)
    if weight == "1" and dimensions is None:
        raise ValueError(
            f"LAMBDA is 1, but the number D of values per image is not known for {base}. Leave out LAMBDA, and set "
            "--config.hybrid.density_weight=D."
        )
    config.task = "hybrid"
    config.hybrid.density_weight = {"0": 0.0, "1/D": 1.0, "1": float(dimensions or 0)}[weight]
    config.model.logit_alpha = None
    config.update_from_flattened_dict(TRUNKS[trunk])
    config.train.global_clipnorm = 1.0
    if config.data.name == "cifar10":
        config.data.crop_padding = 4
    return config


def _base(name):
    config = base_config(name)
    if config.data.name not in (*DIMENSIONS, "images") or config.task == "hybrid":
        raise ValueError(
            f"The config {name!r} does not have labeled images. Give cifar10, mnist or fashion_mnist, each also "
            "with _small, or svhn, digits or images."
        )
    return config
