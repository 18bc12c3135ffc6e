r"""MNIST with the paper's settings: 16.6 million parameters (16,608,589).

resflow-train --config=mnist --workdir=runs/mnist --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. The paper reports 0.970 bits/dim in its
table of density estimation (not reproduced here); the time is not measured. Without a GPU, use `mnist_small.py`.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config: the model of `cifar10.py`, no flips, no weight decay; 300 epochs."""
    config = base_config("cifar10")
    config.data.name = "mnist"
    config.data.flip = False
    config.model.logit_alpha = 1e-6
    config.train.steps = 300 * 937
    config.train.weight_decay = 0.0
    config.train.eval_every = 10 * 937
    config.train.checkpoint_every = 937
    return config
