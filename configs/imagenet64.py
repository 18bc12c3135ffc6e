r"""ImageNet at 64 x 64 with the paper's settings: 53.3 million parameters (53,294,275).

resflow-train --config=imagenet64 --workdir=runs/imagenet64 --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. The train images, 16 GB, are streamed.
The paper reports 3.757 bits/dim in its table of density estimation; not reproduced here, and the time is not
measured here.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the configuration of `imagenet32.py`, squeezed at first, with half of the channels leaving."""
    config = base_config("imagenet32")
    config.data.name = "downsampled_imagenet/64x64"
    config.data.image_size = 64
    config.model.squeeze_first = True
    config.model.factor_out = True
    return config
