"""Defaults that several packages share."""

__all__ = ["COEFFICIENT"]

COEFFICIENT = 0.98  # Lipschitz bound of each linear layer as in the published code
