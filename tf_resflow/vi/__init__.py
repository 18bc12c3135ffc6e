"""Variational inference: flows as surrogate posteriors for `tfp.vi`, and as bijectors for `tfp.mcmc`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
