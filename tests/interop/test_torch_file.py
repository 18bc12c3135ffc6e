"""The reader: formats, tensors, stubs, and files that would run something."""

import builtins
import collections
import io
import operator
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest

from tf_resflow.interop import torch_file
from tf_resflow.interop.torch_file import StoredObject, read_torch_file

pytestmark = pytest.mark.quick

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage:
    """Numbers that a pickle refers to by a key."""

    def __init__(self, key, kind, numbers):
        self.key, self.kind, self.numbers = key, kind, numbers


class Name:
    """Pickled as a function or a class of this path, which need not be installed."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        """What pickle calls must be callable."""


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Pickler(pickle._Pickler):
    view = ()

    def persistent_id(self, value):
        if isinstance(value, Storage):
            kind = Name("torch", value.kind)
            return ("storage", kind, value.key, "cpu", len(value.numbers), *self.view)
        return getattr(value, "persistent_id", None)

    def save_name(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    dispatch = pickle._Pickler.dispatch | {Name: save_name}


class LegacyPickler(Pickler):
    view = (None,)


def pickled(value, pickler=Pickler):
    file = io.BytesIO()
    pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(storage, offset, shape, strides):
    """Pickled as PyTorch pickles a tensor."""
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, collections.OrderedDict())


def parameter(*arguments):
    return Call(Name("torch._utils", "_rebuild_parameter"), tensor(*arguments), True, collections.OrderedDict())


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


def saved(write, path, value, storages=()):
    return write(path / "file.pth", pickled(value, LegacyPickler if write is write_legacy else Pickler), storages)


def refuse(path, reason):
    with pytest.raises(ValueError, match=reason):
        read_torch_file(path)


@FORMATS
def test_tensors(write, tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    floats = Storage("0", "FloatStorage", numbers)
    whole = Storage("1", "LongStorage", np.array([7], np.int64))
    flags = Storage("2", "BoolStorage", np.array([True, False]))
    value = {
        "matrix": tensor(floats, 0, (3, 4), (4, 1)),
        "transposed": tensor(floats, 0, (4, 3), (1, 4)),
        "part": parameter(floats, 5, (2, 2), (4, 1)),
        "scalar": tensor(whole, 0, (), ()),
        "flags": tensor(flags, 0, (2,), (1,)),
        "empty": tensor(floats, 0, (0,), (1,)),
        "containers": [collections.OrderedDict(a=1), (4.5, None, "text"), True],
        "set": {2},
    }
    read = read_torch_file(saved(write, tmp_path, value, [floats, whole, flags]))
    matrix = numbers.reshape(3, 4)
    np.testing.assert_array_equal(read["matrix"], matrix)
    np.testing.assert_array_equal(read["transposed"], matrix.T)
    np.testing.assert_array_equal(read["part"], matrix[1:, 1:3])
    assert read["scalar"].shape == () and read["scalar"] == 7
    np.testing.assert_array_equal(read["flags"], [True, False])
    assert read["matrix"].dtype == np.float32 and read["empty"].shape == (0,)
    assert read["containers"] == value["containers"] and read["set"] == [2]


class Settings:
    def __init__(self, **values):
        self.__dict__.update(values)


@FORMATS
def test_other_objects_hold_their_state(write, tmp_path):
    value = {"args": Settings(data="mnist", sizes=[1, 2]), "bare": Settings()}
    stored = read_torch_file(saved(write, tmp_path, value))
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


CODE = "__import__('pathlib').Path('{}').touch()"


@FORMATS
@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, ["touch {}"]),
        (builtins.eval, [CODE]),
        (builtins.exec, [CODE]),
        (subprocess.Popen, [["touch", "a"]]),
        (builtins.getattr, ["text", "upper"]),
        (operator.attrgetter, ["upper"]),
        (collections.defaultdict, [list]),
        (Settings, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_call_is_refused(write, function, arguments, tmp_path):
    marker = tmp_path / "ran"
    payload = Call(function, *[part.format(marker) if isinstance(part, str) else part for part in arguments])
    path = saved(write, tmp_path, {"state_dict": {}, "args": payload})
    refuse(path, rf"is refused: it would call [\w.]*{function.__name__}\b.*[Nn]othing")
    assert not marker.exists()
    if "{}" in str(arguments):  # the control
        pickle.loads(pickled(payload))
        assert marker.exists()


@FORMATS
@pytest.mark.parametrize(
    "program, is_call",
    [
        (b"(S'touch {}'\nios\nsystem\n.", True),  # INST
        (b"(cos\nsystem\nS'touch {}'\no.", True),  # OBJ
        (b"cos\nsystem\n(S'touch {}'\ntR.", True),  # REDUCE
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x06touch \x85R.", True),  # STACK_GLOBAL
        (b"\x80\x02cargparse\nNamespace\n)\x81cos\nsystem\n(S'touch {}'\ntRb.", True),  # BUILD
        (b"cos\nsystem\n(S'touch {}'\nt\x81.", False),  # NEWOBJ
        (b"\x80\x04cos\nsystem\n(S'touch {}'\nt}\x92.", False),  # NEWOBJ_EX
        (b"cos\nsystem\n.", False),  # GLOBAL
    ],
)
def test_every_opcode_that_calls_is_refused_and_a_name_is_inert(write, program, is_call, tmp_path):
    marker = tmp_path / "ran"
    path = write(tmp_path / "file.pth", program.replace(b"{}", os.fsencode(marker)))
    if is_call:
        refuse(path, "is refused: it would call os.system")
    else:
        stored = read_torch_file(path)
        assert stored.path == "os.system" and stored.state is None
    assert not marker.exists()


def test_a_stored_class_cannot_be_changed(tmp_path):
    """A state for a class, or for the function that rebuilds a tensor, instead of an object."""
    for name in (b"argparse\nNamespace", b"collections\nOrderedDict", b"torch._utils\n_rebuild_tensor_v2"):
        program = b"\x80\x02c" + name + b"\nN}U\x08__call__K\x01s\x86b."
        refuse(write_zip(tmp_path / "file.pth", program), "truncated or damaged")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])  # zip and legacy
def test_a_truncated_file(name, checkpoint_path, tmp_path):
    whole = checkpoint_path(name).read_bytes()
    path = tmp_path / "file.pth"
    for share in (0.001, 0.3, 0.7, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        refuse(path, "file.pth is not a file of torch.save, or it is truncated or damaged")


def test_another_file(tmp_path):
    path = tmp_path / "file.pth"
    refuse(path, "Cannot read .*file.pth: No such file")
    refuse(tmp_path, "Is a directory")
    for content in (b"", b"text", pickle.dumps({"a": 1}), pickle.dumps(MAGIC) * 3):
        path.write_bytes(content)
        refuse(path, "is not a file of torch.save")


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
        (12, 0, (3, 5), (4, 1)),
        (12, -1, (2,), (1,)),
        (12, 11, (2,), (1,)),
    ],
)
def test_a_tensor_stays_within_its_storage(write, size, offset, shape, strides, tmp_path):
    """It takes no memory beside it."""
    storage = Storage("0", "FloatStorage", np.zeros(size, np.float32))
    path = saved(write, tmp_path, tensor(storage, offset, shape, strides), [storage])
    refuse(path, "a tensor of|not a count|is longer|is shorter")


@pytest.mark.parametrize("listed", ["", "0", "012", "001"])
def test_the_storages_listed_are_those_used(listed, tmp_path):
    storages = {key: Storage(key, "FloatStorage", np.ones(2, np.float32)) for key in "012"}
    tensors = [tensor(storages[key], 0, (2,), (1,)) for key in "01"]
    refuse(saved(write_legacy, tmp_path, tensors, [storages[key] for key in listed]), "it lists")


def test_an_unknown_type_of_number(tmp_path):
    storage = Storage("0", "BFloat16Storage", np.zeros(2, np.uint16))
    refuse(saved(write_zip, tmp_path, tensor(storage, 0, (2,), (1,)), [storage]), "torch.BFloat16Storage")


def test_a_compressed_entry_or_one_of_another_size(tmp_path):
    storage = Storage("0", "FloatStorage", np.zeros(2**16, np.float32))
    program = pickled(tensor(storage, 0, (2**16,), (1,)))
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
    "long bytes": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "bytearray8"),
    "long text": (b"\x80\x02X\xff\xff\xff\x7f.", "unicodestring4"),
    "no tensor": (b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x88N\x87R.", "a parameter that is not a tensor"),
    "no class": (b"\x80\x02U\x06moduleN\x86Q.", "must be a class"),
    "changed function": (b"\x80\x02ctorch\nSize\n}U\x01aK\x01sb.", "a state for a function"),
    "copies of a list": (repeated(b"collections\nOrderedDict\n"), "takes 0 positional arguments"),
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


@pytest.mark.parametrize("name", [b"torch\nSize\n", b"__builtin__\nset\n"])
def test_calls_that_repeat_a_list_do_not_copy_it(name, tmp_path):
    lists = read_torch_file(write_zip(tmp_path / "file.pth", repeated(name)))
    assert len(lists) == 2000 and all(item is lists[0] for item in lists)


@pytest.mark.parametrize("name", ["mixed_norms", "hybrid"])  # zip and legacy
def test_mutated_files(name, checkpoint_path, tmp_path, monkeypatch):
    """A ValueError, or arrays that are in the file: 100 mutations, half of them where the pickle is."""
    made, path = [], "torch._utils._rebuild_tensor_v2"
    rebuild = torch_file._FUNCTIONS[path]
    recorded = torch_file._Function(lambda *parts: made.append(rebuild(*parts)) or made[-1])
    monkeypatch.setitem(torch_file._FUNCTIONS, path, recorded)
    monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)  # checksums would catch most
    whole = checkpoint_path(name).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "file.pth"
    outcomes = collections.Counter()
    for step in range(100):
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
        path.write_bytes(content)
        made.clear()
        try:
            read_torch_file(path)
        except ValueError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert sum(array.nbytes for array in made) <= 20 * len(content)
            [array.tobytes() for array in made]
    assert min(outcomes["refused"], outcomes["read"]) > 5, outcomes
