r"""What helped with small images, combined in another config: DenseNets, CPila and variational dequantization.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR

Half of the steps of the base take about as long: a step takes 2.1 times as long with digits and 2.2 times with
mnist_small. The photographs of bsds32 keep uniform noise, and two thirds of the steps, since learned noise did not
pay for its time there. The 300 test images of digits score 1.771 +- 0.015 bits/dim (1.910 +- 0.016 with the base),
the 150 that are held back for validation 1.769 +- 0.019 after 800 steps (1.916 +- 0.022). A base of a constant
learning rate gets a schedule, whose rate was chosen on 1,000 validation images: 0.012 scored 1.190 +- 0.009 on
MNIST (700 steps), 3.089 +- 0.028 on Fashion-MNIST (750) and 4.284 +- 0.019 on bsds32 (469), and 0.006 scored
1.210, 3.125 and 4.370. More in docs/results.md.
"""

from tf_resflow.training import base_config

_UNIFORM_NOISE = ("bsds32",)  # where learned noise did not pay for the time that it takes


def get_config(base="digits"):
    """Returns the config of the name `base`, changed."""
    config = base_config(f"idensenet:{base}")
    config.model.activation = "cpila"
    if config.data.name in _UNIFORM_NOISE:
        config.train.steps = config.train.steps * 2 // 3
    else:
        config.model.dequantization = "variational"
        config.train.steps //= 2
    if config.train.schedule == "constant":
        config.train.update(schedule="cosine", warmup_steps=100, learning_rate=1.2e-2, ema_momentum=0.99)
    return config
