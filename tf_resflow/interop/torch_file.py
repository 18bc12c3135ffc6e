"""Reads files of `torch.save` without torch, and without executing their content."""

import collections
import io
import math
import mmap
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Sequence
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
_MOST_PARTS = 10_000  # of a tuple and the tuples in it: hashing one recurses
_MOST_DIMENSIONS = 64  # of a tensor
_TUPLES = ("FROZENSET", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


def read_torch_file(path: str | os.PathLike) -> Any:
    """Reads a file of `torch.save`, in its zip format or in the format of PyTorch before 1.6.

    A pickle is a program that calls functions by name. Here it can call a few containers and the functions that
    rebuild tensors, which become NumPy arrays. An object of any other class becomes a `StoredObject`, which holds
    its state. Nothing is imported, and a file that calls anything else is refused. Memory is bounded by the size of
    the file: tensors are views of its storages, which must be uncompressed and stored once each.

    Args:
      path: the file.

    Returns:
      The saved object.

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

    Attributes:
      path: name of the class, such as "argparse.Namespace".
      state: content of the object, usually a dict of its attributes; None if nothing.
    """

    path: str | None = None
    state: Any = None

    def __new__(cls, *_, **__):
        """An instance without a state, whatever the arguments of the class."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RefusedError(Exception):
    """The file makes a forbidden call."""


class _Uncallable(type):
    """The type of classes that are not loaded: pickle may make an empty instance, and may not call the class."""

    path: str

    def __call__(cls, *_, **__):
        raise _RefusedError(
            f"it would call {cls.path}, and a checkpoint has no need to. Nothing in it was executed."
        )


class _Function:
    """A function that a pickle may call, and cannot change."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state):
        raise TypeError("a state for a function")


class _Unpickler(pickle.Unpickler):
    """Rebuilds containers and tensors only.

    Args:
      program: bytes of a pickle.
      storages: the storages of its tensors, if it may have any.
    """

    def __init__(self, program: bytes, storages: "_Storages | None" = None) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self._storages = storages
        self._left = len(program)
        known: dict[str, Callable] = {
            "collections.OrderedDict": lambda *parts: collections.OrderedDict(*map(self._once, parts)),
            "builtins.set": lambda *parts: set(*map(self._once, parts)),
            "torch.Size": lambda *parts: _size(*map(self._once, parts)),
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        }
        self._known = {name: _Function(function) for name, function in known.items()}

    def find_class(self, module, name):
        path = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if path in self._known:
            return self._known[path]
        return _Uncallable(name, (StoredObject,), {"path": path})

    def persistent_load(self, pid):
        if pid[0] == "module" and isinstance(pid[1], _Uncallable):  # a class, beside its source code
            return pid[1]
        if pid[0] != "storage" or self._storages is None:
            raise pickle.UnpicklingError("unknown kind of object")
        _, kind, key, _, size, *view = pid
        dtype = _DTYPES.get(kind.path.rpartition(".")[2])
        if dtype is None:
            raise pickle.UnpicklingError(f"storage of unknown type {kind.path}")
        storage = self._storages.take(key, np.dtype(dtype), size)
        if view and view[0] is not None:
            _, start, length = view[0]
            _check_counts("view of a storage", (start, length))
            if start + length > size:
                raise pickle.UnpicklingError(f"a view ends at number {start + length} of a storage of {size}")
            storage = storage[start : start + length]
        return storage

    def _once(self, parts):
        """The parts of a container. An honest pickle has an opcode for each part; a repeated list needs none."""
        self._left -= len(parts)
        if self._left < 0:
            raise pickle.UnpicklingError("it repeats its containers")
        return parts


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """A view of a storage, all of whose elements are in it."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise pickle.UnpicklingError("a tensor without a storage")
    shape, strides = _size(shape), _size(strides)
    _check_counts("offset", (offset,))
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} with the strides {strides}")
    count = math.prod(shape)
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if count and (last >= storage.size or count > storage.size):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"in a storage of {storage.size} numbers"
        )
    if not count:
        return np.empty(shape, storage.dtype)
    size = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * size, [size * step for step in strides])


def _rebuild_parameter(data, *_):
    if not isinstance(data, np.ndarray):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


def _size(lengths=()):
    """Lengths or strides of a tensor."""
    if len(lengths) > _MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor of {len(lengths)} dimensions")
    _check_counts("length or stride", lengths)
    return tuple(lengths)


def _check_counts(name: str, counts: Iterable) -> None:
    """Raises an error unless all counts are integers, not negative, and fit 64 bits."""
    for count in counts:
        if type(count) is not int or not 0 <= count < 2**63:
            shown = count if type(count) is int and abs(count) < 2**99 else type(count).__name__
            raise pickle.UnpicklingError(f"a {name} of {shown}")


class _Storages:
    """The arrays of a file's storages, which together are no larger than the file.

    Args:
      limit: size of the file in bytes.
      read: function of a key, a dtype and a size that returns an array; it is called once for each key.
    """

    def __init__(self, limit: int, read: Callable[[str, np.dtype, int], np.ndarray]) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._left = limit
        self._read = read

    def take(self, key: str, dtype: np.dtype, size: int) -> np.ndarray:
        _check_counts("size of a storage", (size,))
        if type(key) is not str:
            raise pickle.UnpicklingError("the name of a storage is not text")
        if key not in self.arrays:
            self._left -= size * dtype.itemsize
            if self._left < 0:
                raise pickle.UnpicklingError(f"with a storage of {size} numbers it is larger than the file")
            self.arrays[key] = self._read(key, dtype, size)
        array = self.arrays[key]
        if (array.dtype, array.size) != (dtype, size):
            raise pickle.UnpicklingError(f"storage {key!r} has two sizes or types")
        return array

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises an error unless the file lists each storage in use once, and no others."""
        if sorted(keys) != sorted(self.arrays):
            raise pickle.UnpicklingError(
                f"it lists {len(keys)} storages, which are not the {len(self.arrays)} that its tensors use"
            )


def _scan(file):
    """The bytes of the pickle at the position of a file, after a check that its result is small.

    A memo is an array as long as its largest index. An honest pickle counts, hence an index is below the number
    of opcodes. Hashing a tuple visits all parts of the tuples in it: they are counted on a stack like the pickle's.
    """
    start = file.tell()
    stack: list[int | None] = []
    memo: dict[int, int | None] = {}
    argument: Any
    for position, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name.endswith("PUT"):
            if argument > position:
                raise pickle.UnpicklingError(f"index {argument} of its memo after {position} opcodes")
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            popped = _pop(stack, opcode.stack_before)
            parts = 1 + sum(popped) if name in _TUPLES else 1  # hashing visits the parts of tuples alone
            if parts > _MOST_PARTS:
                raise pickle.UnpicklingError(f"a tuple of more than {_MOST_PARTS} parts")
            stack += [None if kind is pickletools.markobject else parts for kind in opcode.stack_after]
    size = file.tell() - start
    file.seek(start)
    return file.read(size)


def _pop(stack, kinds):
    """Pops the arguments of an opcode: all down to the last mark, if it takes one, and then a fixed number."""
    popped = []
    if pickletools.markobject in kinds:
        kinds = kinds[: kinds.index(pickletools.markobject)]
        while (part := stack.pop()) is not None:
            popped.append(part)
    return popped + [stack.pop() or 0 for _ in kinds]


def _read_zip(file, file_size):
    """Reads a zip archive with one entry for the pickle, and one for each storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = [name for name in names if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise pickle.UnpicklingError("the archive has no data.pkl")
        root = pickled[0].removesuffix("data.pkl")
        directory = f"{root}data/"
        if f"{root}byteorder" in names and _entry(archive, f"{root}byteorder", 6) != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")

        def read(key, dtype, size):
            return np.frombuffer(_entry(archive, directory + key, size * dtype.itemsize), dtype)

        storages = _Storages(file_size, read)
        program = _entry(archive, pickled[0], min(archive.getinfo(pickled[0]).file_size, file_size))
        result = _Unpickler(_scan(io.BytesIO(program)), storages).load()
        storages.check_keys([name.removeprefix(directory) for name in names if name.startswith(directory)])
        return result


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
    magic, protocol, machine = (_Unpickler(_scan(data)).load() for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise pickle.UnpicklingError("it does not begin like such a file")
    if not machine["little_endian"]:
        raise pickle.UnpicklingError("its numbers are big-endian")
    storages = _Storages(len(data), lambda key, dtype, size: np.zeros(size, dtype))
    result = _Unpickler(_scan(data), storages).load()
    keys = _Unpickler(_scan(data)).load()
    storages.check_keys(keys)
    for key in keys:
        array = storages.arrays[key]
        size = int.from_bytes(data.read(8), "little")
        if size != array.size:
            raise pickle.UnpicklingError(f"a storage has {size} numbers instead of {array.size}")
        numbers = data.read(array.nbytes)
        if len(numbers) != array.nbytes:
            raise pickle.UnpicklingError("it ends within a storage")
        array[:] = np.frombuffer(numbers, array.dtype)
    return result
