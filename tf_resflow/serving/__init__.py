"""Serving: a model as a SavedModel that TensorFlow Serving, or TensorFlow in any language, runs by itself."""

from tf_resflow.serving.export import export, export_run
from tf_resflow.serving.signatures import Signatures

__all__ = ["Signatures", "export", "export_run"]
