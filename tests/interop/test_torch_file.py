"""The reader: formats, tensors, stubs, and files that would run something."""

import builtins
import collections
import io
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
import warnings
import zipfile

import numpy as np
import pytest

from tf_resflow.interop.torch_file import StoredObject, read_torch_file

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage:
    """Numbers that a pickle refers to by a key."""

    def __init__(self, key, kind, numbers):
        self.key, self.kind, self.numbers = key, kind, numbers


class Tensor:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, storage, offset, shape, strides, parameter=False):
        self.arguments = storage, offset, shape, strides, False, collections.OrderedDict()
        self.parameter = parameter

    def __reduce__(self):
        import torch

        if self.parameter:
            plain = Tensor(*self.arguments[:4])
            return torch._utils._rebuild_parameter, (plain, True, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.fixture
def torch_names(monkeypatch):
    """Stand-ins under the names that PyTorch's pickles use."""

    def named(module, name, value):
        value.__module__, value.__qualname__, value.__name__ = module, name, name
        monkeypatch.setattr(sys.modules[module], name, value, raising=False)

    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    modules["torch"]._utils = modules["torch._utils"]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        named("torch._utils", name, lambda *_: None)
    for name in ("FloatStorage", "LongStorage", "BoolStorage", "BFloat16Storage"):
        named("torch", name, type(name, (), {}))
    return modules["torch"]


def pickled(value, legacy=False):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                kind = getattr(sys.modules["torch"], value.kind)
                view = (None,) if legacy else ()
                return ("storage", kind, value.key, "cpu", len(value.numbers), *view)
            return getattr(value, "persistent_id", None)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def write_zip(path, program, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.numbers.tobytes())
    return path


def write_legacy(path, program, storages=()):
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True})]
    parts += [program, pickle.dumps([storage.key for storage in storages], 2)]
    for storage in storages:
        parts += [struct.pack("<q", len(storage.numbers)), storage.numbers.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


FORMATS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@FORMATS
def test_tensors(write, tmp_path, torch_names):
    numbers = np.arange(12, dtype=np.float32)
    floats = Storage("0", "FloatStorage", numbers)
    whole = Storage("1", "LongStorage", np.array([7], np.int64))
    flags = Storage("2", "BoolStorage", np.array([True, False]))
    value = {
        "matrix": Tensor(floats, 0, (3, 4), (4, 1)),
        "transposed": Tensor(floats, 0, (4, 3), (1, 4)),
        "part": Tensor(floats, 5, (2, 2), (4, 1), parameter=True),
        "scalar": Tensor(whole, 0, (), ()),
        "flags": Tensor(flags, 0, (2,), (1,)),
        "empty": Tensor(floats, 0, (0,), (1,)),
        "containers": [collections.OrderedDict(a=1), {2, 3}, (4.5, None, "text"), True],
    }
    program = pickled(value, legacy=write is write_legacy)
    read = read_torch_file(write(tmp_path / "file.pth", program, [floats, whole, flags]))
    matrix = numbers.reshape(3, 4)
    np.testing.assert_array_equal(read["matrix"], matrix)
    np.testing.assert_array_equal(read["transposed"], matrix.T)
    np.testing.assert_array_equal(read["part"], matrix[1:, 1:3])
    assert read["scalar"].shape == () and read["scalar"] == 7
    np.testing.assert_array_equal(read["flags"], [True, False])
    assert read["matrix"].dtype == np.float32 and read["empty"].shape == (0,)
    assert read["containers"] == value["containers"]


@FORMATS
@pytest.mark.parametrize("offset, shape, strides", [(0, (3, 5), (4, 1)), (-1, (2,), (1,)), (11, (2,), (1,))])
def test_a_tensor_stays_within_its_storage(write, offset, shape, strides, tmp_path, torch_names):
    storage = Storage("0", "FloatStorage", np.zeros(12, np.float32))
    program = pickled(Tensor(storage, offset, shape, strides), write is write_legacy)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_torch_file(write(tmp_path / "file.pth", program, [storage]))


def test_an_unknown_type_of_number(tmp_path, torch_names):
    storage = Storage("0", "BFloat16Storage", np.zeros(2, np.uint16))
    program = pickled(Tensor(storage, 0, (2,), (1,)))
    with pytest.raises(ValueError, match="torch.BFloat16Storage"):
        read_torch_file(write_zip(tmp_path / "file.pth", program, [storage]))


class Settings:
    def __init__(self, **values):
        self.__dict__.update(values)


@FORMATS
def test_other_objects_hold_their_state(write, tmp_path):
    value = {"args": Settings(data="mnist", sizes=[1, 2]), "bare": Settings()}
    stored = read_torch_file(write(tmp_path / "file.pth", pickled(value)))
    assert type(stored["args"]) is not Settings and isinstance(stored["args"], StoredObject)
    assert stored["args"].path == f"{__name__}.Settings"
    assert stored["args"].state == {"data": "mnist", "sizes": [1, 2]}
    assert stored["bare"].state is None


def test_a_class_beside_its_source(tmp_path):
    """The legacy format refers so to the classes of modules."""
    reference = Settings()
    reference.persistent_id = ("module", Settings, "settings.py", "class Settings:\n    pass\n")
    stored = read_torch_file(write_legacy(tmp_path / "file.pth", pickled([reference])))
    assert issubclass(stored[0], StoredObject) and stored[0].path == f"{__name__}.Settings"


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touch(path):
    """What a payload would do; only the control calls it."""
    pathlib.Path(path).touch()


def payloads(marker):
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    yield "os.system", Call(os.system, f"touch {marker}")
    yield "subprocess.Popen", Call(subprocess.Popen, ["touch", str(marker)])
    yield "builtins.eval", Call(builtins.eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")
    yield "builtins.exec", Call(builtins.exec, code)
    yield "builtins.getattr", Call(getattr, "text", "upper")
    yield "operator.attrgetter", Call(operator.attrgetter, "upper")
    yield "collections.defaultdict", Call(collections.defaultdict, list)
    yield "test_torch_file.touch", Call(touch, str(marker))
    yield "argparse.Namespace", Call(Settings)


NAMES = [name for name, _ in payloads("")]


@FORMATS
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_a_call_is_refused(write, index, tmp_path):
    marker = tmp_path / "ran"
    _, payload = list(payloads(marker))[index]
    name = payload.function.__name__
    path = write(tmp_path / "file.pth", pickled({"state_dict": {}, "args": payload}))
    with pytest.raises(ValueError, match=rf"is refused: it would call [\w.]*{name}\b.*[Nn]othing"):
        read_torch_file(path)
    assert not marker.exists()


def test_the_payloads_would_run(tmp_path):
    """The control: `pickle.loads` runs them."""
    marker = tmp_path / "ran"
    for name, payload in payloads(marker):
        if name in ("os.system", "builtins.eval", "builtins.exec"):
            pickle.loads(pickled(payload))
            assert marker.exists(), name
            marker.unlink()


@pytest.mark.parametrize(
    "program",
    [
        b"(S'touch {marker}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {marker}'\no.",  # OBJ
        b"cos\nsystem\n(S'touch {marker}'\ntR.",  # REDUCE
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x06touch \x85R.",  # STACK_GLOBAL
        b"\x80\x02cargparse\nNamespace\n)\x81cos\nsystem\n(S'touch {marker}'\ntRb.",  # as a state
    ],
    ids=["INST", "OBJ", "REDUCE", "STACK_GLOBAL", "BUILD"],
)
@FORMATS
def test_every_opcode_that_calls_is_refused(write, program, tmp_path):
    marker = tmp_path / "ran"
    path = write(tmp_path / "file.pth", program.replace(b"{marker}", os.fsencode(marker)))
    with pytest.raises(ValueError, match="is refused: it would call os.system"):
        read_torch_file(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {marker}'\nt\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\n(S'touch {marker}'\nt}\x92.",  # NEWOBJ_EX
        b"cos\nsystem\n.",
    ],
    ids=["NEWOBJ", "NEWOBJ_EX", "GLOBAL"],
)
def test_a_name_alone_is_inert(program, tmp_path):
    marker = tmp_path / "ran"
    path = write_zip(tmp_path / "file.pth", program.replace(b"{marker}", os.fsencode(marker)))
    stored = read_torch_file(path)
    assert stored.path == "os.system" and stored.state is None
    assert not marker.exists()


def test_a_stored_class_cannot_be_changed(tmp_path):
    """A state for a class, or for the function that rebuilds a tensor, instead of an object."""
    for name in (b"argparse\nNamespace", b"collections\nOrderedDict", b"torch._utils\n_rebuild_tensor_v2"):
        program = b"\x80\x02c" + name + b"\nN}U\x08__call__K\x01s\x86b."
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_torch_file(write_zip(tmp_path / "file.pth", program))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])  # zip and legacy
@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_truncated_file(name, share, checkpoint_path, tmp_path):
    whole = checkpoint_path(name).read_bytes()
    path = tmp_path / "file.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="file.pth is not a file of torch.save, or it is truncated or damaged"):
        read_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": 1}), pickle.dumps(MAGIC) * 3])
def test_another_file(content, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a file of torch.save"):
        read_torch_file(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="Cannot read .*none.pth: No such file"):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="Is a directory"):
        read_torch_file(tmp_path)


def refuse(path, reason):
    with pytest.raises(ValueError, match=reason):
        read_torch_file(path)


@FORMATS
@pytest.mark.parametrize(
    "size, offset, shape, strides",
    [
        (0, 0, (4096,), (1,)),
        (0, 0, (2**30,), (1,)),
        (4, 0, (-1,), (1,)),
        (4, 0, (3, 3), (2**60, 2**60)),
        (4, 0, (5,), (2**62,)),
        (4, 3, (4,), (-1,)),
        (4, 0, (2**40,), (0,)),
        (4, 4, (1,), (1,)),
        (4, 0, (2,), (1, 1)),
        (4, 0, (1.0,), (1,)),
        (4, 0, (1,) * 65, (1,) * 65),
        (4, 2**70, (1,), (1,)),
    ],
)
def test_no_memory_beside_the_storage(write, size, offset, shape, strides, tmp_path, torch_names):
    storage = Storage("0", "FloatStorage", np.zeros(size, np.float32))
    program = pickled(Tensor(storage, offset, shape, strides), write is write_legacy)
    refuse(write(tmp_path / "file.pth", program, [storage]), "a tensor of|of -1|a float|a length|an? offset")


@FORMATS
@pytest.mark.parametrize("listed", [[], ["0"], ["0", "1", "2"], ["0", "0", "1"]])
def test_the_storages_listed_are_those_used(write, listed, tmp_path, torch_names):
    storages = {key: Storage(key, "FloatStorage", np.ones(2, np.float32)) for key in "012"}
    program = pickled([Tensor(storages[key], 0, (2,), (1,)) for key in "01"], write is write_legacy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of names that are there twice
        path = write(tmp_path / "file.pth", program, [storages[key] for key in listed])
    refuse(path, "it lists|no item named")


def test_a_compressed_entry_or_one_of_another_size(tmp_path, torch_names):
    storage = Storage("0", "FloatStorage", np.zeros(2**16, np.float32))
    program = pickled(Tensor(storage, 0, (2**16,), (1,)))
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program, zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", storage.numbers.tobytes())
    refuse(path, "larger than the file")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
    refuse(path, "is compressed")
    other = Storage("0", "FloatStorage", np.zeros(2**16 + 1, np.float32))
    refuse(write_zip(path, program, [other]), "262148 bytes instead of 262144")


def test_big_endian_numbers(tmp_path):
    path = write_zip(tmp_path / "file.pth", pickle.dumps({}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "bigger")
    refuse(path, "big-endian")


def repeated(name):
    """Calls of one function with one list."""
    return b"\x80\x02c" + name + b"q\x000]q\x01(" + b"K\x01" * 60 + b"e0(" + b"h\x00h\x01\x85R" * 2000 + b"t."


HOSTILE = {
    "memo": (b"\x80\x02Nr\x00\x00\x00\x08.", "index 134217728 of its memo"),
    "repeated Size": (repeated(b"torch\nSize\n"), "repeats"),
    "repeated set": (repeated(b"__builtin__\nset\n"), "repeats"),
    "long Size": (b"\x80\x02ctorch\nSize\n](" + b"K\x01" * 65 + b"e\x85R.", "65 dimensions"),
    "deep key": (b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.", "tuple of more than"),
    "doubling key": (b"\x80\x02}N" + b"2\x86" * 100 + b"Ns.", "tuple of more than"),
    "long bytes": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "bytearray8"),
    "long text": (b"\x80\x02X\xff\xff\xff\x7f.", "unicodestring4"),
    "no tensor": (b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x88N\x87R.", "a parameter that is not a tensor"),
    "no class": (b"\x80\x02U\x06moduleN\x86Q.", "unknown kind of object"),
    "changed function": (b"\x80\x02ctorch\nSize\n}U\x01aK\x01sb.", "a state for a function"),
}


@FORMATS
@pytest.mark.parametrize("program, reason", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_takes_no_more_than_its_size(write, program, reason, tmp_path):
    path = write(tmp_path / "file.pth", program)
    tracemalloc.start()
    try:
        refuse(path, reason)
        assert tracemalloc.get_traced_memory()[1] < 1e6 + 200 * len(program)
    finally:
        tracemalloc.stop()


def arrays(value, seen):
    """All arrays that were read, in whatever holds them."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, StoredObject):
        yield from arrays(value.state, seen)
    elif isinstance(value, dict):
        yield from arrays(list(value.values()), seen)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from arrays(part, seen)


@pytest.mark.parametrize("name", ["mixed_norms", "hybrid"])  # zip and legacy
def test_mutated_files(name, checkpoint_path, tmp_path):
    """A ValueError, or arrays that are in the file: 150 mutations, half of them where the pickle is."""
    whole = checkpoint_path(name).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "file.pth"
    outcomes = collections.Counter()
    for step in range(150):
        content = bytearray(whole)
        end = 12_000 if step % 2 else len(whole)
        for _ in range(random.integers(1, 4)):
            at, kind = int(random.integers(end)), random.integers(4)
            if kind == 0:
                content[at] = random.integers(256)
            elif kind == 1:
                content[at] ^= 1 << random.integers(8)
            elif kind == 2:
                del content[at : at + int(random.integers(1, 9))]
            else:
                content[at:at] = content[at : at + int(random.integers(1, 200))]
        if name == "mixed_norms" and step % 4:  # so that checksums do not catch it
            content = recomputed(whole, content)
        path.write_bytes(content)
        try:
            read = read_torch_file(path)
        except ValueError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert sum(array.nbytes for array in arrays(read, {})) <= 20 * len(content)
            [array.tobytes() for array in arrays(read, {})]
    assert min(outcomes["refused"], outcomes["read"]) > 5, outcomes


def recomputed(whole, content):
    """A zip file with the entries of another, and the mutated bytes at their place in the pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(file, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                start = whole.index(data)
                data = bytes(content[start : start + len(data)])
            target.writestr(entry.filename, data)
    return file.getvalue()
