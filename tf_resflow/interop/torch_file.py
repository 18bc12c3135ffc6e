"""Reads files of `torch.save` without torch, and without executing their content.

`torch.load(weights_only=True)` refuses the published checkpoints: their moving average holds the whole model, and
the format of PyTorch before 1.6 refers to its classes in a way that only an unsafe load allows.
"""

import collections
import io
import math
import mmap
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

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
_MOST_DIMENSIONS = 64  # of a tensor
_Read = Callable[[str, np.dtype, int], np.ndarray]


def read_torch_file(path: str | os.PathLike) -> Any:
    """Reads a file of `torch.save`, in its zip format or in the format of PyTorch before 1.6.

    A pickle is a program that calls functions by name. Here it can call `OrderedDict` and the functions that
    rebuild tensors, which become NumPy arrays. A set becomes a list, and any other object a `StoredObject`.
    Nothing is imported, and a file that calls anything else is refused. Memory is bounded by the size of the file:
    tensors are views of its storages, which must be uncompressed and are read once each.

    Raises:
      ValueError: when the file is missing, truncated, not made by `torch.save`, or makes a forbidden call.
    """
    path = pathlib.Path(path).expanduser()
    try:
        with path.open("rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_zip(file, len(data)) if data[:2] == b"PK" else _read_legacy(data)
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror or error}.") from None
    except _RefusedError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(
            f"{path} is not a file of torch.save, or it is truncated or damaged: {type(error).__name__}: {error}. "
            "Download it again, or save it again with torch.save."
        ) from None


class StoredObject:
    """An object of a class that was not loaded.

    A pickle makes an empty instance of a class, by `__new__`; it may not call one, which also calls `__init__`.

    Attributes:
      path: name of the class, such as "argparse.Namespace".
      state: content of the object, usually a dict of its attributes; None if nothing.
    """

    path: str | None = None
    state: Any = None

    def __new__(cls, *_, **__):
        """An instance without a state, whatever the arguments of the class."""
        return super().__new__(cls)

    def __init__(self, *_, **__):
        raise _RefusedError(
            f"it would call {self.path}, and a checkpoint has no need to. Nothing in it was executed."
        )

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RefusedError(Exception):
    """The file makes a forbidden call."""


class _Function:
    """A function that a pickle may call, and cannot change."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state):
        raise TypeError("a state for a function")


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """A view of a storage, all of whose elements are in it; NumPy does not check all of it."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise pickle.UnpicklingError("a tensor without a storage")
    if len(shape) > _MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor of {len(shape)} dimensions")
    _check_counts(offset, *shape, *strides)
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if not count:
        return np.empty(shape, storage.dtype)
    if last >= storage.size or count > storage.size:
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"in a storage of {storage.size} numbers"
        )
    size = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * size, [size * step for step in strides])


def _rebuild_parameter(data, *_):
    if not isinstance(data, np.ndarray):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


def _check_counts(*counts):
    """Raises an error unless all counts are integers, not negative, and fit 64 bits."""
    for count in counts:
        if type(count) is not int or not 0 <= count < 2**63:
            raise pickle.UnpicklingError("a size, a stride or an offset that is not a count")


# None of them copies its arguments: calls that repeat them take no memory.
_FUNCTIONS = {
    "collections.OrderedDict": _Function(lambda: collections.OrderedDict()),
    "builtins.set": _Function(lambda items=(): items),
    "torch.Size": _Function(lambda lengths=(): lengths),
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
}


class _Unpickler(pickle.Unpickler):
    """Rebuilds containers and tensors only.

    Args:
      file: at the start of a pickle; afterwards at its end.
      read: function of a key, a dtype and a size that returns the array of a storage; called once for each key.
      limit: bytes of all storages together, the size of the file; 0 if there may be none.
    """

    def __init__(self, file, read: _Read = lambda *_: np.empty(0), limit: int = 0):
        super().__init__(io.BytesIO(_program(file)), encoding="utf-8")
        self.storages: dict[str, np.ndarray] = {}
        self._read = read
        self._left = limit

    def find_class(self, module, name):
        path = f"{'builtins' if module == '__builtin__' else module}.{name}"
        return _FUNCTIONS.get(path) or type(name, (StoredObject,), {"path": path})

    def persistent_load(self, pid):
        if pid[0] == "module" and issubclass(pid[1], StoredObject):  # a class, beside its source code
            return pid[1]
        if pid[0] != "storage" or type(pid[2]) is not str or any(pid[5:]):
            raise pickle.UnpicklingError("unknown kind of object")
        kind, key, _, size = pid[1:5]
        if (name := kind.path.rpartition(".")[2]) not in _DTYPES:
            raise pickle.UnpicklingError(f"storage of unknown type {kind.path}")
        dtype = np.dtype(_DTYPES[name])
        _check_counts(size)
        if key not in self.storages:
            self._left -= size * dtype.itemsize
            if self._left < 0:
                raise pickle.UnpicklingError(f"with a storage of {size} numbers it is larger than the file")
            self.storages[key] = self._read(key, dtype, size)
        if (self.storages[key].dtype, self.storages[key].size) != (dtype, size):
            raise pickle.UnpicklingError(f"storage {key!r} has two sizes or types")
        return self.storages[key]


def _program(file):
    """The bytes of the pickle at the position of a file.

    A memo is an array as long as its largest index. An honest pickle counts, below the number of opcodes.
    """
    start = file.tell()
    argument: Any
    for position, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name.endswith("PUT") and argument > position:
            raise pickle.UnpicklingError(f"index {argument} of its memo after {position} opcodes")
    size = file.tell() - start
    file.seek(start)
    return file.read(size)


def _read_zip(file, file_size):
    """Reads a zip archive with one entry for the pickle, and one for each storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = [name for name in names if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise pickle.UnpicklingError("the archive has no data.pkl")
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and _entry(archive, f"{root}byteorder", 6) != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")

        def read(key, dtype, size):
            return np.frombuffer(_entry(archive, f"{root}data/{key}", size * dtype.itemsize), dtype)

        program = _entry(archive, pickled[0], min(archive.getinfo(pickled[0]).file_size, file_size))
        return _Unpickler(io.BytesIO(program), read, file_size).load()


def _entry(archive, name, size):
    """The bytes of an entry of this size that is not compressed, and hence no larger than the file."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"its entry {name} is compressed, which torch.save does not do")
    if not entry.file_size == entry.compress_size == size:
        raise pickle.UnpicklingError(f"its entry {name} has {entry.file_size} bytes instead of {size}")
    return archive.read(entry)


def _read_legacy(data):
    """Reads five pickles: magic number, version, machine, object, keys of the storages; then the storages."""
    magic, protocol, machine = (_Unpickler(data).load() for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise pickle.UnpicklingError("it does not begin like such a file")
    if not machine["little_endian"]:
        raise pickle.UnpicklingError("its numbers are big-endian")
    unpickler = _Unpickler(data, lambda key, dtype, size: np.zeros(size, dtype), len(data))
    result = unpickler.load()
    keys = _Unpickler(data).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError(f"it lists {len(keys)} storages, which are not those that its tensors use")
    for key in keys:
        array = unpickler.storages[key]
        size = int.from_bytes(data.read(8), "little")
        if size != array.size:
            raise pickle.UnpicklingError(f"a storage has {size} numbers instead of {array.size}")
        array[:] = np.frombuffer(data.read(array.nbytes), array.dtype, count=size)
    return result
