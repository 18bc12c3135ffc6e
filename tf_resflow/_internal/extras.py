"""Checks that the packages of an extra are installed and that Keras uses TensorFlow."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

__all__ = ["LazyPackage", "check_backend", "extra"]


def check_backend(name: str) -> None:
    """Raises an ImportError if the Keras backend is not "tensorflow"."""
    if name != "tensorflow":
        raise ImportError(
            f"The Keras backend is {name!r}, but tf_resflow requires 'tensorflow'. Set KERAS_BACKEND=tensorflow "
            'or "backend": "tensorflow" in ~/.keras/keras.json.'
        )


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Context manager that turns the import error of a missing package into one that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The package {error.name} is not installed. Run pip install "tf-resflow[{name}]", or install '
            'everything with pip install "tf-resflow[all]".',
            name=error.name,
        ) from None


class LazyPackage:
    """A package from an extra that is imported when one of its attributes is first used."""

    def __init__(self, name: str, extra_name: str) -> None:
        self._name = name
        self._extra = extra_name

    def __getattr__(self, attribute: str) -> Any:
        with extra(self._extra):
            return getattr(importlib.import_module(self._name), attribute)
