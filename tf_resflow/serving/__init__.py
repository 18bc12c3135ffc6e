"""Serving: a model as a SavedModel that TensorFlow Serving, or TensorFlow in any language, runs by itself."""

import lazy_loader

from tf_resflow.renamed import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
