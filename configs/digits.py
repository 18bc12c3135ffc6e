r"""scikit-learn's digits, 8 x 8 pixels with 17 levels: trains in minutes on two cores.

resflow-train --config=digits --workdir=runs/digits

1,500 steps of 0.18 s on two quiet cores, under 10 minutes on busy ones: 1.925 +- 0.016 bits/dim on the 300 test
images (uniform 4.09, full-covariance Gaussian 2.95), 1.931 +- 0.022 on the 150 that are held back for validation.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the configuration: two scales of four blocks, four fully connected blocks."""
    config = default_config()
    config.data.name = "digits"
    config.model.num_blocks = (4, 4)
    config.model.width = 64
    config.model.num_fc_blocks = 4
    config.model.fc_width = 64
    config.model.logit_alpha = 0.05
    config.train.steps = 1500
    config.train.batch_size = 64
    config.train.learning_rate = 8e-3
    config.train.warmup_steps = 100
    config.train.schedule = "cosine"
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    return config
