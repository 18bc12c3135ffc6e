"""Variational inference: flows as surrogate posteriors of `tfp.vi`, and as bijectors of `tfp.mcmc`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
