"""Serving: a model as a SavedModel that TensorFlow Serving, or TensorFlow in any language, runs by itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
