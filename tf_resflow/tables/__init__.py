"""Densities of tables: columns of several kinds, `FlowDensity`, its export, and in `runs` what the commands use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
