r"""SVHN with the model of `cifar10.py`: 25.2 million parameters (25,174,129).

resflow-train --config=svhn --workdir=runs/svhn --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. Training uses only the split `train`, not
the 531,131 images of `extra`. The paper uses SVHN only in its hybrid models, so there is no score to expect; the
time is not measured.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config: images are shifted by up to 4 pixels, and not mirrored; 350 epochs."""
    config = base_config("cifar10")
    config.data.name = "svhn_cropped"
    config.data.flip = False
    config.data.crop_padding = 4
    config.train.steps = 350 * 1144
    config.train.eval_every = 10 * 1144
    config.train.checkpoint_every = 1144
    return config
