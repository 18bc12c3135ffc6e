"""Scikit-learn estimators of the densities of tables. Requires the extra "sklearn"."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
