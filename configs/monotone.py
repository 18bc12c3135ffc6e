r"""Monotone blocks (Ahn et al. 2022) in the place of residual ones, in another config.

resflow-train --config=monotone:digits --workdir=runs/monotone
resflow-train --config=monotone:mnist_small --workdir=runs/monotone_mnist --config.data.data_dir=DIR

A block stretches by up to (1 + L) / (1 - L) instead of 1 + L. The series of its log-determinant has odd powers
only: 2.4 terms in expectation take about as many products as the 4 of the base. A step takes about twice as long,
since it solves an equation, and another one for its gradient.
"""

import importlib
import pathlib

from tf_resflow.config_fields import suggest


def get_config(base="digits"):
    """Returns the configuration.

    Args:
      base: name of a config in this folder.

    Raises:
      ValueError: when the name is unknown.
    """
    base = base or "digits"
    known = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("*.py"))
    if base not in known:
        raise ValueError(f"Unknown config {base!r}; {suggest(base, known)} Give --config=monotone:NAME.")
    config = importlib.import_module(f"configs.{base}").get_config()
    config.model.block = "monotone"
    config.model.estimator.train.num_exact_terms = 1
    config.model.estimator.train.p = 0.7
    return config
