"""Export of models as SavedModels that need only TensorFlow, in any language, or TensorFlow Serving."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
