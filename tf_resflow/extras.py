"""Packages that `pip install tf-resflow` leaves out, and its extras install."""

import contextlib

__all__ = ["extra"]


@contextlib.contextmanager
def extra(name):
    """Within it an import of what is not installed is an error that names the extra.

    Args:
      name: of the extra: data, plots, serving, training.

    Raises:
      ImportError: when a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The package {error.name} is not installed: pip install "tf-resflow[{name}]", or "tf-resflow[all]".',
            name=error.name,
        ) from None
