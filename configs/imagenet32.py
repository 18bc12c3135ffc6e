r"""ImageNet at 32 x 32 with the paper's settings: 47.1 million parameters (47,099,089).

resflow-train --config=imagenet32 --workdir=runs/imagenet32 --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set (downsampled_imagenet, 1,281,149 images
for training and 49,999 to test on, its "validation"). The train images, 3.9 GB, are streamed.

The paper reports 4.010 bits/dim in its table of density estimation; not reproduced here, and the time is not
measured here. The published code trains until it is stopped; the 20 epochs are our choice.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the configuration: three scales of 32 blocks, four fully connected blocks."""
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
