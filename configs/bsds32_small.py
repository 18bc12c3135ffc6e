r"""32 x 32 crops of photographs with the small model of `mnist_small.py`, for a machine without a GPU.

resflow-train --config=bsds32_small --workdir=runs/bsds32_small --config.data.data_dir=DIR

For the data, see `bsds32.py`. 750 steps of 0.46 s on one core gave 5.18 bits/dim on the first 500 test images (mean
of three seeds) with the weights of the last step, without weight decay and with gradients clipped to norm 1.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config of `cifar10_small.py`."""
    config = base_config("cifar10_small")
    config.data.name = "bsds32"
    return config
