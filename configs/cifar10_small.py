r"""CIFAR-10 with the small model of `mnist_small.py`, for a machine without a GPU.

resflow-train --config=cifar10_small --workdir=runs/cifar10_small --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. Neither score nor time is measured here.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config of `mnist_small.py` for natural images."""
    config = base_config("mnist_small")
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.logit_alpha = 0.05
    return config
