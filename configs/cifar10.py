r"""CIFAR-10 with the paper's settings: 25.2 million parameters (25,174,129).

resflow-train --config=cifar10 --workdir=runs/cifar10 --config.data.data_dir=DIR

DIR is a TFDS folder; --config.data.download=True downloads the data set. The paper reports 3.280 bits/dim in its
table of density estimation (not reproduced here); the time is not measured. Most image configs extend this one.

Two settings differ between the paper and its published code, and follow the paper here: the number of terms is
geometric (the code's default is Poisson, whose variance is infinite), and the weight decay is 5e-4 (it has no
effect in the code). Gradients are clipped to norm 1, as in the code.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the config: three scales of 16 blocks, four fully connected blocks; 350 epochs."""
    config = default_config()
    config.model.activation = "lipswish"
    config.data.name = "cifar10"
    config.data.flip = True
    config.data.validation_fraction = 0.0  # as in the paper
    config.model.num_blocks = (16, 16, 16)
    config.model.width = 512
    config.model.num_fc_blocks = 4
    config.model.fc_width = 128
    config.model.logit_alpha = 0.05
    config.train.steps = 350 * 781
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 1000
    config.train.global_clipnorm = 1.0
    config.train.eval_every = 10 * 781
    config.train.checkpoint_every = 781
    config.eval.batch_size = 200
    return config
