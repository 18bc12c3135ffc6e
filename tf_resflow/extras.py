"""Checks of the environment: the packages of the extras, and the backend of Keras."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

__all__ = ["LazyPackage", "check_backend", "extra"]


def check_backend(name: str) -> None:
    """Raises an ImportError if the name of the Keras backend is not "tensorflow"."""
    if name != "tensorflow":
        raise ImportError(
            f"tf_resflow needs Keras on TensorFlow, but the backend is {name!r}: set KERAS_BACKEND=tensorflow, or "
            '"backend": "tensorflow" in ~/.keras/keras.json.'
        )


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """A context in which the import of a missing package is an ImportError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The package {error.name} is not installed: pip install "tf-resflow[{name}]", or "tf-resflow[all]".',
            name=error.name,
        ) from None


class LazyPackage:
    """A package of an extra, which is imported when one of its names is first used."""

    def __init__(self, name: str, extra_name: str) -> None:
        self._name, self._extra = name, extra_name

    def __getattr__(self, attribute: str) -> Any:
        with extra(self._extra):
            return getattr(importlib.import_module(self._name), attribute)
