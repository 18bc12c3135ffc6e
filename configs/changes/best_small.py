r"""What helped with small images, combined in another config: DenseNets, CPila, Muon, and the right start of the noise.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR

FIGURES
"""

from tf_resflow.training import base_config

_PHOTOGRAPHS = ("bsds32", "cifar10")
_BATCH = 16  # as many images in smaller batches: more steps, which also take less time an image


def get_config(base="digits"):
    """Returns the config of the name `base`, changed."""
    config = base_config(f"idensenet:{base}")
    config.model.activation = "cpila"
    if config.data.name in _PHOTOGRAPHS:
        config.model.update(whiten=True, logit_alpha=None)
        config.train.steps = config.train.steps * 2 // 3
    else:
        config.model.dequantization = "variational"
        config.train.steps //= 2
    train = config.train
    if train.schedule == "constant":
        times = train.batch_size // _BATCH
        train.update(steps=times * train.steps, eval_every=times * train.eval_every, batch_size=_BATCH)
        train.update(optimizer="muon", learning_rate=1.4e-2, schedule="cosine", warmup_steps=200, ema_momentum=0.99)
    return config
