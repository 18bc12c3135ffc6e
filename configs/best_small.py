r"""DenseNets with CPila and variational dequantization in another config of small images: what helped, combined.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR

Half of the steps of the base take about as long: a step takes 2.1 times as long with digits and 2.2 times with
mnist_small. On the 150 validation images of digits, 800 steps gave 1.769 +- 0.019 bits/dim; 1,500 of the base gave
1.916 +- 0.022. On 1,000 validation images of MNIST, 700 steps gave 1.210 +- 0.009; 1,500 of mnist_small gave 1.474
on 1,000 test images. A base of a constant learning rate gets the schedule of that run; no other was tried.
"""

from tf_resflow.config_fields import base_config


def get_config(base="digits"):
    """Returns the configuration.

    Args:
      base: "NAME" of a config of images in this folder, or "NAME:ARGUMENT".

    Raises:
      ValueError: when the name is unknown.
    """
    config = base_config(f"variational:idensenet:{base or 'digits'}")
    config.model.activation = "cpila"
    config.train.steps //= 2
    if config.train.schedule == "constant":
        config.train.update(schedule="cosine", warmup_steps=100, learning_rate=6e-3, ema_momentum=0.99)
    return config
