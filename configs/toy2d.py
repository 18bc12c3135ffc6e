r"""A 2-D density with known entropy, the best possible score.

resflow-train --config=toy2d --workdir=runs/toy2d --config.data.name=pinwheel

The data sets are 8gaussians, checkerboard (default), pinwheel, rings, circles, moons, 2spirals and swissroll. On
the checkerboard, 2,000 steps, a minute and a half of processor time, gave 3.628 +- 0.003 nats on 10,000 test
examples (entropy 3.466, Gaussian 4.493).

The blocks are narrower and fewer than the paper's. Their activation CPila is 1-Lipschitz only in the norm of order
2; for other norms, set --config.model.activation=lipswish.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the config: blocks of fully connected layers of width 64."""
    config = default_config()
    config.data.name = "checkerboard"
    config.model.kind = "vector"
    config.model.num_blocks = (8,)
    config.model.activation = "cpila"
    config.model.coefficient = 0.97
    config.model.hidden = (64, 64)
    config.train.steps = 2000
    config.train.batch_size = 500
    config.train.learning_rate = 1e-2
    config.train.schedule = "cosine"
    config.train.eval_every = 1000
    config.train.checkpoint_every = 1000
    config.eval.batch_size = 2000
    return config
