r"""CelebA-HQ at 64 x 64 and 5 bits: 28.3 million parameters (28,271,731).

resflow-train --config=celebahq64_5bit --workdir=runs/celebahq64_5bit --config.data.data_dir=DIR

TFDS cannot download celeb_a_hq. Create data256x256.tar as its page describes
(https://github.com/tkarras/progressive_growing_of_gans), put it into the folder FILES, and run `tfds build
celeb_a_hq/256 --data_dir=DIR --manual_dir=FILES`. The 64 x 64 pixels are means of 4 x 4 pixels. The first 90 % of
the 30,000 images are for training, the others for testing.

The paper shows samples of such a model but no score. Its code uses images prepared by another project, and tests on
5,000 of its training images. The architecture is that of `imagenet64.py` with 16 blocks per scale; the number of
steps is our choice. Not reproduced here; the time is not measured.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config: three scales of 16 blocks on squeezed images, four fully connected blocks."""
    config = base_config("cifar10")
    config.data.name = "celeb_a_hq/256"
    config.data.image_size = 64
    config.data.levels = 32
    config.data.split_train = "train[:90%]"
    config.data.split_test = "train[90%:]"
    config.model.squeeze_first = True
    config.model.factor_out = True
    config.train.steps = 350 * 421
    config.train.eval_every = 10 * 421
    config.train.checkpoint_every = 421
    return config
