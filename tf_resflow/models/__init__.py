"""Models: a flow and its data as a Keras model, built from a config, and its training step."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
