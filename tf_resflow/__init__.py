"""Residual Flows for TensorFlow Probability.

The library is what you compose. Each package builds on those above it:

- `layers`: Lipschitz-constrained Keras layers and activations, and bounds on their norms
- `logdet`: estimators of log-determinants
- `solvers`: fixed-point solvers for the inverse
- `bijectors`: residual blocks, couplings and other bijectors, and `Flow`, which composes them
- `flows`: functions that build branches, vector flows and image flows
- `vi`: surrogate posteriors, path derivatives and NeuTra
- `models`: `FlowModel` and `HybridModel`, which Keras trains on data

The applications are what you run. They build on the library:

- `data`: input pipelines for images, digits and densities in the plane
- `evaluation`: likelihoods with standard errors, certificates, calibration, FID and figures
- `sbi`: posteriors and likelihoods of simulators
- `serving`: export as a SavedModel
- `training`: configs, the training loop, checkpoints and metrics
- `interop`: checkpoints of the published PyTorch code
- `tables`: `FlowDensity`, the density of a table
- `cli`: the commands
"""

import os

import lazy_loader

from tf_resflow._internal.extras import check_backend
from tf_resflow.registration import register_names

check_backend(os.environ.get("KERAS_BACKEND", "tensorflow"))
register_names()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
