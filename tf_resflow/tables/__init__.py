"""Densities of tables: columns of several kinds, files, `FlowDensity`, and the runs of the commands."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
