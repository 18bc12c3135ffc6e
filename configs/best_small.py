r"""DenseNets with CPila and variational dequantization in another config of small images: what helped, combined.

resflow-train --config=best_small:digits --workdir=runs/best_digits
resflow-train --config=best_small:mnist_small --workdir=runs/best_mnist --config.data.data_dir=DIR
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
    return config
