r"""CelebA-HQ at 256 x 256 and 5 bits with the paper's settings: 136.8 million parameters (136,777,176).

resflow-train --config=celebahq256_5bit --workdir=runs/celebahq256_5bit --config.data.data_dir=DIR

For the data, see `celebahq64_5bit.py`. The training images, 5.3 GB, are streamed. The paper reports 0.992 bits/dim
in its table of density estimation, on another split into 27,000 and 3,000 images. The published dequantization,
(31 v / 32 + u) / 32, leaves 1/32 of the unit interval empty, so its scores are about log2(32/31) = 0.046 bits/dim
too good. Not reproduced here; the time is not measured. The number of steps is our choice. One batch of 40, for
several GPUs, replaces the published code's sum of the gradients of 5 batches of 8.
"""

from tf_resflow.training import base_config


def get_config():
    """Returns the config: six scales of 16 blocks with ELU and 8 exact terms, no fully connected blocks."""
    config = base_config("celebahq64_5bit")
    config.data.image_size = 256
    config.model.num_blocks = (16,) * 6
    config.model.num_fc_blocks = 0
    config.model.activation = "elu"
    config.model.estimator.train.num_exact_terms = 8
    config.train.batch_size = 40
    config.train.steps = 300 * 675
    config.train.eval_every = 10 * 675
    config.train.checkpoint_every = 675
    config.eval.batch_size = 20
    config.eval.num_samples = 16
    return config
