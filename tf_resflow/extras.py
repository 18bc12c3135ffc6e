"""Packages that `pip install tf-resflow` does not install, but its extras do."""

import contextlib
from collections.abc import Iterator

__all__ = ["extra"]


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
