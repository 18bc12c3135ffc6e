from .encoder import TableEncoder
from .flow_density import FlowDensity

__all__ = ["FlowDensity", "TableEncoder"]
