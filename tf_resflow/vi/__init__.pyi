from .neutra import neutra_bijector
from .path_derivatives import with_path_derivative
from .surrogate_posteriors import flow_surrogate_posterior
from .targets import checked_log_prob

__all__ = [
    "checked_log_prob",
    "flow_surrogate_posterior",
    "neutra_bijector",
    "with_path_derivative",
]
