"""The formats of `FlowModel.export`, with the functions that write them.

The functions belong to applications, which the library does not import. `tf_resflow.registration` adds them.
"""

from collections.abc import Callable

EXPORT_FORMATS: dict[str, Callable[..., None]] = {}  # each is called with the model, the path and the settings
