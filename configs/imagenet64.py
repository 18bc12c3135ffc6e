r"""ImageNet at 64 x 64 with the paper's settings: 53.3 million parameters (53,294,275).

resflow-train --config=imagenet64 --workdir=runs/imagenet64 --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. The training images, 16 GB, are streamed.
The paper reports 3.757 bits/dim in its table of density estimation (not reproduced here); the time is not measured.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config of `imagenet32.py` on squeezed images, with factor-out."""
    config = base_config("imagenet32")
    config.data.name = "downsampled_imagenet/64x64"
    config.data.image_size = 64
    config.model.squeeze_first = True
    config.model.factor_out = True
    return config
