r"""MNIST with a small model, for a machine without a GPU.

resflow-train --config=mnist_small --workdir=runs/mnist_small --config.data.data_dir=DIR

DIR is a TFDS folder, by default TFDS's own; --config.data.download=True downloads the data set. 1,500 steps gave
1.512 +- 0.010 bits/dim on the first 1,000 test images with the averaged weights, which lag behind after so few
steps, and 1.474 +- 0.010 with the weights of the last step. docs/results.md compares it with the published code.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the config: three scales of two blocks, four fully connected blocks."""
    config = default_config()
    config.model.activation = "lipswish"
    config.data.name = "mnist"
    config.data.validation_fraction = 0.0  # as in the paper
    config.model.num_blocks = (2, 2, 2)
    config.model.width = 64
    config.model.num_fc_blocks = 4
    config.model.fc_width = 64
    config.model.logit_alpha = 1e-6
    config.train.steps = 1500
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 1000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.eval.num_examples = 1000
    return config
