r"""32 x 32 crops of photographs with the settings of `cifar10.py`: 25.2 million parameters (25,174,129).

resflow-train --config=bsds32 --workdir=runs/bsds32 --config.data.data_dir=DIR

TFDS does not provide this data set. DIR is a folder in which `tfds.dataset_builders.store_as_tfds_dataset` has
stored it as bsds32, with splits train and test of images [32, 32, 3]. Ours are crops of the photographs of BSDS500
(Arbelaez et al. 2011), shrunk 4 times by averaging: 20,000 from its train and test images, 4,000 from val. The
paper has no score for it. The time is not measured here. Without a GPU, use `bsds32_small.py`.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config of `cifar10.py` for 350 epochs."""
    config = base_config("cifar10")
    config.data.name = "bsds32"
    config.train.steps = 350 * 312
    config.train.eval_every = 10 * 312
    config.train.checkpoint_every = 312
    return config
