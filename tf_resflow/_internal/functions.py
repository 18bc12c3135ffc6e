"""The functions that files of this library name. They import Keras when they are called (see `registration`)."""

from typing import Any

_LINEAR = 4.0  # standard deviations within which `compressed` is nearly linear


def _relu(x):
    from keras import ops

    return ops.maximum(0.0, x)


def compressed(x: Any) -> Any:
    """Maps standardized values, nearly unchanged up to a few deviations and logarithmically far beyond."""
    from keras import ops

    return _LINEAR * ops.arcsinh(x / _LINEAR)
