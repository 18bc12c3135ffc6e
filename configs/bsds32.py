r"""32 x 32 crops of photographs with the settings of `cifar10.py`: 25.2 million parameters (25,174,129).

resflow-train --config=bsds32 --workdir=runs/bsds32 --config.data.data_dir=DIR

TFDS does not have the data set: DIR is a folder in which `tfds.dataset_builders.store_as_tfds_dataset`
has stored it as bsds32, with splits train and test of images [32, 32, 3]. Ours are crops of the photographs of
BSDS500 (Arbelaez et al. 2011), shrunk 4 times by averaging: 20,000 from its train and test images, and 4,000
from its val images.

Not in the paper, so there is no score to expect; the time is not measured here. On a machine without a GPU:
`bsds32_small.py`.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the configuration of `cifar10.py`; 350 epochs."""
    config = base_config("cifar10")
    config.data.name = "bsds32"
    config.train.steps = 350 * 312
    config.train.eval_every = 10 * 312
    config.train.checkpoint_every = 312
    return config
