from .neutra import neutra_bijector
from .path_derivatives import with_path_derivative
from .surrogate_posteriors import flow_surrogate_posterior

__all__ = [
    "flow_surrogate_posterior",
    "neutra_bijector",
    "with_path_derivative",
]
