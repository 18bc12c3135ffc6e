r"""ImageNet at 32 x 32 with the paper's settings: 47.1 million parameters (47,099,089).

resflow-train --config=imagenet32 --workdir=runs/imagenet32 --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set (downsampled_imagenet, with 1,281,149
images for training and 49,999 for testing, its "validation"). The training images, 3.9 GB, are streamed. The paper
reports 4.010 bits/dim in its table of density estimation (not reproduced here); the time is not measured. The
published code trains until it is stopped; the 20 epochs are our choice.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config: three scales of 32 blocks, four fully connected blocks."""
    config = base_config("cifar10")
    config.data.name = "downsampled_imagenet/32x32"
    config.data.image_size = 32
    config.data.split_test = "validation"
    config.data.flip = False
    config.model.num_blocks = (32, 32, 32)
    config.train.steps = 20 * 20_017
    config.train.eval_every = 20_017
    config.train.checkpoint_every = 1000
    return config
