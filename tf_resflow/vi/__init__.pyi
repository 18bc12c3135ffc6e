from .neutra import neutra_bijector
from .path_derivatives import with_path_derivative
from .plateau import Plateau
from .surrogate_posteriors import flow_surrogate_posterior

__all__ = [
    "Plateau",
    "flow_surrogate_posterior",
    "neutra_bijector",
    "with_path_derivative",
]
