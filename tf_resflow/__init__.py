"""Residual Flows for TensorFlow Probability."""

import os

import lazy_loader

from tf_resflow.extras import check_backend
from tf_resflow.registration import register_names

check_backend(os.environ.get("KERAS_BACKEND", "tensorflow"))
register_names()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
