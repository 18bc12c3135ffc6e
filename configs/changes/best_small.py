r"""Changes that improve scores on small images, combined: DenseNets, CPila, Muon, and a better initialization.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR

Test scores in bits/dim, and minutes of one processor core in parentheses, after 2,000 steps: digits 1.742 +- 0.015
(4), MNIST 1.116 +- 0.008 (12), Fashion-MNIST 2.986 +- 0.027 (12), bsds32 3.997 +- 0.022 (16). Longer runs with
--config.train.warmup_steps=500 --config.train.ema_momentum=0.995: MNIST 1.061 +- 0.003 (91, 27,000 steps), bsds32
3.930 +- 0.011 (90, 21,000 steps), Fashion-MNIST 2.940 +- 0.009 (48, 15,000 steps). Also with
--config.model.growth=64: MNIST 1.051 +- 0.002 (133, 18,000 steps). docs/results.md compares the changes.
"""

import math

from tf_resflow.training import base_config

_BLACK = ("digits", "mnist", "fashion_mnist")  # most of their pixels are 0; all others are photographs
_BATCH = 16  # allows more steps for the same number of images


def get_config(base="digits"):
    """Returns the changed config of the name `base`, which sees a third of the images, in small batches."""
    config = base_config(f"idensenet:{base}")
    config.model.activation = "cpila"
    if config.data.name in _BLACK:
        config.model.dequantization = "variational"
    else:
        config.model.update(whiten=True, logit_alpha=None)
    train = config.train
    for count in ("steps", "eval_every"):
        train[count] = math.ceil(train[count] * train.batch_size / _BATCH / 3)
    train.batch_size = _BATCH
    train.update(optimizer="muon", learning_rate=1.4e-2, schedule="cosine", warmup_steps=200, ema_momentum=0.99)
    return config
