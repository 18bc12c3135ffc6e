r"""What helped with small images, combined in another config: DenseNets, CPila and variational dequantization.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR

Half of the steps of the base take about as long: a step takes 2.1 times as long with digits and 2.2 times with
mnist_small. The photographs of bsds32 keep uniform noise, and two thirds of the steps: 1,000 validation images took
4.370 +- 0.019 bits/dim after 469 steps of bsds32_small, and with learned noise 4.473 +- 0.019 after as much time,
350 steps. The 300 test images of digits take 1.771 +- 0.015 bits/dim (1.910 +- 0.016 with the base), the 150 that
are held back for validation 1.769 +- 0.019 after 800 steps (1.916 +- 0.022). 1,000 validation images of MNIST took
1.210 +- 0.009 after 700 steps; with this schedule, 1,500 of mnist_small took 1.345 +- 0.009. The first 1,000 test
images take 3.096 +- 0.028 with fashion_mnist_small. A base of a constant learning rate gets the schedule of these
runs; with 0.012 in the place of its 6e-3, MNIST took 1.190 +- 0.009, and the other data were not tried.
"""

from tf_resflow.config_fields import base_config

_UNIFORM_NOISE = ("bsds32",)  # where learned noise did not pay for the time that it takes


def get_config(base="digits"):
    """Returns the configuration.

    Args:
      base: "NAME" of a config of images in this folder, or "NAME:ARGUMENT".

    Raises:
      ValueError: when the name is unknown.
    """
    config = base_config(f"idensenet:{base or 'digits'}")
    config.model.activation = "cpila"
    if config.data.name in _UNIFORM_NOISE:
        config.train.steps = config.train.steps * 2 // 3
    else:
        config.model.dequantization = "variational"
        config.train.steps //= 2
    if config.train.schedule == "constant":
        config.train.update(schedule="cosine", warmup_steps=100, learning_rate=6e-3, ema_momentum=0.99)
    return config
