"""What only the commands need: table files, and the configs, folders and figures of runs on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
