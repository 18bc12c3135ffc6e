r"""Fashion-MNIST with the small model of `mnist_small.py`, for a machine without a GPU.

python bin/train.py --config=configs/fashion_mnist_small.py --workdir=runs/fashion_mnist_small \
  --config.data.data_dir=DIR

DIR is a TFDS folder; without it, TFDS's own default. --config.data.download=True downloads the data set. Neither
score nor time is measured here.
"""

from configs import mnist_small


def get_config():
    """Returns the configuration of `mnist_small.py` with flips."""
    config = mnist_small.get_config()
    config.data.name = "fashion_mnist"
    config.data.flip = True
    return config
