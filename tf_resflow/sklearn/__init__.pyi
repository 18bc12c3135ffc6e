from .flow_density import FlowDensity

__all__ = ["FlowDensity"]
