"""Files of `torch.save`, read without torch, and without executing what is in them."""

import collections
import os
import pathlib
import pickle
import zipfile

import numpy as np

__all__ = ["StoredObject", "read_torch_file"]

_DTYPES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch_file(path):
    """Reads a file of `torch.save`, in its zip format or in the one of PyTorch before 1.6.

    A pickle is a program that calls what it names. Here it can call a few containers and the functions that
    rebuild tensors, which become NumPy arrays. An object of any other class becomes a `StoredObject`, which holds
    its state. Nothing is imported, and a file that calls anything else is refused.

    Args:
      path: the file.

    Returns:
      What was saved.

    Raises:
      ValueError: when the file is missing, truncated, not of `torch.save`, or calls what it must not.
    """
    path = pathlib.Path(path).expanduser()
    try:
        with path.open("rb") as file:
            return _read_zip(file) if file.read(2) == b"PK" else _read_legacy(file)
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror or error}.") from None
    except _RefusedError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # A damaged pickle raises almost anything.
        raise ValueError(
            f"{path} is no file of torch.save, or it is truncated or damaged: {type(error).__name__}: {error}."
        ) from None


class StoredObject:
    """An object of a class that was not loaded.

    Attributes:
      path: name of the class, such as "argparse.Namespace".
      state: what the object held, commonly a dict of its attributes; None if nothing.
    """

    path = None
    state = None

    def __new__(cls, *_, **__):
        """An instance without a state, whatever the arguments of the class."""
        return super().__new__(cls)

    def __setstate__(self, state):
        self.state = state


class _RefusedError(Exception):
    """The file calls what it must not."""


class _Uncallable(type):
    """Of classes that are not loaded: pickle may make an empty instance, and may not call the class."""

    def __call__(cls, *_, **__):
        raise _RefusedError(
            f"it would call {cls.path}, and a checkpoint has no need to. Nothing in it was executed."
        )


class _Unpickler(pickle.Unpickler):
    """Rebuilds containers and tensors only.

    Args:
      file: binary file, at the beginning of a pickle.
      storage: function of a storage's key, dtype and size that returns its numbers.
    """

    def __init__(self, file, storage=None):
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._known = {
            "collections.OrderedDict": collections.OrderedDict,
            "builtins.set": set,
            "torch.Size": tuple,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
        }

    def find_class(self, module, name):
        path = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if path in self._known:
            return self._known[path]
        return _Uncallable(name, (StoredObject,), {"path": path})

    def persistent_load(self, pid):
        if pid[0] == "module":  # A class, beside its source code.
            return pid[1]
        if pid[0] != "storage":
            raise pickle.UnpicklingError(f"unknown kind of object {pid[0]!r}")
        _, kind, key, _, size, *view = pid
        dtype = _DTYPES.get(kind.path.rpartition(".")[2])
        if dtype is None:
            raise pickle.UnpicklingError(f"storage of unknown type {kind.path}")
        storage = self._storage(key, np.dtype(dtype), size)
        if view and view[0] is not None:
            _, start, length = view[0]
            storage = storage[start : start + length]
        return storage

    def _rebuild_tensor(self, storage, offset, shape, strides, *_):
        size = storage.itemsize
        # The constructor checks that the strides stay within the storage.
        return np.ndarray(shape, storage.dtype, storage, offset * size, [size * step for step in strides])

    def _rebuild_parameter(self, data, *_):
        return data


def _read_zip(file):
    """One entry for the pickle, and one for each storage."""
    with zipfile.ZipFile(file) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise pickle.UnpicklingError("the archive has no data.pkl")
        directory = pickled[0].removesuffix("data.pkl") + "data/"

        def storage(key, dtype, size):
            return np.frombuffer(archive.read(directory + key), dtype, size)

        with archive.open(pickled[0]) as entry:
            return _Unpickler(entry, storage).load()


def _read_legacy(file):
    """Five pickles: magic number, version, machine, object, keys of the storages; then the storages."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if [_Unpickler(file).load() for _ in range(3)][:2] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise pickle.UnpicklingError("it does not begin as such a file does")
    storages = {}

    def storage(key, dtype, size):
        if size * dtype.itemsize > file_size:
            raise pickle.UnpicklingError(f"a storage of {size} numbers is larger than the file")
        if key not in storages:
            storages[key] = np.empty(size, dtype)
        return storages[key]

    result = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), "little")
        if size != storages[key].size:
            raise pickle.UnpicklingError(f"a storage has {size} numbers in the place of {storages[key].size}")
        if file.readinto(storages[key].data) != storages[key].nbytes:
            raise pickle.UnpicklingError("it ends within a storage")
    return result
