r"""Monotone blocks (Ahn et al. 2022) instead of residual blocks, in another config.

resflow-train --config=monotone:digits --workdir=runs/monotone
resflow-train --config=monotone:idensenet:cifar10 --workdir=runs/monotone_cifar10 --config.data.data_dir=DIR

A block stretches by up to (1 + L) / (1 - L) instead of 1 + L. The series of its log-determinant has only odd
powers, so 2.4 terms in expectation take about as many products as the 4 of the base. A step takes 1.7 to 2.1 times
as long, because it solves an equation, and another for the gradient (to a thousandth, see
`tf_resflow.bijectors.Networks`).

With digits, 300 steps and three seeds, the 150 validation images scored 2.044 +- 0.009 bits/dim, and the base 2.062
+- 0.006; after 179 steps, as long as 300 of the base, 2.126 +- 0.008. With mnist_small, 100 steps and three seeds,
500 images scored 1.679 +- 0.008, and the base 1.884 +- 0.004; after 51 steps, as long as 100 of the base, 1.944 +-
0.005.

DenseNets, as in the second command, have the activation CPila, as in the published code. With CIFAR-10, the
architecture is the published one, with 24.9 million parameters (24,894,430). The published code uses 10 exact terms
and Poisson(2) more; it is not reproduced here, and the time is not measured.
"""

from tf_resflow.training import base_config


def get_config(base="digits"):
    """Returns the changed config of the name `base`."""
    config = base_config(base)
    config.model.block = "monotone"
    if config.model.branch == "dense_net":
        config.model.activation = "cpila"
    config.model.estimator.train.num_exact_terms = 1
    config.model.estimator.train.p = 0.7
    return config
