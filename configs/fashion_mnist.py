r"""Fashion-MNIST with the settings of `mnist.py`: 16.6 million parameters (16,608,589).

resflow-train --config=fashion_mnist --workdir=runs/fashion_mnist --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. The paper does not use it, so there is no
score to expect; the time is not measured here. Without a GPU, use `fashion_mnist_small.py`.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config of `mnist.py` with flips."""
    config = base_config("mnist")
    config.data.name = "fashion_mnist"
    config.data.flip = True
    return config
